from pathlib import Path

import numpy as np
import pytest

from vitkit.data.audit import (
    check_classes,
    check_contents,
    check_counts,
    check_unreadable,
    content_key,
    load_contents,
    save_contents,
    summarise,
)
from vitkit.data.sources import Sample, Source
from vitkit.errors import DataError


def image(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)


def test_key_tells_shape_and_every_pixel() -> None:
    a = image(4, 6, 3)
    assert content_key(a) == content_key(a.copy()) and len(content_key(a)) == 16
    others = [a.reshape(6, 4, 3), a.reshape(4, 6, 3, 1), image(4, 6, 4), a.view(np.int8)]
    for index in np.ndindex(*a.shape):
        others.append(a.copy())
        others[-1][index] ^= 1
    assert len({content_key(a), *map(content_key, others)}) == len(others) + 1


def test_key_does_not_depend_on_memory_layout() -> None:
    a = image(4, 6, 3)
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, ::2] = a
    read_only = a.copy()
    read_only.flags.writeable = False
    same = [np.asfortranarray(a), wide[:, ::2], a[::-1][::-1], read_only]
    assert {content_key(other) for other in same} == {content_key(a)}
    assert content_key(a[:, ::-1]) != content_key(a)


def source(*rows: tuple[str, int]) -> Source:
    samples = tuple(Sample(name, label) for name, label in rows)
    return Source("pets", ("cat", "cow", "dog"), samples, lambda index: image(1, 1, 3), ("x.jpg",))


def test_summary_by_hand() -> None:
    data = source(("1", 0), ("2", 0), ("3", 2), ("4", 2), ("5", 0), ("6", 0), ("7", 2))
    splits = ["train", "test", "train", "val", "train", "train", "test"]
    keys = [b"a", b"a", b"b", b"b", b"b", None, b"c"]
    summary = summarise(data, splits, keys, [("6", "damaged")])
    assert summary.counts == {"train": [2, 0, 1], "test": [1, 0, 1], "val": [0, 0, 1]}
    assert summary.images == 6
    assert summary.duplicates == 3  # 2, 4 and 5
    assert summary.leaks == 2  # 2 and 4
    assert summary.conflicts == 3  # 3, 4 and 5: a cat that is a dog as well
    assert summary.imbalance == float("inf")
    assert summary.unreadable == (("6", "damaged"),) and summary.skipped == ("x.jpg",)
    assert (summary.source, summary.classes) == ("pets", ("cat", "cow", "dog"))


def labelled(*rows: tuple[str, str | None]) -> Source:
    """One sample of each (class, split)."""
    classes = tuple(sorted({label for label, _ in rows}))
    samples = tuple(Sample(str(i), classes.index(row[0]), row[1]) for i, row in enumerate(rows))
    return Source("pets", classes, samples, lambda index: image(1, 1, 3))


def test_one_class_is_nothing_to_learn() -> None:
    with pytest.raises(DataError, match="pets has one class only, 'cat'; .* two to learn"):
        check_classes(labelled(("cat", None), ("cat", "test")))


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_class_unknown_in_train_is_refused(split: str) -> None:
    rows = [("tulip", "train"), ("rose", None), ("tulips", split)]
    with pytest.raises(DataError, match=f"'tulips' is in {split} .* did you mean 'tulip'"):
        check_classes(labelled(*rows))


def test_classes_in_train_may_be_absent_elsewhere() -> None:
    check_classes(labelled(("a", "train"), ("b", "train"), ("a", "test")))


def test_one_image_of_each_class_leaves_none_to_score_on() -> None:
    with pytest.raises(DataError, match="pets has one image of each class, .*; add images, or set"):
        check_counts(labelled(("a", None), ("b", None), ("c", None)))
    check_counts(labelled(("a", None), ("b", None), ("b", None)))
    check_counts(labelled(("a", "train"), ("b", "train")))  # as its own splits say


def test_imbalance_is_of_all_splits() -> None:
    data = source(("1", 0), ("2", 1), ("3", 2), ("4", 2), ("5", 2))
    summary = summarise(data, ["train", "test", "train", "val", "test"], list("abcde"))
    assert summary.imbalance == 3.0


@pytest.mark.parametrize(
    ("bad", "total", "fails"), [(0, 0, False), (1, 100, False), (2, 199, True)]
)
def test_one_percent_may_be_unreadable(bad: int, total: int, fails: bool) -> None:
    unreadable = [(f"{number}.jpg", "empty") for number in range(bad)]
    if not fails:
        return check_unreadable(unreadable, total)
    with pytest.raises(DataError, match="2 of 199 images .* 0.jpg: empty; 1.jpg: empty$"):
        check_unreadable(unreadable, total)


def test_at_most_20_unreadable_files_are_named() -> None:
    unreadable = [(f"{number}.jpg", "empty") for number in range(25)]
    with pytest.raises(DataError, match="19.jpg: empty; and 5 more$") as error:
        check_unreadable(unreadable, 30)
    assert "20.jpg" not in str(error.value)
    check_unreadable(unreadable, 30, limit=0.9)


NAMES = ["a/1.jpg", "b,ü/2.jpg", "\udcff", "Icon\r"]
KEYS = [b"\x01" * 16, None, b"\xfe" * 16, b"\x01" * 16]


def test_contents_come_back(tmp_path: Path) -> None:
    path = tmp_path / "contents.csv"
    save_contents(path, NAMES, KEYS)
    lines = path.read_bytes().split(b"\n")
    assert lines[:3] == [b"file_name,content", b"a/1.jpg," + b"01" * 16, '"b,ü/2.jpg",'.encode()]
    assert load_contents(path) == dict(
        zip(NAMES, ["01" * 16, "", "fe" * 16, "01" * 16], strict=True)
    )
    assert check_contents(path, NAMES, KEYS) is None
    assert check_contents(path, NAMES[::-1], KEYS[::-1]) is None  # in whatever order
    assert [file.name for file in tmp_path.iterdir()] == ["contents.csv"]


@pytest.mark.parametrize(
    ("names", "keys", "told"),
    [
        (NAMES, [None, *KEYS[1:]], "'a/1.jpg' is no longer readable; restore it"),
        (NAMES, [b"\x02" * 16, *KEYS[1:]], "'a/1.jpg' has other pixels; restore it"),
        (NAMES, [KEYS[0], b"\0" * 16, *KEYS[2:]], "'b,ü/2.jpg' is readable now; restore it"),
        (["new", *NAMES], [None, *KEYS], "'new' is new; remove it"),
        (["new", *NAMES], [b"\x01" * 16, *KEYS], "'new' is new; remove it"),
        (NAMES[2:], KEYS[2:], "'a/1.jpg' is gone; restore it"),
        (NAMES[::2], KEYS[::2], "'b,ü/2.jpg' is gone; restore it"),
        ([], [], "'a/1.jpg' is gone; restore it"),
        (NAMES, [None, None, None, None], "'a/1.jpg' is no longer readable; restore it"),
    ],
)
def test_the_first_change_is_told(
    tmp_path: Path, names: list[str], keys: list[bytes | None], told: str
) -> None:
    save_contents(tmp_path / "c.csv", NAMES, KEYS)
    with pytest.raises(DataError) as error:
        check_contents(tmp_path / "c.csv", names, keys)
    expected = f"the data changed since the run started: {told}, take it as it is with "
    assert str(error.value) == expected + "--allow-changes, or start a new run"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("file_name,content\na,00\na,01\n", "line 3: 'a' is there twice"),
        ("file_name,content\na\n", "line 2: 1 fields"),
        ("file_name,label\na,b\n", r"no column 'content' .*; name the columns file_name,content"),
        (None, "cannot be read"),
    ],
)
def test_damaged_contents_are_told(tmp_path: Path, content: str | None, told: str) -> None:
    if content is not None:
        (tmp_path / "c.csv").write_text(content)
    with pytest.raises(DataError, match=told):
        load_contents(tmp_path / "c.csv")


def test_as_many_keys_as_names(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="zip"):
        save_contents(tmp_path / "c.csv", NAMES, KEYS[1:])
    assert list(tmp_path.iterdir()) == []
