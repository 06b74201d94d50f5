"""Names of shards: folders, patterns, lists and indices, here and behind URLs."""

import json
from pathlib import Path

import pytest

from dropping_server import serving
from vitkit.data.shards.find import MAX_SHARDS, expand, find_shards, split_of
from vitkit.data.shards.index import FORMAT, Index, Shard, parse
from vitkit.errors import DataError


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{000..002}.tar", ["a-000.tar", "a-001.tar", "a-002.tar"]),
        ("{9..11}", ["9", "10", "11"]),
        ("{2..1}", ["2", "1"]),
        ("{train,val}-{0..1}", ["train-0", "train-1", "val-0", "val-1"]),
        ("a{}b", ["ab"]),
    ],
)
def test_braces(pattern: str, expected: list[str]) -> None:
    assert list(expand(pattern)) == expected


def test_a_vast_pattern_is_refused_at_once() -> None:
    for pattern in (f"{{0..{MAX_SHARDS}}}", "{0..999999999999}", "{0..9999}{0..9999}"):
        with pytest.raises(DataError, match="over 1,000,000"):
            expand(pattern)


@pytest.mark.parametrize(
    ("address", "split"),
    [
        ("train-000.tar", "train"),
        ("a/imagenet1k-validation-64.tar", "val"),
        ("http://host/x/test_1.tar?train=1", "test"),
        ("valid/0001.tar", "val"),
        ("latest-0.tar", None),
        ("trainer/0.tar", None),
    ],
)
def test_splits_by_name(address: str, split: str | None) -> None:
    assert split_of(address) == split


def names(data: str) -> list[str]:
    return [Path(shard.name).name for shard in find_shards(data).shards]


def test_folders_patterns_and_lists(tmp_path: Path) -> None:
    for name in ("train/0.tar", "train/1.tar", "val/0.tar", ".hidden/0.tar", "train/.x.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    shards = find_shards(str(tmp_path)).shards
    assert [shard.split for shard in shards] == ["train", "train", "val"]
    assert names(f"{tmp_path}/train/*.tar") == ["0.tar", "1.tar"]
    assert names(f"{tmp_path}/{{train,val}}/0.tar") == ["0.tar", "0.tar"]
    (tmp_path / "list.txt").write_text("# mine\ntrain/{0..1}.tar\n\nhttp://host/val-{7..8}.tar\n")
    assert names(f"{tmp_path}/list.txt") == ["0.tar", "1.tar", "val-7.tar", "val-8.tar"]


@pytest.mark.parametrize(
    ("data", "word"),
    [
        ("none/*.tar", "names no .tar"),
        ("none-{0..3}.tar", "none-0.tar does not exist"),
        ("s3://bucket/a.tar", "use the URL"),
        ("pipe:rm x.tar", "use the URL"),
    ],
)
def test_what_is_not_there(data: str, word: str) -> None:
    with pytest.raises(DataError, match=word):
        find_shards(data)


def test_the_same_shard_twice(tmp_path: Path) -> None:
    (tmp_path / "a.tar").touch()
    (tmp_path / "x.txt").write_text("a.tar\na.tar\n")
    with pytest.raises(DataError, match="twice"):
        find_shards(f"{tmp_path}/x.txt")


def test_the_index_beside_them_tells_of_all(colour_shards: Path) -> None:
    index = find_shards(str(colour_shards))
    assert index.classes == ("blue", "green", "red")
    assert sum(shard.samples or 0 for shard in index.shards) == 60
    files = {f"/s/{path.name}": path.read_bytes() for path in colour_shards.iterdir()}
    with serving(files) as server:
        last = len(index.shards) - 1
        for data in ("s/shards.json", f"s/train-{{000000..{last:06}}}.tar?key=1"):
            remote = find_shards(f"{server.url}/{data}")
            assert remote.classes == index.classes
            assert [one.counts for one in remote.shards] == [one.counts for one in index.shards]
            assert remote.shards[1].name.startswith(f"{server.url}/s/train-000001.tar")
        with pytest.raises(DataError, match=r"train-000099.tar is not in the index"):
            find_shards(f"{server.url}/s/train-000099.tar")
        assert find_shards(f"{server.url}/other/a.tar") == Index(
            (), (Shard(f"{server.url}/other/a.tar"),)
        )


SHARD = {"name": "a.tar", "split": None, "samples": 2, "bytes": 9, "sha256": "", "counts": {"0": 2}}


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"classes": [1]},
        {"shards": []},
        {"shards": [SHARD, SHARD]},
        {"shards": [{**SHARD, "name": "../a.tar"}]},
        {"shards": [{**SHARD, "samples": -1}]},
        {"shards": [{**SHARD, "samples": True}]},
        {"shards": [{**SHARD, "split": "x"}]},
        {"shards": [{**SHARD, "counts": {"1": 1}}]},
        {"shards": [{**SHARD, "counts": {"0": 3}}]},
        {"shards": [{"name": "a.tar"}]},
        {"shards": 3},
    ],
)
def test_a_wrong_index_is_one_line(change: dict[str, object]) -> None:
    right = {"format": FORMAT, "classes": ["x"], "shards": [SHARD]}
    assert parse(json.dumps(right).encode(), "i").shards[0].counts == {0: 2}
    with pytest.raises(DataError, match="^i is no index of shards"):
        parse(json.dumps({**right, **change}).encode(), "i")


@pytest.mark.parametrize("text", [b"", b"[]", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_no_index(text: bytes) -> None:
    with pytest.raises(DataError, match="^i is no index of shards"):
        parse(text, "i")
