"""The filters, against SciPy's."""

import numpy as np
import pytest
import scipy.ndimage
from numpy.typing import NDArray

from vitkit.evaluation.corruptions.blur import disk, glass_blur
from vitkit.evaluation.corruptions.digital import affine_places
from vitkit.evaluation.corruptions.planes import convolve, sample, smooth, streak, zoom, zooming
from vitkit.evaluation.corruptions.weather import plasma


def planes(height: int, width: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).random((3, height, width), np.float32)


@pytest.mark.parametrize("sigma", [0.05, 0.4, 1.0, 6.0, 30.0])
@pytest.mark.parametrize("edge", ["nearest", "reflect"])
def test_smooth(sigma: float, edge: str) -> None:
    x = planes(30, 47)
    expected = scipy.ndimage.gaussian_filter(x, (0, sigma, sigma), mode=edge, truncate=3.0)
    np.testing.assert_allclose(smooth(x, sigma, truncate=3.0, edge=edge), expected, atol=1e-5)


@pytest.mark.parametrize("factor", [1.0, 1.01, 1.3, 3.0, 4.5])
def test_zoom(factor: float) -> None:
    x = planes(32, 32)
    kept = int(np.ceil(32 / factor))
    top = (32 - kept) // 2
    middle = x[:, top : top + kept, top : top + kept]
    large = scipy.ndimage.zoom(middle, (1, factor, factor), order=1)
    trim = (large.shape[1] - 32) // 2
    expected = large[:, trim : trim + 32, trim : trim + 32]
    np.testing.assert_allclose(zoom(x, factor), expected, atol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 7, 224])
@pytest.mark.parametrize("factor", [1.0, 1.21, 2.2])
def test_zooming_is_a_weighted_mean_everywhere(n: int, factor: float) -> None:
    matrix = zooming(n, factor)
    assert matrix.shape == (n, n)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize(("radius", "softness"), [(0.3, 0.4), (1.5, 0.1), (3, 0.1), (10, 0.5)])
def test_convolve_with_a_disk(radius: float, softness: float) -> None:
    x = planes(40, 36)
    kernel = disk(radius, softness)
    assert kernel.sum() == pytest.approx(1, rel=1e-5)
    expected = [scipy.ndimage.convolve(plane, kernel, mode="mirror") for plane in x]
    np.testing.assert_allclose(convolve(x, kernel), expected, atol=1e-5)


def test_a_hard_disk_is_round() -> None:
    kernel = disk(3, 0.1)
    assert (kernel > 1e-6).sum() == 29  # whole points within 3 of the middle
    assert np.array_equal(kernel, kernel.T)


@pytest.mark.parametrize("angle", [0.0, 30.0, -90.0])
def test_a_streak_of_one_point(angle: float) -> None:
    """The weights of half a Gaussian, along a line that starts at the point."""
    x = np.zeros((1, 41, 41), np.float32)
    x[0, 20, 20] = 1
    found = streak(x, 5, 2.0, angle)[0]
    weights = np.exp(-0.5 * (np.arange(11) / 2.0) ** 2)
    assert found.sum() == pytest.approx(1, rel=1e-5)
    assert found[20, 20] == pytest.approx(weights[0] / weights.sum(), rel=1e-5)
    rows, columns = np.nonzero(found)
    distance = np.hypot(rows - 20, columns - 20)
    assert distance.max() == pytest.approx(10, abs=0.8)
    order = np.argsort(distance)
    assert np.all(np.diff(found[rows, columns][order]) < 0)


def test_sample() -> None:
    x = planes(20, 25)
    random = np.random.default_rng(1)
    rows, columns = random.uniform(-15, 35, (2, 20, 25))
    expected = [
        scipy.ndimage.map_coordinates(plane, [rows, columns], order=1, mode="reflect")
        for plane in x.astype(np.float64)
    ]
    np.testing.assert_allclose(sample(x, rows, columns), expected, atol=1e-5)


@pytest.mark.parametrize("side", [1, 2, 31, 32, 224])
def test_plasma(side: int) -> None:
    clouds = plasma(side, 2.0, np.random.default_rng(0))
    assert len(clouds) >= side and len(clouds) & (len(clouds) - 1) == 0
    assert clouds.min() == 0 and clouds.max() in (0, 1)
    if side == 224:
        rough = plasma(side, 1.4, np.random.default_rng(0))
        assert np.abs(np.diff(rough)).mean() > np.abs(np.diff(clouds)).mean()


class Fixed(np.random.Generator):
    """Draws the same number every time."""

    def integers(self, low: int, high: int, *, size: tuple[int, ...]) -> NDArray[np.int64]:
        return np.full(size, low)


@pytest.mark.parametrize("farthest", [1, 3])
def test_glass_moves_every_pixel_but_those_of_the_edge(farthest: int) -> None:
    """Each takes the place of the one `farthest` up and to the left, which may have moved too."""
    x = np.arange(1, 401, dtype=np.float32).reshape(1, 20, 20) / 400
    found = glass_blur(x, (0.0, farthest, 1), Fixed(np.random.PCG64(0)))
    moved = found != x
    inner = slice(farthest + 1, 20 - farthest + 1)
    assert moved[0, inner, inner].all() and moved.sum() == moved[0, inner, inner].size
    back = (x - found) * 400 / (21 * farthest)  # in steps up and to the left
    np.testing.assert_allclose(back, np.rint(back), atol=1e-3)


def test_the_affine_map_leads_from_the_moved_points_back() -> None:
    rows, columns = affine_places(90, 60, 5.0, np.random.default_rng(3))
    middle = np.array([45, 30])
    before = middle + 20 * np.array([[1, 1], [1, -1], [-1, -1]])
    after = before + np.random.default_rng(3).uniform(-5, 5, (3, 2))
    along = [
        np.array([part[1, 0] - part[0, 0], part[0, 1] - part[0, 0]]) for part in (rows, columns)
    ]
    for (at_row, at_column), expected in zip(after, before, strict=True):
        place = [
            part[0, 0] + step @ (at_row, at_column)
            for part, step in zip((rows, columns), along, strict=True)
        ]
        np.testing.assert_allclose(place, expected, atol=1e-9)
