"""Projections against NumPy, sheets by the pixels where things must be."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import vitkit
from vitkit.errors import ConfigError
from vitkit.explain.embeddings import (
    PALETTE,
    Frame,
    Projection,
    patch_embeddings,
    project,
    sheet,
)
from vitkit.models.backbone import Backbone

Pixels = NDArray[np.uint8]

# What red, green or blue cones see without the others' help (Machado et al., 2009, severity 1.0).
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def tiny(name: str = "vit_tiny_patch16_224", **settings: Any) -> Backbone:
    torch.manual_seed(0)
    given: dict[str, Any] = {"dim": 32, "num_heads": 2, "depth": 3, "patch_size": 8}
    return vitkit.create_model(name, image_size=(32, 48), **(given | settings)).eval()


def blobs(count: int = 20, dim: int = 16) -> NDArray[np.float32]:
    """Three groups of embeddings, far apart, one after the other."""
    generator = np.random.default_rng(0)
    middles = 8 * generator.normal(size=(3, 1, dim))
    return (middles + generator.normal(size=(3, count, dim))).reshape(-1, dim).astype(np.float32)


def flat(colour: tuple[int, int, int], height: int = 20, width: int = 20) -> Pixels:
    """An image of one colour."""
    return np.full((height, width, 3), colour, np.uint8)


def middle(page: Pixels, colour: tuple[int, int, int]) -> NDArray[np.float64]:
    """Where pixels of a colour are on the average: (x, y)."""
    rows, columns = np.nonzero((page == colour).all(axis=-1))
    assert len(rows), f"{colour} is nowhere"
    return np.array([columns.mean(), rows.mean()])


def projection(points: list[tuple[float, float]]) -> Projection:
    return Projection(np.array(points, float), "by hand")


@pytest.mark.parametrize("layer", [0, 2, -1])
@pytest.mark.parametrize("registers", [0, 2])
def test_patch_embeddings_are_the_tokens_after_a_block(layer: int, registers: int) -> None:
    model, seen = tiny(registers=registers), list[Tensor]()
    model.blocks[layer].register_forward_hook(lambda *args: seen.append(args[2]))
    found = patch_embeddings(model, torch.randn(2, 3, 32, 48), layer)
    assert found.shape == (2, 4, 6, 32) and found.dtype == np.float32
    expected = seen[0][:, 1 + registers :].reshape(2, 4, 6, 32).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "convnet_3_32"])
def test_patch_embeddings_of_stages(name: str) -> None:
    model = vitkit.create_model(name, image_size=(64, 96), num_classes=2).eval()
    for layer, about in enumerate(model.feature_info):
        found = patch_embeddings(model, torch.randn(1, 3, 64, 96), layer)
        step = about["reduction"]
        assert found.shape == (1, 64 // step, 96 // step, about["num_chs"])


def test_patch_embeddings_of_a_layer_that_there_is_not() -> None:
    with pytest.raises(ConfigError, match=r"indices=\[3\] is not among 3 features"):
        patch_embeddings(tiny(), torch.randn(1, 3, 32, 48), 3)


def test_pca_is_that_of_a_singular_value_decomposition() -> None:
    features = blobs()
    centred = (features - features.mean(axis=0)).astype(np.float64)
    _, spread, axes = np.linalg.svd(centred, full_matrices=False)
    expected = centred @ axes[:2].T
    found = project(features, "pca")
    for axis in range(2):
        one, other = found.points[:, axis], expected[:, axis]
        assert abs(np.corrcoef(one, other)[0, 1]) == pytest.approx(1, abs=1e-6)
    ratio = np.ptp(found.points, axis=0) / np.ptp(expected, axis=0)
    assert ratio[0] == pytest.approx(ratio[1], rel=1e-5)  # one scale for both axes
    shares = spread[:2] ** 2 / (spread**2).sum()
    assert found.caption == "PCA: {:.0%} and {:.0%} of the variance".format(*shares)


@pytest.mark.parametrize("dim", [2, 16, 80])
def test_tsne_keeps_neighbours_together(dim: int) -> None:
    found = project(blobs(dim=dim))
    assert found.points.shape == (60, 2) and found.caption == "t-SNE, perplexity 19.7"
    distances = np.linalg.norm(found.points[:, None] - found.points, axis=-1)
    np.fill_diagonal(distances, np.inf)
    groups = np.repeat(range(3), 20)
    assert (groups[distances.argmin(axis=1)] == groups).mean() > 0.98


def test_the_seed_decides() -> None:
    features = blobs()
    once, again, other = (project(features, seed=seed).points for seed in (1, 1, 2))
    np.testing.assert_array_equal(once, again)
    assert np.abs(once - other).max() > 1e-3


def test_perplexity_fits_few_points() -> None:
    captions = [project(blobs()[:count], perplexity=5).caption for count in (3, 4, 7, 60)]
    assert captions[0].startswith("PCA: ")
    assert captions[1:] == [f"t-SNE, perplexity {perplexity}" for perplexity in (1, 2, 5)]


@pytest.mark.parametrize("method", ["pca", "tsne"])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_few_points_and_dimensions(count: int, dim: int, method: Any) -> None:
    """Warnings are errors here: nothing may be divided by nothing."""
    features = np.random.default_rng(0).normal(size=(count, dim))
    points = project(features, method).points
    assert points.shape == (count, 2) and np.isfinite(points).all()
    assert count == 1 or np.ptp(points) > 0


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_features_that_are_all_the_same_give_one_place(method: Any) -> None:
    for value in (0.0, 1e30, np.float32(0.1)):
        found = project(np.full((9, 4), value), method)
        assert not found.points.any() and found.caption == "all embeddings are the same"
    assert project(np.ones((1, 4)), method).caption == "a single embedding"


def test_equal_embeddings_stay_together() -> None:
    points = project(np.repeat(blobs(5), 4, axis=0)).points.reshape(15, 4, 2)
    within = np.ptp(points, axis=1).max()
    middles = points.mean(axis=1)
    between = np.linalg.norm(middles[:, None] - middles, axis=-1)[np.triu_indices(15, 1)]
    assert within < 0.3 * np.median(between)


@pytest.mark.parametrize(
    ("features", "settings", "message"),
    [
        (np.zeros((0, 3)), {}, r"features of shape \(0, 3\) are not \(n, D\)"),
        (np.zeros(3), {}, r"features of shape \(3,\) are not \(n, D\)"),
        (np.array([[1.0], [np.nan]]), {}, "features are not all finite; look for NaN"),
        (np.ones((5, 2)), {"method": "umap"}, "method='umap' is unknown; choose pca or tsne"),
        (np.ones((5, 2)), {"perplexity": 0.5}, "perplexity=0.5 is less than 1; try 30"),
        (np.ones((5, 2)), {"perplexity": float("nan")}, "perplexity=nan is less than 1"),
    ],
    ids=str,
)
def test_what_cannot_be_projected(
    features: NDArray[np.float64], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        project(features, **settings)


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_colour_blind_people_tell_the_colours_apart(blindness: str) -> None:
    """matplotlib's tab10 has two colours only 4.6 apart for protanopia."""
    linear = (np.array(PALETTE) / 255) ** 2.2 @ BLINDNESS[blindness].T
    xyz = linear.clip(0, 1) @ TO_XYZ.T / TO_XYZ.sum(axis=1)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    lab = np.stack([116 * f[:, 1], 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=-1)
    distances = np.linalg.norm(lab[:, None] - lab, axis=-1)[np.triu_indices(10, 1)]
    assert len(PALETTE) == 10 and distances.min() > 15


IMAGES = [(200, 10, 10), (10, 200, 10), (10, 10, 200)]


def test_thumbnails_lie_at_their_points() -> None:
    """The second axis points upwards; both have one scale."""
    points = [(0.0, 0.0), (4.0, 1.0), (1.0, 3.0)]
    page = sheet(projection(points), [flat(colour) for colour in IMAGES])
    found = np.array([middle(page, colour) for colour in IMAGES]) * (1, -1)
    moved, meant = found[1:] - found[0], np.array(points)[1:]
    scale = moved[0, 0] / meant[0, 0]
    assert scale > 100
    np.testing.assert_allclose(moved, scale * meant, atol=2)


def test_frames_have_the_colours_of_classes() -> None:
    labels = [2, 0, 2]
    points = [(0.0, 0.0), (4.0, 1.0), (1.0, 3.0)]
    images = [flat(colour) for colour in IMAGES]
    page = sheet(projection(points), images, labels, ["a", "b", "c"])
    for colour, label in zip(IMAGES, labels, strict=True):
        rows, columns = np.nonzero((page == colour).all(axis=-1))
        top, bottom, left, right = rows.min(), rows.max(), columns.min(), columns.max()
        around = page[top - 3 : bottom + 4, left - 3 : right + 4].reshape(-1, 3)
        outside = around[(around != colour).any(axis=1)]
        assert len(outside) and (outside == PALETTE[label]).all()


def test_thumbnails_keep_their_proportions() -> None:
    images = [flat(IMAGES[0], 10, 40), flat(IMAGES[1], 3, 6), flat(IMAGES[2], 300, 30)]
    page = sheet(projection([(0, 0), (1, 1), (2, 0)]), images)
    for colour, proportion in zip(IMAGES, (0.25, 0.5, 10), strict=True):
        rows, columns = np.nonzero((page == colour).all(axis=-1))
        sides = (np.ptp(rows) + 1, np.ptp(columns) + 1)
        assert sides[0] / sides[1] == pytest.approx(proportion, rel=0.15)
        assert max(sides) > 80


def test_pixels_of_tiny_images_stay_visible() -> None:
    image = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], np.uint8)
    page = sheet(projection([(0, 0)]), [image])
    areas = [(page == colour).all(axis=-1).sum() for colour in image.reshape(4, 3)]
    assert areas[0] > 1000 and max(areas) == min(areas)


def unlike(count: int) -> list[tuple[int, int, int]]:
    """As many dark colours, none of which a page has of its own."""
    return [(i % 50 * 2, i // 50 % 50 * 2, 7) for i in range(count)]


def areas_of(page: Pixels, colours: Sequence[tuple[int, int, int]]) -> list[int]:
    """How many pixels of a page have each colour."""
    numbers, counts = np.unique(page @ np.array([65536, 256, 1]), return_counts=True)
    found = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    return [found.get(65536 * red + 256 * green + blue, 0) for red, green, blue in colours]


@pytest.mark.parametrize("spread", [0, 1, 50])
def test_thumbnails_do_not_cover_each_other(spread: float) -> None:
    colours = unlike(60)
    points = np.random.default_rng(0).normal(size=(60, 2)) * spread + 3
    page = sheet(Projection(points, "by hand"), [flat(colour) for colour in colours])
    areas = areas_of(page, colours)
    assert min(areas) > 0.9 * max(areas) > 0  # all are there, whole but for their frames


@pytest.mark.parametrize("together", [1, 4, 8])
def test_lines_lead_from_thumbnails_to_the_point_they_left(together: int) -> None:
    points = projection([(0.0, 0.0)] * together + [(10.0, 10.0)])
    images = [flat((0, 0, 0))] * (together + 1)
    page = sheet(points, images, [0] * together + [1], ["a", "b"])
    own, other = areas_of(page, PALETTE[:2])
    (swatch,) = areas_of(np.asarray(Frame.of(0).around(flat((255, 255, 255)), 24)), PALETTE[:1])
    lines = own - swatch - together * (other - swatch)  # what is not of frames
    assert lines > 20 * together if together > 4 else lines == 0  # four touch their point


@pytest.mark.parametrize(
    ("count", "spread", "least"), [(1500, 1, 300), (1500, 0, 100), (600, 0.02, 200)]
)
def test_where_there_is_no_room_some_are_dots(count: int, spread: float, least: int) -> None:
    """Points all over the map, in one place, or crowded in the middle of a large map."""
    points = np.random.default_rng(0).normal(size=(count, 2)) * spread
    points[:2] = [[3, 3], [-3, -3]] if spread else 0
    labels = [i % 10 for i in range(count)]
    images = [flat(colour) for colour in unlike(count)]
    page = sheet(Projection(points, "by hand"), images, labels, list("abcdefghij"))
    areas = [area for area in areas_of(page, unlike(count)) if area]
    assert least < len(areas) < count and min(areas) > 0.95 * max(areas)
    assert page.shape[0] < 1700 and page.shape[1] < 2000


def legend_of(labels: list[int], classes: list[str]) -> Pixels:
    """What a page has below its map, whose height does not depend on the legend."""
    points = projection([(0.0, 0.0)] * len(labels))
    images = [flat((0, 0, 0))] * len(labels)
    return sheet(points, images, labels, classes)[sheet(points, images).shape[0] - 16 :]


def test_legend_shows_classes_that_occur() -> None:
    legend = legend_of([1, 3], ["a", "b", "c", "d"])
    colours = {tuple(colour) for colour in np.unique(legend.reshape(-1, 3), axis=0).tolist()}
    assert {PALETTE[1], PALETTE[3]} <= colours and not {PALETTE[0], PALETTE[2]} & colours
    named = legend_of([1, 3], ["a", "another name", "c", "d"])
    assert named.shape == legend.shape and (named != legend).any()


def test_a_long_legend_and_long_names_end_somewhere() -> None:
    classes = [f"{i} {'long ' * 40}" for i in range(300)]
    few, many, more = (legend_of(list(range(count)), classes) for count in (50, 150, 300))
    assert few.shape[0] < many.shape[0]
    assert abs(many.shape[0] - more.shape[0]) <= 32 and many.shape[1] < 2000
    one, other = (legend_of([0], ["x" * 40 + end]) for end in "ab")
    np.testing.assert_array_equal(one, other)


def test_repeated_colours_are_told_apart_by_dashes() -> None:
    frames = [Frame.of(label) for label in range(30)]
    assert len(set(frames)) == 30 and Frame.of(30) == frames[0]
    blank = flat((255, 255, 255))
    for side in (24, 28, 60, 112):
        pictures = [np.asarray(frames[label].around(blank, side)) for label in (4, 14, 24)]
        covered = [(picture == PALETTE[4]).all(axis=-1) for picture in pictures]
        areas = [part.sum() for part in covered]
        assert areas[0] > 1.3 * areas[1] and areas[0] > 1.3 * areas[2]
        assert (covered[1] != covered[2]).sum() > 0.1 * areas[0]
        for part in covered:  # the same on all four sides
            assert (part == part.T).all() and (part == part[::-1]).mean() > 0.97 and part[0, 0]


def test_pages_are_the_same_each_time() -> None:
    points, images = Projection(np.zeros((30, 2)), ""), [flat(colour) for colour in unlike(30)]
    np.testing.assert_array_equal(sheet(points, images), sheet(points, images))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (1, [0, 0], "1 images and 2 labels do not fit 2 points; give one for each"),
        (2, [0], "2 images and 1 labels do not fit 2 points"),
        (3, None, "3 images and 2 labels do not fit 2 points"),
        (2, [0, 1], "label=1 is not among 1 classes; name every class"),
        (2, [-1, 0], "label=-1 is not among 1 classes"),
    ],
    ids=str,
)
def test_what_does_not_fit(images: int, labels: list[int] | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sheet(projection([(0, 0), (1, 1)]), [flat((0, 0, 0))] * images, labels, ["only"])
