from pathlib import Path

import numpy as np
from PIL import Image

from vitkit.data.check.copies import (
    Copy,
    Exact,
    all_copies,
    find_conflicts,
    find_exact,
    find_leaks,
    find_near,
    groups_of,
)
from vitkit.data.check.near import TURNS, Pairs
from vitkit.data.loader import survey
from vitkit.data.sources import Sample, open_source


def pairs(*rows: tuple[int, int, float, int]) -> Pairs:
    first, second, alike, turn = zip(*rows, strict=True) if rows else ((), (), (), ())
    whole = (np.array(values, np.int64) for values in (first, second))
    return Pairs(*whole, np.array(alike, np.float64), np.array(turn, np.int64))


def samples(*splits: str | None, labels: str = "") -> tuple[Sample, ...]:
    return tuple(
        Sample(str(row), int(labels[row]) if labels else 0, split)
        for row, split in enumerate(splits)
    )


def test_same_pixels_and_same_files(tmp_path: Path) -> None:
    image = Image.effect_noise((20, 10), 50).convert("RGB")
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
    image.save(tmp_path / "cat" / "1.png")
    image.save(tmp_path / "cat" / "2.bmp")
    (tmp_path / "dog" / "3.png").write_bytes((tmp_path / "cat" / "1.png").read_bytes())
    Image.effect_noise((20, 10), 50).save(tmp_path / "dog" / "4.png")
    Image.new("RGB", (3, 3)).save(tmp_path / "dog" / "5.png")
    (tmp_path / "dog" / "6.png").write_bytes((tmp_path / "dog" / "5.png").read_bytes())
    source = open_source(tmp_path)
    keys, _ = survey(source)
    exact = find_exact(source, keys)
    assert exact == (Exact((0, 1, 2), False), Exact((4, 5), True))
    assert find_exact(source, [None] * 6) == ()


def test_only_one_of_exact_copies_is_compared() -> None:
    thumbs = np.random.default_rng(0).integers(0, 256, (4, 16, 16), dtype=np.uint8)
    thumbs[1] = thumbs[3] = thumbs[0]
    near = find_near([b"a", b"b", b"c", b"a"], thumbs, np.full(4, 64))
    assert (near.first.tolist(), near.second.tolist()) == ([0], [1])
    near = find_near([None, b"b", b"c", b"a"], thumbs, np.full(4, 64))
    assert (near.first.tolist(), near.second.tolist()) == ([1], [3])


def test_exact_copies_share_their_near_ones() -> None:
    copies = list(all_copies([Exact((0, 3), True)], pairs((0, 2, 0.98, 1))))
    assert copies[:2] == [Copy(0, 3, 1.0, "same file"), Copy(3, 0, 1.0, "same file")]
    assert {(copy.row, copy.other) for copy in copies[2:]} == {(0, 2), (2, 0), (3, 2), (2, 3)}
    assert {(copy.alike, copy.how) for copy in copies[2:]} == {(0.98, TURNS[1])}
    assert [copy.exact for copy in copies] == [True, True, False, False, False, False]


def test_leaks_go_from_earlier_to_later_splits() -> None:
    rows = samples("train", "test", "val", None, "test", "test", "train")
    exact = [Exact((0, 1), False), Exact((2, 5), True)]
    near = pairs((0, 2, 0.99, 1), (3, 4, 0.97, 0), (0, 6, 0.99, 0), (4, 5, 0.96, 0))
    assert find_leaks(rows, exact, near) == (
        Copy(1, 0, 1.0, "same pixels"),
        Copy(5, 2, 1.0, "same file"),
        Copy(2, 0, 0.99, "mirrored"),
        Copy(4, 3, 0.97, "as it is"),
    )


def test_without_splits_nothing_leaks() -> None:
    assert find_leaks(samples(None, None, "train"), [Exact((0, 1, 2), True)], pairs()) == ()


def test_conflicts_are_copies_of_two_labels() -> None:
    rows = samples(None, None, None, None, labels="0010")
    exact, near = [Exact((0, 1, 2), False)], pairs((0, 3, 0.9, 0))
    found = {(copy.row, copy.other) for copy in find_conflicts(rows, exact, near)}
    assert found == {(0, 2), (1, 2), (2, 3)}


def test_groups_hold_together_all_that_is_linked() -> None:
    groups = groups_of(7, [Exact((1, 4), True)], pairs((0, 1, 1, 0), (5, 6, 1, 0), (4, 3, 1, 0)))
    assert len({groups[row] for row in (0, 1, 3, 4)}) == 1
    assert groups[5] == groups[6]
    assert len(set(groups)) == 3
