"""What position embeddings say: how alike any two are, and whether they know the image's layout.

Two kinds of results. Tables of ViT, DeiT, hybrids and CCT have a vector for each token, and vectors
are compared. Swin has no such table: each head adds a number to a score by the offset between two
tokens, and that number is shown as it is.
"""

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vitkit import whole_file
from vitkit.errors import ConfigError
from vitkit.explain.picture import (
    INK,
    LINE,
    MARGIN,
    PAPER,
    Pixels,
    colour,
    colour_bar,
    png,
    tile,
)
from vitkit.explain.ranks import ranks
from vitkit.explain.sites import Grid, WindowSite, find_sites, prefix_names
from vitkit.layers.position import resize_positions
from vitkit.models.backbone import Backbone
from vitkit.models.cct import CCT
from vitkit.models.swin import Swin
from vitkit.models.vit import ViT

Matrix = NDArray[np.float64]
SHUFFLES = 199  # a p value can then be as small as 0.005
DIGITS = 9  # decimals in which similarities are alike; of equal rows they differ by rounding
ROUNDING = 1e-5  # of a score in float32
SIDE, GAP = 560, 3  # pixels: the longer side of a mosaic in a picture, at least, and between maps
GREY = (128, 130, 134)
WORD = 24  # pixels that the number of a row or column needs


@dataclass(frozen=True, slots=True)
class Layout:
    """How strongly a table of positions tells the 2-D layout of the image, beside chance.

    `score` is in [-1, 1]: 0 where likeness has nothing to do with distance, 1 where it falls with
    distance in the same order from every cell. On a grid of 14 x 14, `sincos_2d` has 0.83 to 0.85
    and `sincos_1d`, which only knows the order of reading, 0.62 to 0.65.
    """

    score: float
    shuffled_mean: float  # of the scores of tables whose cells change places; 0 but for chance
    shuffled_std: float
    shuffles: int
    p_value: float  # share of tables, shuffled ones and this one, that score no less than this one


@dataclass(frozen=True, slots=True, eq=False)
class PositionSimilarity:
    """Cosine similarity of any two rows of a table of positions (arXiv:2010.11929, fig. 7).

    A row of zeros, as the class token has in sinusoidal tables, has similarity 0 to all.
    """

    matrix: Matrix  # (P + h * w, P + h * w), in [-1, 1]; P prefix tokens that have positions
    grid: Grid  # cells down and across
    prefix: tuple[str, ...] = ()

    @property
    def tokens(self) -> tuple[str, ...]:
        """What the rows are called."""
        h, w = self.grid
        return (*self.prefix, *(f"row {r}, column {c}" for r in range(h) for c in range(w)))

    @property
    def maps(self) -> Matrix:
        """Each cell's similarity to all cells: (h, w, h, w)."""
        prefix = len(self.prefix)
        return self.matrix[prefix:, prefix:].reshape(*self.grid, *self.grid)

    def mosaic(self, *, gap: int = 1, every: int = 1) -> Matrix:
        """All maps where their cells lie, NaN in gaps: (h (h + gap) - gap, w (w + gap) - gap).

        With `every` those of each such row and column alone.
        """
        return tile(self.maps[::every, ::every], gap=gap, fill=np.nan)

    def layout(self, *, shuffles: int = SHUFFLES, seed: int = 0) -> Layout:
        """One number for how far the cells' similarity follows their distance, and its control.

        For each cell, Spearman's rank correlation between its similarity to the other cells and
        their nearness, the negative Euclidean distance in cells; then the mean over cells. The cell
        itself is left out: it is alike and near by definition. Where all others are equally alike
        there is no order, and 0 is taken. The control is a Mantel test: the table's cells change
        places at random.

        Raises:
            ConfigError: fewer than 3 cells, or no shuffle.
        """
        cells = self.grid[0] * self.grid[1]
        if cells < 3:
            raise ConfigError(f"grid={self.grid} has no layout; choose an image of 3 cells or more")
        if shuffles < 1:
            raise ConfigError(f"shuffles={shuffles} leaves no control; try {SHUFFLES}")
        alike = _row_ranks(np.round(self.maps.reshape(cells, cells), DIGITS))
        near = _row_ranks(-_distances(self.grid))
        score = float(np.clip(np.vdot(alike, near) / cells, -1, 1))
        generator = np.random.default_rng(seed)
        orders = (generator.permutation(cells) for _ in range(shuffles))
        chance = np.array([np.vdot(alike.take(p, 0).take(p, 1), near) / cells for p in orders])
        reached = int((chance >= score - ROUNDING).sum())  # a mirrored table has the same score
        p_value = (1 + reached) / (1 + shuffles)
        return Layout(score, float(chance.mean()), float(chance.std()), shuffles, p_value)

    def picture(self, *, gap: int = 1, every: int = 1) -> Pixels:
        """The mosaic in colours, a line between maps: -> (h', w', 3)."""
        return _coloured(self.mosaic(gap=gap, every=every))

    def png(self) -> bytes:
        """The mosaic with the numbers of rows and columns, and a colour bar, as a PNG."""
        lines = (
            "Position embedding similarity",
            "cosine of each patch, by its row and column, to all patches",
        )
        return _draw(self.maps, lines, signed=False, numbered=True)

    def save(self, path: str | Path) -> None:
        """Write the matrix (.npy, .csv), all there is (.npz), or the mosaic (.png).

        Raises:
            ConfigError: another suffix.
            OSError: the file cannot be written.
        """
        rows = ((name, *row) for name, row in zip(self.tokens, self.matrix.tolist(), strict=True))
        about = {"tokens": self.tokens, "grid": self.grid, "prefix": self.prefix}
        _save(Path(path), self.matrix, (("token", *self.tokens), rows), about, self.png)


@dataclass(frozen=True, slots=True, eq=False)
class RelativeBias:
    """What the heads of a Swin block add to scores by offset (arXiv:2103.14030, eq. 4).

    The query is in the middle of each map; a value is for a key that lies so far above, below, left
    or right of it, in tokens. Of SwinV2, which computes biases, they are in (0, 16)
    (arXiv:2111.09883, eq. 3). Offsets beyond the window do not occur.
    """

    maps: Matrix  # (H, 2 h - 1, 2 w - 1)
    name: str  # of the attention layer, dotted
    window: Grid  # tokens down and across

    def mosaic(self, *, gap: int = 1) -> Matrix:
        """The maps of all heads, row by row, NaN in the gaps."""
        return tile(self._in_rows(), gap=gap, fill=np.nan)

    def picture(self, *, gap: int = 1) -> Pixels:
        """The mosaic in colours, a line between maps: -> (h', w', 3)."""
        return _coloured(self.mosaic(gap=gap), signed=self._signed)

    @property
    def _signed(self) -> bool:
        return bool((self.maps < 0).any())

    def png(self) -> bytes:
        """The mosaic with a colour bar, as a PNG."""
        heads = "1 head" if len(self.maps) == 1 else f"{len(self.maps)} heads"
        lines = (
            f"Relative position bias, {heads} of {self.name}",
            "by the key's offset from the query, which is in the middle",
        )
        return _draw(self._in_rows(), lines, signed=self._signed, numbered=False)

    def _in_rows(self) -> Matrix:
        """As nearly a square of maps as their number allows: (R, S, 2 h - 1, 2 w - 1)."""
        heads = len(self.maps)
        rows = max(n for n in range(1, math.isqrt(heads) + 1) if heads % n == 0)
        return self.maps.reshape(rows, heads // rows, *self.maps.shape[1:])

    def save(self, path: str | Path) -> None:
        """Write the maps (.npy), one row for each number (.csv), all there is (.npz) or a .png.

        Raises:
            ConfigError: another suffix.
            OSError: the file cannot be written.
        """
        h, w = self.window
        rows = (
            (head, down - h + 1, across - w + 1, float(bias))
            for (head, down, across), bias in np.ndenumerate(self.maps)
        )
        about = {"name": self.name, "window": self.window}
        _save(Path(path), self.maps, (("head", "down", "right", "bias"), rows), about, self.png)


def position_similarity(model: Backbone, size: Grid | None = None) -> PositionSimilarity:
    """How alike the position embeddings are that a model adds to tokens.

    `size` is of the image, height and width in pixels, by default the configured one; the table is
    resized to its grid as the model does.

    Raises:
        ConfigError: the model has no position embeddings; the message says what it has.
    """
    size = model.config.image_size if size is None else size
    if len(size) != 2 or min(size) < 1:
        raise ConfigError(f"size={size} is not (height, width) in pixels, both at least 1")
    table, prefix = _table(model, size)
    rows = table.detach().double().cpu().numpy()  # (P + h * w, D)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    units = rows / np.where(lengths > 0, lengths, 1)
    grid = find_sites(model, size)[0].grid
    return PositionSimilarity(np.clip(units @ units.T, -1, 1), grid, prefix)


def relative_biases(model: Backbone) -> list[RelativeBias]:
    """The biases of every block of a Swin or SwinV2, first to last.

    Windows follow the configured `image_size`, whatever image comes.

    Raises:
        ConfigError: the model has none.
    """
    if not isinstance(model, Swin):
        raise ConfigError(
            f"{type(model).__name__} has no relative position biases; choose a Swin, "
            "or look at position_similarity"
        )
    found = []
    for site in find_sites(model, model.config.image_size):
        assert isinstance(site, WindowSite)
        layer: Any = model.get_submodule(site.name)
        with torch.no_grad():
            bias = layer.position_bias().double().cpu().numpy()  # (H, N, N)
        found.append(RelativeBias(_by_offset(bias, site.window), site.name, site.window))
    return found


def _table(model: Backbone, size: Grid) -> tuple[Tensor, tuple[str, ...]]:
    """The position embeddings for an image, (P + h * w, D), and the names of the first P."""
    kind = type(model).__name__
    if isinstance(model, Swin):
        raise ConfigError(f"{kind} has no position embeddings but biases; use relative_biases")
    if not isinstance(model, ViT | CCT):
        raise ConfigError(
            f"{kind} has no position embeddings: convolutions know their neighbours; choose a ViT"
        )
    if model.pos_embed is None:
        raise ConfigError(
            f"position={model.config.position!r} leaves {kind} no position embeddings to look at; "
            "choose a model with position=learned"
        )
    grid = find_sites(model, size)[0].grid
    if isinstance(model, CCT):
        return resize_positions(model.pos_embed, model.config.grid, grid)[0], ()
    table = model.positions(grid)
    assert isinstance(table, Tensor)
    return table[0], prefix_names(model) if model.config.prefix_positions else ()


def _by_offset(bias: Matrix, window: Grid) -> Matrix:
    """From any query to any key, (H, N, N), to one value an offset: (H, 2 h - 1, 2 w - 1)."""
    down, across = (np.arange(1 - side, side) for side in window)
    top, left = np.maximum(-down, 0)[:, None], np.maximum(-across, 0)  # of a query whose key fits
    pairs = bias.reshape(-1, *window, *window)
    return np.ascontiguousarray(pairs[:, top, left, top + down[:, None], left + across])


def _distances(grid: Grid) -> Matrix:
    """Between any two cells, Euclidean, in cells: (h * w, h * w)."""
    rows, columns = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    distances: Matrix = np.hypot(rows[:, None] - rows, columns[:, None] - columns)
    return distances


def _row_ranks(values: Matrix) -> NDArray[np.float32]:
    """Ranks within each row without its own cell, ties shared, brought to mean 0 and length 1.

    The own cell gets 0, and so does a row without order. The product of two such rows is Spearman's
    rank correlation.
    """
    found = np.zeros(values.shape, np.float32)  # shuffles take a quarter of the time of float64
    for i, row in enumerate(values):
        others = np.arange(len(row)) != i
        place = ranks(row[others])
        place -= place.mean()
        length = np.linalg.norm(place)
        found[i, others] = place / length if length else 0
    return found


def _coloured(mosaic: Matrix, *, signed: bool = False) -> Pixels:
    """A mosaic in colours: NaN is white or, where white stands for 0, grey."""
    gaps = np.isnan(mosaic)
    pixels = colour(np.where(gaps, np.nanmax(mosaic), mosaic), signed=signed)
    pixels[gaps] = GREY if signed else PAPER
    return pixels


def _draw(maps: Matrix, lines: tuple[str, str], *, signed: bool, numbered: bool) -> bytes:
    """Maps in rows, (R, S, h, w), under two lines of text and beside a colour bar, as a PNG."""
    rows, columns, height, width = maps.shape
    times = -(-SIDE // max(rows * height, columns * width))
    large = tile(maps.repeat(times, 2).repeat(times, 3), gap=GAP, fill=np.nan)
    mosaic, bar = _coloured(large, signed=signed), colour_bar(maps, len(large), signed=signed)
    font = ImageFont.load_default(14)
    left, top = MARGIN + numbered * LINE, MARGIN + 2 * LINE
    right = max(left + mosaic.shape[1] + bar.width, *(int(font.getlength(text)) for text in lines))
    bottom = top + len(mosaic) + numbered * LINE
    sheet = Image.new("RGB", (right + 2 * MARGIN, bottom + MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    for i, text in enumerate(lines):
        pen.text((MARGIN, MARGIN - 4 + i * LINE), text, INK, font)
    sheet.paste(Image.fromarray(mosaic), (left, top))
    sheet.paste(bar, (left + mosaic.shape[1] + MARGIN, top))
    if numbered:
        for row, y in _middles(rows, height * times):
            pen.text((left - 8, top + y), str(row), INK, font, anchor="rm")
        for column, x in _middles(columns, width * times):
            pen.text((left + x, bottom - LINE + 8), str(column), INK, font, anchor="mt")
    return png(np.asarray(sheet))


def _middles(count: int, length: int) -> Iterator[tuple[int, float]]:
    """Numbers and middles, in pixels, of maps in a row, so few that their numbers have room."""
    for i in range(0, count, -(-WORD // (length + GAP))):
        yield i, i * (length + GAP) + length / 2


def _save(
    path: Path,
    values: Matrix,
    table: tuple[Sequence[object], Iterable[Sequence[object]]],
    about: Mapping[str, object],
    picture: Callable[[], bytes],
) -> None:
    """Write in the form that the suffix asks for, whole or not at all."""
    suffix = path.suffix.lower()
    if suffix == ".png":
        content = picture()
    elif suffix == ".csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows((table[0], *table[1]))
        content = text.getvalue().encode()
    elif suffix in (".npy", ".npz"):
        buffer = io.BytesIO()
        if suffix == ".npy":
            np.save(buffer, values)
        else:
            np.savez_compressed(buffer, values=values, about=json.dumps(about))
        content = buffer.getvalue()
    else:
        raise ConfigError(f"{path} is no .npy, .csv, .npz or .png; choose one of the four")
    whole_file.write_bytes(path, content)
