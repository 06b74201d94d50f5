"""`vitkit settings`."""

import json

from vitkit.training.config import known_keys
from vitkit.training.settings import TrainSettings


def test_all_have_a_default_and_a_meaning(vitkit_command) -> None:
    done = vitkit_command("settings", "--json")
    assert (done.code, done.err) == (0, "")
    rows = {row["key"]: row for row in json.loads(done.out)}
    assert set(rows) == {key for key in known_keys() if not key.startswith("model.")}
    assert [key for key, row in rows.items() if len(row["meaning"]) < 8] == []
    for key, row in rows.items():
        section, _, name = key.rpartition(".")
        settings = TrainSettings()
        value = getattr(getattr(settings, section) if section else settings, name)
        assert row["default"] == (list(value) if isinstance(value, tuple) else value)
    assert rows["optimizer"]["meaning"].endswith("(adamw, lamb, sgd, muon)")
    assert rows["data.loading"]["meaning"].startswith("decode once, or for every epoch; or")


def test_a_table_of_some(vitkit_command) -> None:
    done = vitkit_command("settings", "augment.*")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].split()[:2] == ["augment.mirror", "true"]
    assert len({line.index(meaning) for line in lines for meaning in [line.split(None, 2)[2]]}) == 1
    assert all(line.startswith("augment.") for line in lines)


def test_none_of_that_name(vitkit_command) -> None:
    def said(pattern: str) -> str:
        done = vitkit_command("settings", pattern)
        assert done.code == 2
        return str(done.err)

    assert said("zz*") == "vitkit: no setting is called 'zz*'; `vitkit settings` lists all\n"
    assert said("augment.miror").endswith("did you mean 'augment.mirror'?\n")
    assert "--dry-run` lists them" in said("model.*")
