import os
import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from vitkit.data.split import load_split, match_split, resolve, save_split
from vitkit.errors import ConfigError, DataError


@dataclass
class Sample:
    name: str
    label: int | None
    split: str | None = None


def sizes(splits: list[str]) -> dict[str, int]:
    return dict(Counter(splits))


def cut(
    labels: list[int],
    groups: Sequence[Hashable] | None = None,
    *,
    test: float = 0.0,
    val: float = 0.0,
    seed: int = 0,
) -> list[str]:
    """`resolve` for data without splits of its own."""
    samples = [Sample(str(number), label) for number, label in enumerate(labels)]
    return resolve(samples, groups, val=val, test=test, seed=seed)


def test_digits_give_360_test_images_as_in_scikit_learn() -> None:
    labels = load_digits().target.tolist()
    splits = cut(labels, test=0.2)
    _, expected = train_test_split(labels, test_size=0.2, stratify=labels, random_state=0)
    ours = Counter(label for label, split in zip(labels, splits, strict=True) if split == "test")
    assert ours.total() == len(expected) == 360
    for label, count in Counter(expected).items():
        assert abs(ours[label] - count) <= 1


@pytest.mark.parametrize("seed", range(30))
def test_counts_without_groups(seed: int) -> None:
    rng = random.Random(seed)
    fractions = rng.choice([{"test": 0.2}, {"test": 0.25, "val": 0.1}, {"test": 0.3, "val": 0.05}])
    counts = [rng.choice([1, 2, 3, 5, 30, 181, 1000]) for _ in range(rng.randint(2, 12))]
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    rng.shuffle(labels)
    splits = cut(labels, seed=seed, **fractions)
    assert len(splits) == len(labels) and set(splits) <= {"train", *fractions}
    placed = Counter(zip(labels, splits, strict=True))
    for label, count in enumerate(counts):
        assert placed[label, "train"] >= 1
        for name, fraction in fractions.items():
            if count > len(fractions):
                assert placed[label, name] >= 1
            if count > 3:
                of = count - (placed[label, "test"] if name == "val" else 0)
                assert abs(placed[label, name] - fraction * of) < 1
    if min(counts) >= 20:  # else rounding up the small classes may exceed the total
        for name, fraction in fractions.items():
            of = len(labels) - (sizes(splits)["test"] if name == "val" else 0)
            assert 0 <= sizes(splits)[name] - fraction * of < 1


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (4, (2, 1, 1)), (30, (21, 3, 6))],
)
def test_small_classes(count: int, expected: tuple[int, int, int]) -> None:
    labels = [7] * count
    splits = cut(labels, test=0.2, val=0.1, seed=3)
    assert tuple(splits.count(name) for name in ("train", "val", "test")) == expected


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((13, 17), (1, 2)),  # 1.3 and 1.7 make 3
        ((17, 13), (2, 1)),
        ((12, 18, 16, 14), (1, 2, 2, 1)),  # 1.2, 1.8, 1.6 and 1.4 make 6
        ((11, 12), (1, 2)),  # 1.1 and 1.2: 2.3 is rounded up
        ((15, 15), (2, 1)),
    ],
)
def test_largest_remainders(counts: tuple[int, ...], expected: tuple[int, ...]) -> None:
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    splits = cut(labels, test=0.1, seed=1)
    placed = Counter(zip(labels, splits, strict=True))
    assert tuple(placed[label, "test"] for label in range(len(counts))) == expected


def test_shares_are_exact_decimals() -> None:
    assert sizes(cut([0] * 30, val=0.1))["val"] == 3  # 0.1 * 30 > 3


@pytest.mark.parametrize("seed", range(30))
def test_groups_stay_together(seed: int) -> None:
    rng = random.Random(seed)
    labels, groups = [], []
    for group in range(300):
        label = rng.randrange(4)
        for _ in range(rng.choice([1, 1, 1, 1, 2, 3])):
            labels.append(label if rng.random() < 0.98 else rng.randrange(4))
            groups.append(group)
    for index in rng.sample(range(len(groups)), 20):
        groups[index] = None  # unreadable: alone
    splits = cut(labels, groups, val=0.1, test=0.2, seed=seed)
    places, kinds = defaultdict(set), defaultdict(set)
    for label, group, split in zip(labels, groups, splits, strict=True):
        if group is not None:
            places[group].add(split)
            kinds[group].add(label)
    assert all(len(found) == 1 for found in places.values())
    assert all(places[group] == {"train"} for group in kinds if len(kinds[group]) > 1)
    placed, counts = Counter(zip(labels, splits, strict=True)), Counter(labels)
    for label, count in counts.items():
        assert abs(placed[label, "test"] - 0.2 * count) < 1
        assert abs(placed[label, "val"] - 0.1 * (count - placed[label, "test"])) < 1


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ("aa", (2, 0)),  # nothing may leave
        ("aab", (1, 2)),
        ("aabb", (2, 2)),
        ("aaabbb", (3, 3)),
        (None, (4, 1)),
    ],
)
def test_a_class_of_few_groups(groups: str | None, expected: tuple[int, int]) -> None:
    labels = [0] * len(groups or "12345")
    found = {
        tuple(map(cut(labels, groups, test=0.2, seed=seed).count, names))
        for names in [("train", "test")]
        for seed in range(9)
    }
    assert expected in found and all(train >= 1 for train, _ in found)


PINNED = "rererrrrrrrererrrrrreerr"  # second letters of train and test


def test_same_seed_same_split_on_every_platform() -> None:
    labels = [index % 3 for index in range(24)]

    def letters(seed: int) -> str:
        return "".join(name[1] for name in cut(labels, test=0.25, seed=seed))

    assert letters(0) == letters(0) == PINNED
    assert len({letters(seed) for seed in range(20)}) > 15


def test_every_image_is_drawn_sometimes() -> None:
    drawn = Counter[int]()
    for seed in range(400):
        splits = cut([0] * 20, test=0.25, seed=seed)
        drawn.update(index for index, split in enumerate(splits) if split == "test")
    assert all(60 <= drawn[index] <= 140 for index in range(20))  # 100 expected, sigma 8.7


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"test": 1.0}, "test=1.0"),
        ({"test": -0.1}, "test=-0.1"),
        ({"test": float("nan")}, "test=nan"),
        ({"val": 1.0}, "val=1.0"),
        ({"val": -0.1}, "val=-0.1"),
        ({"seed": -1}, "seed=-1"),
        ({"groups": [1]}, "1 groups for 3 images"),
    ],
)
def test_wrong_arguments_are_told(arguments: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        cut([0, 0, 1], **arguments)  # type: ignore[arg-type]


def of(**counts: int) -> list[Sample]:
    """Two classes, so many images of each in each split; `none` is no split."""
    return [
        Sample(f"{split}/{label}/{number}", label, None if split == "none" else split)
        for split, count in counts.items()
        for label in (0, 1)
        for number in range(count)
    ]


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (of(none=100), {"train": 144, "val": 16, "test": 40}),
        (of(train=100), {"train": 144, "val": 16, "test": 40}),
        (of(train=100, test=20), {"train": 180, "val": 20, "test": 40}),
        (of(train=100, val=20), {"train": 152, "val": 40, "test": 48}),
        (of(train=50, val=20, test=9), {"train": 100, "val": 40, "test": 18}),
        (of(train=50, val=20, test=9, none=5), {"train": 110, "val": 40, "test": 18}),
        (of(test=9), {"test": 18}),
    ],
)
def test_resolve_adds_what_is_lacking(samples: list[Sample], expected: dict[str, int]) -> None:
    splits = resolve(samples, None)
    assert sizes(splits) == expected
    for sample, split in zip(samples, splits, strict=True):
        if sample.split in ("val", "test"):
            assert split == sample.split


def test_resolve_without_val_and_test() -> None:
    assert set(resolve(of(none=20), None, val=0, test=0)) == {"train"}


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("same_labels", [False, True])
def test_resolve_moves_no_copy_of_a_fixed_image(seed: int, same_labels: bool) -> None:
    samples = of(train=50, test=10)
    groups: list[object] = [number % 55 for number in range(len(samples))]
    if same_labels:
        groups = [sample.name.partition("/")[2] for sample in samples]
    splits = resolve(samples, groups, seed=seed)
    assert [i for i, split in enumerate(splits) if split == "test"] == list(range(100, 120))
    made = {g for g, split in zip(groups, splits, strict=True) if split == "val"}
    others = {g for g, split in zip(groups, splits, strict=True) if split != "val"}
    assert made.isdisjoint(others)


def test_resolve_needs_labels_and_known_splits() -> None:
    for sample in (Sample("a", None), Sample("a", 0, "dev")):
        with pytest.raises(DataError, match="'a' has label"):
            resolve([sample], None)


def test_shares_are_of_what_is_there() -> None:
    """`val` is cut from what `test` leaves, so that both together may be over a whole."""
    assert sizes(cut([0] * 100, test=0.6, val=0.5)) == {"train": 20, "val": 20, "test": 60}


ROWS = [
    ("Icon\r", "cat", "train"),
    ("a,b/ü 1.jpg", " cat", "train"),
    ('q"\n\r.jpg', "dog", "val"),
    ("\udcff", "dog", "test"),
]


def test_a_saved_split_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    path.write_text("old")
    save_split(path, ROWS)
    assert load_split(path) == ROWS
    assert os.listdir(tmp_path) == ["split.csv"]
    assert path.read_bytes().splitlines()[0] == b"file_name,label,split"


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    save_split(path, ROWS)

    def failing():  # type: ignore[no-untyped-def]
        yield ROWS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_split(path, failing())
    assert load_split(path) == ROWS and os.listdir(tmp_path) == ["split.csv"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("file_name,label,split\n", "lists no image"),
        ("file_name,label\na,b\n", "line 2: split=''"),
        ("file_name,label,split\na,b,dev\n", "line 2: split='dev'"),
        ("file_name,label,split\na,b,train\na,b,test\n", "line 3: 'a' is there twice"),
        ("file_name,label,split\na,b,train\nc", "line 3: 1 fields"),
        ("name\na", "no column 'file_name'"),
        (None, "cannot be read"),
    ],
)
def test_a_damaged_split_is_told(tmp_path: Path, content: str | None, told: str) -> None:
    path = tmp_path / "split.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=told):
        load_split(path)


def test_a_saved_split_is_matched_with_the_data(tmp_path: Path) -> None:
    save_split(tmp_path / "s.csv", [("a", "cat", "test"), ("b", "dog", "train")])
    rows = load_split(tmp_path / "s.csv")
    samples = [Sample("b", 1), Sample("a", 0)]
    assert match_split(samples, ("cat", "dog"), rows) == ["train", "test"]
    with pytest.raises(DataError, match="'c' is not in the saved split; restore the data, take it"):
        match_split([*samples, Sample("c", 0)], ("cat", "dog"), rows)
    with pytest.raises(
        DataError, match="'a' of the saved split is not in the data any more; restore the data, "
    ):
        match_split(samples[:1], ("cat", "dog"), rows)
    with pytest.raises(
        DataError, match="'b' is 'cow', but 'dog' in the saved split; restore the data, "
    ):
        match_split(samples, ("cat", "cow"), rows)
