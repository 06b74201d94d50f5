"""Colours, enlarged grids and pictures, against matplotlib, NumPy and what a PNG reader sees."""

import io

import matplotlib
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFont

from vitkit.explain import picture
from vitkit.explain.picture import (
    BAR,
    LINE,
    MARGIN,
    PAPER,
    PURPLE_ORANGE,
    VIRIDIS,
    colour,
    draw,
    enlarge,
    scale,
    stretch,
)

GREY = np.full((30, 40, 3), 128, np.uint8)


def opened(png: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG" and image.mode == "RGB"
        return np.asarray(image)


def test_scale() -> None:
    np.testing.assert_allclose(scale(np.array([2.0, 4.0, 3.0])), [0, 1, 0.5])
    np.testing.assert_allclose(scale(np.array([-1.0, 0.0, 4.0]), signed=True), [0.375, 0.5, 1])
    np.testing.assert_allclose(scale(np.array([-4.0, 0.0, 1.0]), signed=True), [0, 0.5, 0.625])


def test_an_even_map_has_one_colour() -> None:
    assert (scale(np.full((2, 3), 7.0)) == 0).all()
    assert (scale(np.zeros((2, 3)), signed=True) == 0.5).all()
    assert (colour(np.zeros((2, 3)), signed=True) == PURPLE_ORANGE[5]).all()


def test_what_is_no_number_counts_as_nothing() -> None:
    np.testing.assert_allclose(scale(np.array([np.nan, 1.0, 2.0])), [0, 0.5, 1])
    np.testing.assert_allclose(scale(np.array([np.nan, 1.0, -2.0]), signed=True), [0.5, 0.75, 0])


def test_the_ends_of_the_colours() -> None:
    assert colour(np.array([-3.0, 0.0, 5.0]))[[0, 2]].tolist() == [[68, 1, 84], [253, 231, 37]]
    ends = colour(np.array([-5.0, 0.0, 5.0]), signed=True)
    assert ends.tolist() == [[45, 0, 75], [247, 247, 247], [127, 59, 8]]
    assert colour(np.zeros((2, 3, 4))).shape == (2, 3, 4, 3)


@pytest.mark.parametrize(("name", "signed", "gap"), [("viridis", False, 19), ("PuOr_r", True, 4)])
def test_colours_are_matplotlibs(name: str, signed: bool, gap: int) -> None:
    """It bends viridis between the nine colours that ours runs straight through."""
    values = np.linspace(-1, 1, 401)
    theirs = matplotlib.colormaps[name](values / 2 + 0.5, bytes=True)[:, :3]
    ours = colour(values, signed=signed)
    assert np.abs(ours.astype(int) - theirs).max() <= gap
    anchors = PURPLE_ORANGE if signed else VIRIDIS
    exact = matplotlib.colormaps[name](np.linspace(0, 1, len(anchors)), bytes=True)[:, :3]
    assert np.abs(np.array(anchors) - exact).max() <= 3


def luminance(colours: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Relative luminance as the Web Content Accessibility Guidelines have it."""
    light = colours / 255
    linear = np.where(light <= 0.04045, light / 12.92, ((light + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def test_more_is_lighter_so_that_no_hue_need_be_told_apart() -> None:
    assert (np.diff(luminance(colour(np.linspace(0, 1, 200)))) > -1e-4).all()
    signed = luminance(colour(np.linspace(-1, 1, 201), signed=True))
    assert (np.diff(signed[:101]) > -1e-3).all() and (np.diff(signed[100:]) < 1e-3).all()


def linear(grid: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float64]:
    """Bilinear with values in the middles of cells, which stay even beyond the last middle."""
    whole = grid.astype(np.float64)
    for axis, side in enumerate(size):
        middles = (np.arange(grid.shape[axis]) + 0.5) * side / grid.shape[axis]
        at = np.arange(side) + 0.5
        whole = np.apply_along_axis(lambda row, m=middles, a=at: np.interp(a, m, row), axis, whole)
    return whole


@pytest.mark.parametrize("size", [(32, 48), (12, 20), (100, 16)])
def test_stretch(size: tuple[int, int]) -> None:
    grid = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    smooth, blocks = stretch(grid, size), stretch(grid, size, smooth=False)
    assert smooth.dtype == blocks.dtype == np.float32
    np.testing.assert_allclose(smooth, linear(grid, size), atol=1e-5)
    rows, columns = (np.arange(n) * 2 + 1 for n in size)
    rows, columns = rows * 4 // (2 * size[0]), columns * 6 // (2 * size[1])
    np.testing.assert_array_equal(blocks, grid[rows][:, columns])


def test_stretch_to_its_own_size_changes_nothing() -> None:
    grid = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    np.testing.assert_array_equal(stretch(grid, (4, 6)), grid)


@pytest.mark.parametrize(
    ("size", "side", "times"), [((30, 40), 320, 8), ((224, 224), 320, 2), ((400, 9), 320, 1)]
)
def test_enlarge(size: tuple[int, int], side: int, times: int) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    large = enlarge(image, side)
    assert large.shape == (size[0] * times, size[1] * times, 3)
    np.testing.assert_array_equal(large[::times, ::times], image)
    np.testing.assert_array_equal(large[times - 1 :: times, times - 1 :: times], image)


@pytest.mark.parametrize("signed", [False, True])
def test_a_picture_is_image_map_and_bar(signed: bool) -> None:
    image = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    overlay = 255 - image
    values = np.array([[-2.0, 0.0], [1.0, 2.0]])
    sheet = opened(draw(image, overlay, values, title="a", signed=signed))
    top, left = MARGIN + LINE, MARGIN
    assert len(sheet) == 30 + LINE + 2 * MARGIN
    np.testing.assert_array_equal(sheet[top : top + 30, left : left + 40], image)
    left += 40 + MARGIN
    np.testing.assert_array_equal(sheet[top : top + 30, left : left + 40], overlay)
    left += 40 + MARGIN
    bar = sheet[top : top + 30, left : left + BAR]
    assert (bar == bar[:, :1]).all()
    ends = colour(np.array([2.0, -2.0]), signed=signed)
    np.testing.assert_array_equal(bar[[0, -1], 0], ends)
    for edge in (sheet[0], sheet[-1], sheet[:, 0], sheet[:, -1]):
        assert (edge == PAPER).all()
    beside = sheet[:, left + BAR : -1]
    assert (beside != PAPER).any()  # the numbers


@pytest.mark.parametrize(
    ("values", "signed", "words"),
    [
        ([-0.5, 0.25], True, ("+0.5", "0.0", "-0.5")),
        ([0.0, 1000.0], False, ("1000", "500", "0")),
        ([0.125, 0.375], False, ("0.38", "0.25", "0.12")),
        ([0.0021, 0.0023, np.nan], False, ("0.00230", "0.00220", "0.00210")),
        ([3.0, 3.0], False, ("3.00", "3.00", "3.00")),
    ],
)
def test_the_numbers_of_the_bar(values: list[float], signed: bool, words: tuple[str, ...]) -> None:
    assert picture.numbers(np.array(values), signed=signed) == words


def test_a_long_title_is_cut_to_the_picture() -> None:
    values = np.eye(2)
    short = opened(draw(GREY, GREY, values, title="a", signed=False))
    long = opened(draw(GREY, GREY, values, title="never ending " * 50, signed=False))
    assert long.shape == short.shape
    head = long[1 : MARGIN + LINE - 1]
    assert (head[:, :MARGIN] == PAPER).all() and (head[:, -MARGIN:] == PAPER).all()
    assert (head[:, -2 * MARGIN : -MARGIN] != PAPER).any()  # it goes as far as it may


def test_what_is_cut_says_so() -> None:
    font, whole = ImageFont.load_default(14), "attention: water lily (93%)"
    title = picture._fitting(whole, font, 120)
    kept = len(title) - 3
    assert title == whole[:kept] + "..." and kept < len(whole)
    assert font.getlength(title) <= 120 < font.getlength(whole[: kept + 1] + "...")
    assert picture._fitting("short", font, 120) == "short"
    assert picture._fitting("short", font, 1) == "..."


@pytest.mark.parametrize("title", ["", "two\nlines", "tab\tand  space", "猫 ☃ é", "\x00"])
def test_titles_of_any_kind(title: str) -> None:
    assert opened(draw(GREY, GREY, np.eye(2), title=title, signed=False)).shape[2] == 3
