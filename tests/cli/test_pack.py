"""`vitkit data pack` from the shell."""

import json
from pathlib import Path

import pytest
from PIL import Image

from vitkit.data.sources import open_source


def test_packs_and_says_what(vitkit_command, colours: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    done = vitkit_command("data", "pack", colours, out, "--shard-size", "0.02")
    assert done.code == 0
    files = sorted(path.name for path in out.iterdir())
    assert files[0] == "shards.json" and len(files) > 4
    assert done.out.startswith(f"train 60  in {len(files) - 1} shards, 0.")
    assert done.out.endswith(f" MB: {out}\n")
    assert len(open_source(out).samples) == 60
    assert all(path.stat().st_size <= 20_000 for path in out.glob("*.tar"))


def test_json_has_the_same(vitkit_command, colours: Path, tmp_path: Path) -> None:
    done = vitkit_command("data", "pack", colours, tmp_path / "shards", "--json")
    found = json.loads(done.out)
    assert found["images"] == 60 and found["splits"] == {"train": 60} and found["files"] == 1
    assert found["classes"] == ["blue", "green", "red"] and found["unreadable"] == []
    assert found["bytes"] == (tmp_path / "shards" / "train-000000.tar").stat().st_size


def test_one_split_alone(vitkit_command, tmp_path: Path) -> None:
    for name in ("train/a/1", "train/b/2", "validation/a/3", "validation/b/4"):
        path = tmp_path / "in" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3, 3), (int(name[-1]), 0, 0)).save(path)
    done = vitkit_command("data", "pack", tmp_path / "in", tmp_path / "out", "--split", "val")
    assert done.code == 0
    assert [path.name for path in (tmp_path / "out").glob("*.tar")] == ["val-000000.tar"]


def test_what_cannot_be_packed_is_listed_with_exit_code_1(vitkit_command, tmp_path: Path) -> None:
    (tmp_path / "in" / "a").mkdir(parents=True)
    Image.new("RGB", (3, 3)).save(tmp_path / "in" / "a" / "1.png")
    (tmp_path / "in" / "a" / "2.png").write_bytes(b"text\x1b[2J")
    done = vitkit_command("data", "pack", tmp_path / "in", tmp_path / "out")
    assert done.code == 1
    assert "a/2.png" in done.err and "\x1b" not in done.err
    assert done.out.startswith("train 1 ")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["{colours}", "{tmp}"], "exists"),
        (["{colours}", "{tmp}/x", "--split", "tran"], "did you mean 'train'?"),
        (["{colours}", "{tmp}/x", "--split", "test"], "no split 'test'"),
        (["{tmp}/none", "{tmp}/x"], "does not exist"),
        (["{colours}", "{tmp}/x", "--shard-size", "0"], "shard-size"),
        (["http://host/a.tar", "{tmp}/x"], "for training only"),
    ],
)
def test_mistakes_are_one_line(
    vitkit_command, arguments: list[str], word: str, colours: Path, tmp_path: Path
) -> None:
    filled = [argument.format(colours=colours, tmp=tmp_path) for argument in arguments]
    done = vitkit_command("data", "pack", *filled)
    assert (done.code, done.out) == (2, "")
    assert word in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_without_a_command_data_says_where_to_look(vitkit_command) -> None:
    done = vitkit_command("data")
    assert done.code == 2 and "vitkit data --help" in done.err
    assert "pack" in vitkit_command("data", "--help").out
