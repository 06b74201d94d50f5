"""An explanation's pictures and files, read back."""

import errno
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitkit.errors import ConfigError
from vitkit.explain.explanation import Explanation
from vitkit.explain.picture import BAR, LINE, MARGIN, PURPLE_ORANGE, SIDE, VIRIDIS, colour, stretch


def made(**settings: Any) -> Explanation:
    random = np.random.default_rng(0)
    known = {
        "image": random.integers(0, 256, (24, 36, 3), np.uint8),
        "grid": random.normal(size=(2, 3)).astype(np.float32),
        "method": "relevance",
        "label": "tulip",
        "score": 0.934,
    }
    return Explanation(**known | settings)


def test_heatmap_and_cells_cover_the_image() -> None:
    explanation = made()
    assert explanation.heatmap.shape == explanation.cells.shape == (24, 36)
    np.testing.assert_array_equal(explanation.cells, explanation.grid.repeat(12, 0).repeat(12, 1))
    # Straight lines: between the middles of two cells, their mean; above all middles, no change.
    between = explanation.heatmap[:6, 11:13].mean()
    assert between == pytest.approx(explanation.grid[0, :2].mean(), abs=1e-5)


@pytest.mark.parametrize("signed", [False, True])
def test_overlay_from_grey_to_colour(signed: bool) -> None:
    explanation = made(signed=signed)
    red, green, blue = (explanation.image[..., c].astype(float) for c in range(3))
    grey = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R 601
    none = explanation.overlay(opacity=0)
    assert none.shape == (24, 36, 3) and none.dtype == np.uint8
    assert np.abs(none - grey[..., None]).max() <= 1
    full = explanation.overlay(opacity=1, smooth=False)
    np.testing.assert_array_equal(full, colour(explanation.cells, signed=signed))
    half = explanation.overlay(opacity=0.5, smooth=False).astype(float)
    np.testing.assert_allclose(half, (none.astype(float) + full) / 2, atol=0.5)


def test_the_ends_of_the_scale() -> None:
    grid = np.array([[0.0, 3.0], [1.0, 2.0]], np.float32)
    whole = made(grid=grid).overlay(opacity=1, smooth=False)
    assert tuple(whole[0, 0]) == VIRIDIS[0] and tuple(whole[0, -1]) == VIRIDIS[-1]
    signed = made(grid=grid, signed=True).overlay(opacity=1, smooth=False)
    assert tuple(signed[0, 0]) == PURPLE_ORANGE[5] and tuple(signed[0, -1]) == PURPLE_ORANGE[-1]
    signed = made(grid=-grid, signed=True).overlay(opacity=1, smooth=False)
    assert tuple(signed[0, 0]) == PURPLE_ORANGE[5] and tuple(signed[0, -1]) == PURPLE_ORANGE[0]


def test_an_overlay_may_be_enlarged() -> None:
    explanation = made()
    large = explanation.overlay(opacity=1, side=100)  # three times as large
    assert large.shape == (72, 108, 3)
    np.testing.assert_array_equal(large, colour(stretch(explanation.grid, (72, 108))))


@pytest.mark.parametrize("opacity", [-0.1, 1.1, float("nan")])
def test_an_opacity_that_is_none(opacity: float) -> None:
    with pytest.raises(ConfigError, match=rf"opacity={opacity} is not in \[0, 1\]; try 0.6"):
        made().overlay(opacity=opacity)


def test_title() -> None:
    assert made().title == "relevance: tulip (93%)"
    assert made(against="rose").title == "relevance: tulip against rose (93%)"
    with_options = made(method="occlusion", options={"size": 8, "baseline": 0.5})
    assert with_options.title == "occlusion (size=8, baseline=0.5): tulip (93%)"


def test_a_map_for_no_class_names_none() -> None:
    explanation = made(method="attention", for_class=False, against="rose", options={"layer": 3})
    assert (explanation.title, explanation.asked) == ("attention (layer=3)", "")


def test_a_map_of_one_cell_says_so() -> None:
    assert made(grid=np.ones((1, 1), np.float32)).note.startswith("one cell: ")
    assert made(grid=np.ones((1, 2), np.float32)).note == ""


def test_png_opens_at_the_size_of_its_parts(tmp_path: Path) -> None:
    explanation = made(label="a very long name " * 20)
    path = tmp_path / "tulip.PNG"
    explanation.save(path)
    times = -(-SIDE // 36)
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        width, height = image.size
        top, left = MARGIN + LINE, MARGIN
        first = np.asarray(image)[top : top + 24 * times, left : left + 36 * times]
    assert height == 24 * times + LINE + 2 * MARGIN
    assert 0 < width - (2 * 36 * times + BAR + 4 * MARGIN) < 80  # what is left is for the numbers
    np.testing.assert_array_equal(first[::times, ::times], explanation.image)
    assert explanation.png() == path.read_bytes()
    assert explanation.png(opacity=0.2) != explanation.png() != explanation.png(smooth=False)


def test_npz_reads_back_without_pickle(tmp_path: Path) -> None:
    options = {"size": np.int64(8), "baseline": 0.5, "stride": None}
    explanation = made(against="rose", label='<b>"ß"', options=options)
    path = tmp_path / "tulip.npz"
    explanation.save(str(path))
    with np.load(path, allow_pickle=False) as arrays:
        assert sorted(arrays) == ["about", "grid", "heatmap", "image"]
        np.testing.assert_array_equal(arrays["grid"], explanation.grid)
        np.testing.assert_array_equal(arrays["heatmap"], explanation.heatmap)
        np.testing.assert_array_equal(arrays["image"], explanation.image)
        about = json.loads(str(arrays["about"]))
    assert about == {
        "signed": False,
        "for_class": True,
        "options": {"size": 8, "baseline": 0.5, "stride": None},
        "method": "relevance",
        "label": '<b>"ß"',
        "score": 0.934,
        "against": "rose",
    }
    with np.load(io.BytesIO(explanation.npz()), allow_pickle=False) as arrays:
        assert arrays["image"].dtype == np.uint8 and arrays["grid"].dtype == np.float32


@pytest.mark.parametrize("name", ["tulip.jpg", "tulip", ".png"])
def test_another_suffix(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is neither a .png nor a .npz; choose one of the two"):
        made().save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["tulip.png", "tulip.npz"])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_nothing_new(
    name: str, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    kept = tmp_path / "kept" / name
    kept.parent.mkdir()
    kept.write_bytes(b"older")
    monkeypatch.setattr(os, call, full)
    for path in (tmp_path / name, kept):
        with pytest.raises(OSError, match="No space left"):
            made().save(path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["kept", name]
    assert kept.read_bytes() == b"older"


def test_a_folder_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        made().save(tmp_path / "none" / "tulip.png")
