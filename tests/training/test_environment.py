"""What settings come to on a machine, and what a run writes of it."""

import json
from pathlib import Path

import pytest
import torch

from vitkit.runtime import device as runtime
from vitkit.training.config import resolve
from vitkit.training.environment import (
    describe_environment,
    note_resumption,
    read_environment,
    settled,
    write_environment,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize(("gains", "precision"), [(True, "bf16"), (False, "fp32")])
def test_what_is_left_to_the_machine_is_settled(
    monkeypatch: pytest.MonkeyPatch, gains: bool, precision: str
) -> None:
    monkeypatch.setattr(runtime, "gains_from_bf16", lambda device: gains)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("vitkit.training.environment.default_workers", lambda: 7)
    resolved = resolve(["epochs=3"])
    rows = {row.key: (row.value, row.origin) for row in settled(resolved)}
    assert list(rows) == [row.key for row in resolved.rows()]
    assert rows["precision"] == (precision, "this machine")
    assert rows["device"] == ("cpu", "this machine")
    assert rows["threads"] == (torch.get_num_threads(), "this machine")
    assert rows["data.workers"] == (7, "this machine")
    assert rows["epochs"] == (3, "command line")
    assert describe_environment(CPU, resolved.settings)["precision"] == precision


def test_what_is_given_stays() -> None:
    given = ["precision=bf16", "device=cpu", "threads=5", "data.workers=2"]
    rows = {row.key: row for row in settled(resolve(given))}
    for setting in given:
        row = rows[setting.partition("=")[0]]
        assert (str(row), row.origin) == (setting, "command line")


def test_a_resumption_adds_only_what_is_different(tmp_path: Path) -> None:
    start = {"torch": "1", "threads": "2", "started": "monday"}
    write_environment(tmp_path, start)
    assert read_environment(tmp_path) == start
    before = (tmp_path / "env.json").read_text()
    note_resumption(tmp_path, {**start, "started": "tuesday"})
    assert (tmp_path / "env.json").read_text() == before
    for day in ("wednesday", "thursday"):
        note_resumption(tmp_path, {**start, "started": day, "threads": "1"})
    note_resumption(tmp_path, {**start, "started": "friday"})
    assert json.loads((tmp_path / "env.json").read_text()) == {
        **start,
        "resumed": [
            {"threads": "1", "started": "wednesday"},
            {"threads": "2", "started": "friday"},
        ],
    }
    said = "started wednesday, threads 1; started friday, threads 2"
    assert read_environment(tmp_path) == {**start, "resumed": said}
