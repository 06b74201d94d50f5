"""Embeddings as points in the plane, and a sheet of thumbnails at their points."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from threadpoolctl import threadpool_limits
from torch import Tensor

from vitkit.errors import ConfigError
from vitkit.explain.picture import INK, MARGIN, PAPER, Pixels
from vitkit.models.backbone import Backbone

Points = NDArray[np.float64]
Colour = tuple[int, int, int]

# Ten colours that colour-blind people tell apart (arXiv:2107.02270, matplotlib's petroff10).
PALETTE: tuple[Colour, ...] = (
    *((63, 144, 218), (255, 169, 14), (189, 31, 1), (131, 45, 182), (146, 218, 221)),
    *((169, 107, 89), (231, 99, 0), (185, 172, 112), (113, 117, 129), (148, 164, 162)),
)
FIRST = 50  # principal components that t-SNE gets: what follows is mostly noise, and costs time
ALIKE = 1e-9  # of the largest value: features that differ by less are the same
LARGEST_PAGE, SMALLEST_PAGE = (1600, 1160), (800, 400)  # pixels of the map, width and height
FULL = 60  # points for which the largest page is taken; fewer get a smaller one
SMALLEST, LARGEST = 28, 112  # pixels of a thumbnail's side with its frame
COVERED = 0.4  # share of the map that thumbnails may cover
ROUNDS, SLACK = 300, 1.15  # of moving thumbnails apart; sides that their middles are then apart
FAR = 0.75  # sides of a thumbnail that it is moved before a line leads to its point
TINY = 16  # pixels of the longer side of an image up to which it is enlarged in visible pixels
NAMES, LONGEST = 60, 28  # classes in a legend and letters in a name, at most
ROW, GAP, DOT = 32, 12, 5  # pixels: height of a row of the legend, room over it, radius of a dot


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """Embeddings in the plane; both axes have one scale."""

    points: Points  # (n, 2)
    caption: str  # how they were made


def patch_embeddings(model: Backbone, x: Tensor, layer: int = -1) -> NDArray[np.float32]:
    """The tokens of all patches after a layer: (B, C, H, W) -> (B, h, w, D).

    Layers are blocks, in Swin and CNNs stages, counted as `forward_intermediates` does. Prefix
    tokens are left out. A patch is `model.feature_info[layer]["reduction"]` pixels wide: with that,
    `patches.cut` makes its thumbnail.

    Raises:
        ConfigError: no such layer.
    """
    with torch.no_grad():
        maps = model.forward_intermediates(x, [layer], intermediates_only=True)[0]  # (B, D, h, w)
    values: NDArray[np.float32] = maps.permute(0, 2, 3, 1).float().cpu().numpy()
    return values


def project(
    features: NDArray[np.floating],
    method: Literal["pca", "tsne"] = "tsne",
    *,
    perplexity: float = 30.0,
    seed: int = 0,
) -> Projection:
    """Embeddings, (n, D), as points in the plane, (n, 2), the same for the same seed.

    `pca` keeps the two directions of most variance. `tsne` (JMLR 9:2579, 2008) keeps neighbours
    together, after PCA to 50 dimensions and starting from the first two; how far groups are apart
    and how large they are means little there. The perplexity, about how many neighbours count, is
    at most a third of the other points. Fewer than 4 points have no neighbourhoods, and get PCA.
    Embeddings that are all the same give one place.

    Raises:
        ConfigError: no features or not finite ones, an unknown method, or a perplexity below 1.
    """
    from sklearn.decomposition import PCA  # here: it takes a second
    from sklearn.manifold import TSNE

    if method not in ("pca", "tsne"):
        raise ConfigError(f"method={method!r} is unknown; choose pca or tsne")
    if not perplexity >= 1:
        raise ConfigError(f"perplexity={perplexity} is less than 1; try 30")
    values = _checked(features)
    count = len(values)
    spread = np.abs(values).max()
    if spread == 0:
        caption = "all embeddings are the same" if count > 1 else "a single embedding"
        return Projection(np.zeros((count, 2)), caption)
    values /= spread
    with threadpool_limits(1):  # sums of many threads differ by rounding, and t-SNE enlarges that
        pca = PCA(min(FIRST, *values.shape), random_state=seed)
        reduced = pca.fit_transform(values)
        flat = np.pad(reduced, ((0, 0), (0, 2)))[:, :2]
        if method == "pca" or count < 4:
            shares = (*pca.explained_variance_ratio_, 0.0)[:2]
            return Projection(flat, "PCA: {:.0%} and {:.0%} of the variance".format(*shares))
        perplexity = min(perplexity, (count - 1) / 3)
        start = flat / flat[:, 0].std() + np.random.default_rng(seed).normal(0, 0.01, flat.shape)
        tsne = TSNE(perplexity=perplexity, init=1e-4 * start, random_state=seed)
        points = tsne.fit_transform(reduced).astype(np.float64)
    return Projection(points, f"t-SNE, perplexity {perplexity:.3g}")


def _checked(features: NDArray[np.floating]) -> Points:
    """Features less their mean, in float64; rounding is taken for none."""
    if features.ndim != 2 or 0 in features.shape:
        raise ConfigError(f"features of shape {features.shape} are not (n, D), both at least 1")
    values = features.astype(np.float64)
    if not np.isfinite(values).all():
        raise ConfigError("features are not all finite; look for NaN in the model or the images")
    most = np.abs(values).max()
    values -= values.mean(axis=0)
    return np.where(np.abs(values).max() > ALIKE * most, values, 0)


@dataclass(frozen=True, slots=True)
class Frame:
    """What tells a class: a colour and, where colours repeat, dashes."""

    colour: Colour
    dashes: int = 0  # 0: none, 1: long ones, 2: short ones

    @classmethod
    def of(cls, label: int) -> "Frame":
        """The frame of a class by its number; the 31st has that of the first again."""
        turn, place = divmod(label, len(PALETTE))
        return cls(PALETTE[place], turn % 3)

    def around(self, image: Pixels, side: int) -> Image.Image:
        """An image of any proportions in a square frame of `side` pixels."""
        border = _border(side)
        framed = Image.new("RGB", (side, side), self.colour)
        pen = ImageDraw.Draw(framed)
        for start, end in _odd_parts(side, (1, 5, 9)[self.dashes]):
            pen.rectangle((start, 0, end, side), PAPER)
            pen.rectangle((0, start, side, end), PAPER)
        pen.rectangle((border, border, side - border - 1, side - border - 1), PAPER)
        small = _resized(image, side - 2 * border)
        framed.paste(small, ((side - small.width) // 2, (side - small.height) // 2))
        return framed


PLAIN = Frame((113, 117, 129))  # where there are no classes


def _border(side: int) -> int:
    """Pixels that the frame of a thumbnail is wide."""
    return max(side // 14, 3)


def _odd_parts(length: int, count: int) -> list[tuple[int, int]]:
    """First and last pixels of every second of `count` equal parts, not those at the ends."""
    ends = [round(length * i / count) for i in range(count + 1)]
    return [(ends[i], ends[i + 1] - 1) for i in range(1, count, 2)]


def sheet(
    projection: Projection,
    images: Sequence[Pixels],
    labels: Sequence[int] | None = None,
    classes: Sequence[str] = (),
) -> Pixels:
    """Thumbnails at their points, in frames coloured by class, over a legend: -> (H, W, 3).

    `images` are RGB, (h, w, 3) of any size; `labels` number `classes`, and without them there are
    no colours. Thumbnails that would cover each other are moved apart, and a line leads from those
    that go far to their points. Where there is no room for all, some that lie spread out are shown,
    and the others are dots: the caption tells how many. After ten classes colours repeat, in dashed
    frames.

    Raises:
        ConfigError: not as many images or labels as points, or a label without a class.
    """
    _check(len(projection.points), images, labels, len(classes))
    frames = [PLAIN] * len(images) if labels is None else [Frame.of(label) for label in labels]
    spots = _fit(projection.points)
    area = COVERED * np.prod(np.maximum(np.ptp(spots, axis=0) + LARGEST, SMALLEST_PAGE))
    side = int(min(max(math.sqrt(area / len(spots)), SMALLEST), LARGEST))
    shown = _spread_out(spots, int(area / side**2))
    middles = _apart(spots[shown], side)
    kept = _uncovered(middles, side)
    size, shift = _page_of(spots, middles[kept], side)
    spots, places = spots + shift, {shown[k]: middles[k] + shift for k in kept}
    plane = _traces(spots, places, frames, FAR * side, size)
    for i, (x, y) in places.items():
        plane.paste(frames[i].around(images[i], side), (round(x - side / 2), round(y - side / 2)))
    caption = f"{projection.caption}, {len(spots)} point{'s' * (len(spots) > 1)}"
    if len(places) < len(spots):
        caption += f", {len(places)} with their images"
    legend = _legend([] if labels is None else labels, classes, size[0])
    top = MARGIN + ROW
    page = Image.new("RGB", (size[0] + 2 * MARGIN, top + size[1] + legend.height + MARGIN), PAPER)
    ImageDraw.Draw(page).text((MARGIN, MARGIN - 4), caption, INK, ImageFont.load_default(20))
    page.paste(plane, (MARGIN, top))
    page.paste(legend, (MARGIN, top + size[1]))
    return np.asarray(page)


def _check(
    count: int, images: Sequence[Pixels], labels: Sequence[int] | None, classes: int
) -> None:
    named = count if labels is None else len(labels)
    if not len(images) == named == count:
        raise ConfigError(
            f"{len(images)} images and {named} labels do not fit {count} points; give one for each"
        )
    for label in () if labels is None else labels:
        if not 0 <= label < classes:
            raise ConfigError(f"label={label} is not among {classes} classes; name every class")


def _fit(points: Points) -> Points:
    """Points in pixels, the second axis upwards, that about fill a page; fewer points a smaller."""
    span = np.maximum(np.ptp(points, axis=0), 1e-300)
    page = np.array(LARGEST_PAGE) * min(max(len(points) / FULL, 0.25), 1) ** 0.5
    middle = (points.max(axis=0) + points.min(axis=0)) / 2
    spots: Points = (points - middle) * ((page - LARGEST) / span).min() * (1, -1)
    return spots


def _spread_out(spots: Points, count: int) -> list[int]:
    """Numbers of at most `count` points: all, or each time the one farthest from those before."""
    if len(spots) <= count:
        return list(range(len(spots)))
    chosen = [int(np.linalg.norm(spots - spots.mean(axis=0), axis=1).argmin())]
    distances = np.full(len(spots), np.inf)
    while len(chosen) < count:
        distances = np.minimum(distances, np.linalg.norm(spots - spots[chosen[-1]], axis=1))
        distances[chosen[-1]] = -1
        chosen.append(int(distances.argmax()))
    return chosen


def _apart(spots: Points, side: int) -> Points:
    """Middles of squares near their spots that cover each other little, in the same arrangement.

    In each round squares that are too near push each other away, each by half of what is missing,
    along the axis where that is less.
    """
    from sklearn.neighbors import KDTree  # here: it takes a second

    places = spots + np.random.default_rng(0).uniform(-0.5, 0.5, spots.shape)  # for equal spots
    wanted = SLACK * side
    for _ in range(ROUNDS):
        near = KDTree(places, metric="chebyshev").query_radius(places, wanted)
        first = np.repeat(np.arange(len(places)), [len(each) for each in near])
        second = np.concatenate(near)
        first, second = first[first != second], second[first != second]
        away = places[first] - places[second]
        if not (np.abs(away).max(axis=1) < side).any():
            break
        missing = wanted - np.abs(away)
        axis, pairs = missing.argmin(axis=1), np.arange(len(first))
        push = np.zeros(places.shape)
        np.add.at(push, (first, axis), np.sign(away[pairs, axis]) * missing[pairs, axis] / 2)
        places += np.clip(push, -side / 4, side / 4)  # many in one place would fly apart
    return places


def _uncovered(places: Points, side: int) -> list[int]:
    """Numbers of squares that cover no more of each other than frames, the first come kept."""
    kept: list[int] = []
    for i, place in enumerate(places):
        if not (np.abs(places[kept] - place).max(axis=1) < side - _border(side)).any():
            kept.append(i)
    return kept


def _page_of(spots: Points, middles: Points, side: int) -> tuple[tuple[int, int], Points]:
    """The size of a map for all spots and squares, and what to add to both to be in the middle."""
    edges = np.concatenate([spots - DOT, spots + DOT, middles - side / 2, middles + side / 2])
    low, span = edges.min(axis=0), np.ptp(edges, axis=0)
    size = np.ceil(np.maximum(span, SMALLEST_PAGE))
    return (int(size[0]), int(size[1])), (size - span) / 2 - low


def _traces(
    spots: Points,
    places: Mapping[int, Points],
    frames: Sequence[Frame],
    far: float,
    size: tuple[int, int],
) -> Image.Image:
    """What lies under thumbnails: lines to the spots they have left, and dots of those without."""
    double = Image.new("RGB", (2 * size[0], 2 * size[1]), PAPER)  # halved, so that lines are smooth
    pen = ImageDraw.Draw(double)
    for i, spot in enumerate(spots):
        if i in places and np.abs(places[i] - spot).max() <= far:
            continue
        x, y = (float(along) for along in 2 * spot)
        if i in places:
            pen.line((x, y, *(2 * places[i])), frames[i].colour, 3)
        pen.circle((x, y), 2 * DOT, frames[i].colour, PAPER, 2)
    return double.reduce(2)


def _legend(labels: Sequence[int], classes: Sequence[str], width: int) -> Image.Image:
    """Frames of the classes that occur with their names and numbers of points, in columns."""
    counts = Counter(labels)
    often = sorted(label for label, _ in counts.most_common(NAMES))
    texts = [f"{_shortened(classes[label])} ({counts[label]})" for label in often]
    if len(counts) > NAMES:
        texts.append(f"and {len(counts) - NAMES} more classes")
    font = ImageFont.load_default(18)
    step = max((int(font.getlength(text)) for text in texts), default=0) + 2 * ROW
    columns = max(width // step, 1)
    legend = Image.new("RGB", (width, -(-len(texts) // columns) * ROW + GAP), PAPER)
    pen, blank = ImageDraw.Draw(legend), np.full((1, 1, 3), 255, np.uint8)
    for i, text in enumerate(texts):
        left, top = i % columns * step, i // columns * ROW + GAP
        if i < len(often):
            legend.paste(Frame.of(often[i]).around(blank, ROW - 8), (left, top + 4))
        pen.text((left + ROW, top + ROW / 2), text, INK, font, anchor="lm")
    return legend


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST else name[: LONGEST - 3] + "..."


def _resized(image: Pixels, side: int) -> Image.Image:
    """An image brought to a longer side of `side` pixels; the pixels of tiny ones stay visible."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    scale = side / max(picture.size)
    width, height = (max(round(length * scale), 1) for length in picture.size)
    tiny = max(picture.size) <= TINY
    method = Image.Resampling.NEAREST if tiny else Image.Resampling.LANCZOS
    return picture.resize((width, height), method, reducing_gap=None if tiny else 3.0)
