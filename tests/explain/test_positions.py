"""Similarities against NumPy and SciPy, biases against the table that Swin reads them from."""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import spearmanr
from torch import nn

import vitkit
from vitkit.errors import ConfigError
from vitkit.explain.picture import VIRIDIS
from vitkit.explain.positions import (
    PositionSimilarity,
    RelativeBias,
    position_similarity,
    relative_biases,
)
from vitkit.models.backbone import Backbone

Matrix = NDArray[np.float64]


def tiny(name: str = "vit_tiny_patch16_224", **settings: Any) -> Backbone:
    """A model of 4 x 6 cells whose every position is random."""
    torch.manual_seed(0)
    given = {"image_size": (32, 48), "patch_size": 8, "dim": 32, "depth": 1, "num_heads": 2}
    if name.startswith("cct"):
        del given["patch_size"]
        given |= {"conv_layers": 3}
    if name.startswith("vit_tiny_r"):
        given |= {"image_size": (128, 192), "patch_size": 32}
    model = vitkit.create_model(name, num_classes=5, **(given | settings))
    if isinstance(model.pos_embed, nn.Parameter):
        nn.init.normal_(model.pos_embed)
    return model


def swin(name: str = "swin_tiny_patch4_window7_224", **settings: Any) -> Backbone:
    """A Swin of windows of 4 x 5 tokens, then of 4 x 3."""
    torch.manual_seed(0)
    given = {"image_size": (32, 40), "dim": 16, "depths": (2, 1), "num_heads": (2, 4)}
    return vitkit.create_model(name, **(given | {"window_size": 5, "num_classes": 5} | settings))


def cosines(table: Matrix) -> Matrix:
    """Similarities of rows one by one; 0 to a row of zeros."""
    matrix = np.zeros((len(table), len(table)))
    for i, one in enumerate(table):
        for j, other in enumerate(table):
            lengths = math.sqrt(one @ one) * math.sqrt(other @ other)
            matrix[i, j] = one @ other / lengths if lengths else 0
    return matrix


@pytest.mark.parametrize(
    ("name", "settings", "prefix"),
    [
        ("vit_tiny_patch16_224", {}, ("CLS",)),
        ("vit_tiny_patch16_224", {"position": "sincos_1d"}, ("CLS",)),
        ("vit_tiny_patch16_224", {"position": "sincos_2d"}, ("CLS",)),
        ("vit_tiny_patch16_224", {"class_token": False, "pool": "mean"}, ()),
        ("vit_tiny_patch16_224", {"registers": 2}, ("CLS", "REG 1", "REG 2")),
        ("vit_tiny_patch16_224", {"registers": 2, "prefix_positions": False}, ()),
        ("vit_tiny_patch16_224", {"stem": (8, 16, 32)}, ("CLS",)),
        ("deit_tiny_distilled_patch16_224", {}, ("CLS", "DIST")),
        ("deit3_small_patch16_224", {}, ()),
        ("vit_tiny_r_s16_p8_224", {}, ("CLS",)),
        ("cct_7_3x1_32", {}, ()),
        ("cct_7_3x1_32", {"position": "sincos_1d"}, ()),
    ],
    ids=str,
)
def test_matrix_is_the_cosine_of_any_two_rows(
    name: str, settings: dict[str, Any], prefix: tuple[str, ...]
) -> None:
    model = tiny(name, **settings)
    found = position_similarity(model)
    table = model.pos_embed.detach().double().numpy()[0]
    assert found.grid == (4, 6) and found.prefix == prefix
    assert found.matrix.shape == (len(prefix) + 24,) * 2
    np.testing.assert_allclose(found.matrix, cosines(table), atol=1e-12)
    assert len(found.tokens) == len(found.matrix)
    assert found.tokens[: len(prefix)] == prefix and found.tokens[-1] == "row 3, column 5"


@pytest.mark.parametrize(("patch_size", "side", "tokens"), [(4, 32, 65), (16, 224, 197)])
def test_size_of_the_matrix(patch_size: int, side: int, tokens: int) -> None:
    model = tiny(image_size=side, patch_size=patch_size)
    assert position_similarity(model).matrix.shape == (tokens, tokens)


@pytest.mark.parametrize("size", [(48, 32), (16, 16), (33, 90), (8, 8)])
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "cct_7_3x1_32"])
def test_another_image_size_resizes_the_table(name: str, size: tuple[int, int]) -> None:
    """48 x 32 has as many tokens as the native 32 x 48, on another grid."""
    model = tiny(name)
    prefix = int(name.startswith("vit"))
    grid = (-(-size[0] // 8), -(-size[1] // 8))
    table = model.pos_embed.detach()[0]
    cells = table[prefix:].T.reshape(1, 32, 4, 6)
    resized = F.interpolate(cells, grid, mode="bicubic", antialias=True).reshape(32, -1).T
    found = position_similarity(model, size)
    expected = cosines(torch.cat([table[:prefix], resized]).double().numpy())
    assert found.grid == grid
    np.testing.assert_allclose(found.matrix, expected, atol=1e-6)


def test_a_position_of_zeros_is_like_nothing() -> None:
    matrix = position_similarity(tiny(position="sincos_2d")).matrix
    assert not matrix[0].any() and not matrix[:, 0].any()
    np.testing.assert_allclose(np.diag(matrix)[1:], 1)


@pytest.mark.parametrize("gap", [0, 1, 3])
def test_mosaic_has_each_cells_map_in_its_place(gap: int) -> None:
    found = position_similarity(tiny())
    mosaic = found.mosaic(gap=gap)
    assert mosaic.shape == (4 * 4 + 3 * gap, 6 * 6 + 5 * gap)
    seen = np.zeros(mosaic.shape, bool)
    for row in range(4):
        for column in range(6):
            top, left = row * (4 + gap), column * (6 + gap)
            tile = np.s_[top : top + 4, left : left + 6]
            expected = found.matrix[1 + 6 * row + column, 1:].reshape(4, 6)
            np.testing.assert_array_equal(mosaic[tile], expected)
            seen[tile] = True
    assert np.isnan(mosaic[~seen]).all()


def test_colours_run_from_the_least_to_the_most() -> None:
    found = position_similarity(tiny())
    mosaic, pixels = found.mosaic(), found.picture()
    assert pixels.shape == (*mosaic.shape, 3)
    assert (pixels[np.isnan(mosaic)] == 255).all()
    assert tuple(pixels[np.unravel_index(np.nanargmin(mosaic), mosaic.shape)]) == VIRIDIS[0]
    assert (pixels[mosaic == np.nanmax(mosaic)] == VIRIDIS[-1]).all()


def test_layout_is_the_mean_of_rank_correlations() -> None:
    found = position_similarity(tiny(position="sincos_1d", dim=16))
    correlations = []
    for row in range(4):
        for column in range(6):
            alike, near = [], []
            for other_row in range(4):
                for other_column in range(6):
                    if (other_row, other_column) != (row, column):
                        alike.append(found.maps[row, column, other_row, other_column])
                        near.append(-math.dist((row, column), (other_row, other_column)))
            correlations.append(spearmanr(np.round(alike, 9), near).statistic)
    layout = found.layout()
    assert layout.score == pytest.approx(np.mean(correlations), abs=1e-6)
    assert 0.3 < layout.score < 0.9


def near(grid: tuple[int, int]) -> Matrix:
    """A similarity that falls with distance alone."""
    cells = np.array([(r, c) for r in range(grid[0]) for c in range(grid[1])])
    return 1 - np.linalg.norm(cells[:, None] - cells, axis=-1) / 20


@pytest.mark.parametrize("grid", [(4, 6), (1, 9), (8, 8)])
def test_layout_is_1_where_similarity_falls_with_distance(grid: tuple[int, int]) -> None:
    layout = PositionSimilarity(near(grid), grid).layout()
    assert layout.score == pytest.approx(1, abs=1e-6)
    assert layout.p_value <= 0.02 and abs(layout.shuffled_mean) < 0.1
    turned = PositionSimilarity(-near(grid), grid).layout()
    assert turned.score == pytest.approx(-1, abs=1e-6) and turned.p_value == 1


def test_layout_does_not_count_prefix_tokens() -> None:
    matrix = np.zeros((25, 25))
    matrix[1:, 1:] = near((4, 6))
    assert PositionSimilarity(matrix, (4, 6), ("CLS",)).layout().score == pytest.approx(1)


def test_layout_is_0_where_all_positions_are_the_same() -> None:
    model = tiny()
    with torch.no_grad():
        model.pos_embed[:] = torch.randn(32)
    layout = position_similarity(model, (64, 64)).layout()
    assert layout.score == layout.shuffled_mean == layout.shuffled_std == 0
    assert layout.p_value == 1


def test_p_values_of_random_tables_are_uniform() -> None:
    generator = np.random.default_rng(0)
    values = []
    for seed in range(60):
        table = generator.normal(size=(24, 16))
        layout = PositionSimilarity(cosines(table), (4, 6)).layout(shuffles=39, seed=seed)
        assert abs(layout.score) < 0.25
        values.append(layout.p_value)
    assert 0.4 < np.mean(values) < 0.65  # 0.51 expected, 0.037 its deviation
    assert min(values) >= 1 / 40 and max(values) > 0.9


def test_shuffles_follow_the_seed() -> None:
    found = position_similarity(tiny(position="sincos_2d"))
    once, again, other = (found.layout(shuffles=20, seed=seed) for seed in (1, 1, 2))
    assert once == again and once.shuffled_mean != other.shuffled_mean
    assert once.score == other.score and once.p_value == pytest.approx(1 / 21)


def test_two_dimensional_sinusoids_know_more_than_one_dimensional_ones() -> None:
    scores = {}
    for position in ("sincos_1d", "sincos_2d", "learned"):
        model = tiny(position=position, image_size=224, patch_size=16, dim=192)
        scores[position] = position_similarity(model).layout(shuffles=1).score
    assert 0.83 < scores["sincos_2d"] < 0.85 and 0.61 < scores["sincos_1d"] < 0.65
    assert abs(scores["learned"]) < 0.05  # nothing was learned yet


@pytest.mark.parametrize("image_size", [(32, 40), (16, 40), (64, 64)])
def test_biases_of_swin_are_its_tables(image_size: tuple[int, int]) -> None:
    """The table has the offset of the query from the key, so the other way round, in each axis."""
    model = swin(image_size=image_size)
    found = relative_biases(model)
    assert [bias.name for bias in found] == [
        f"layers.{stage}.blocks.{block}.attn" for stage, block in ((0, 0), (0, 1), (1, 0))
    ]
    for bias in found:
        layer = model.get_submodule(bias.name)
        height, width = bias.window
        assert bias.window == layer.window
        table = layer.relative_position_bias_table.detach().double().numpy()
        table = table.reshape(2 * height - 1, 2 * width - 1, -1)
        assert bias.maps.shape == (table.shape[2], *table.shape[:2])
        np.testing.assert_array_equal(bias.maps, table[::-1, ::-1].transpose(2, 0, 1))


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"])
def test_a_bias_is_that_of_every_pair_with_its_offset(name: str) -> None:
    more = {"pretrained_window_sizes": (0, 0)} if name.startswith("swinv2") else {}
    model = swin(name, **more)
    for bias in relative_biases(model):
        pairs = model.get_submodule(bias.name).position_bias().detach().double().numpy()
        height, width = bias.window
        for query in range(height * width):
            for key in range(height * width):
                down = key // width - query // width
                right = key % width - query % width
                value = bias.maps[:, down + height - 1, right + width - 1]
                np.testing.assert_allclose(value, pairs[:, query, key], rtol=1e-6)


def test_biases_of_swinv2_are_computed() -> None:
    """16 times the sigmoid of a network of logarithmic offsets (arXiv:2111.09883, eq. 3 and 4)."""
    model = swin("swinv2_tiny_window8_256", pretrained_window_sizes=(0, 0))
    bias = relative_biases(model)[0]
    mlp = model.get_submodule(f"{bias.name}.cpb_mlp")
    assert bias.window == (5, 5) and bias.maps.shape == (2, 9, 9)
    for down, right in [(0, 0), (-4, 3), (2, -1)]:
        offset = [math.copysign(math.log2(1 + abs(s) * 2) / 3, -s) for s in (down, right)]
        expected = 16 * mlp(torch.tensor(offset)).sigmoid().detach().numpy()
        np.testing.assert_allclose(bias.maps[:, down + 4, right + 4], expected, rtol=1e-5)


@pytest.mark.parametrize(("heads", "rows"), [(1, 1), (3, 1), (4, 2), (12, 3), (24, 4)])
def test_mosaic_of_heads(heads: int, rows: int) -> None:
    maps = np.random.default_rng(0).normal(size=(heads, 3, 5))
    found = RelativeBias(maps, "attn", (2, 3))
    mosaic, columns = found.mosaic(gap=2), heads // rows
    assert mosaic.shape == (rows * 5 - 2, columns * 7 - 2)
    for head in range(heads):
        top, left = head // columns * 5, head % columns * 7
        np.testing.assert_array_equal(mosaic[top : top + 3, left : left + 5], maps[head])
    assert np.isnan(mosaic).sum() == mosaic.size - maps.size
    assert found.picture().shape == (rows * 4 - 1, columns * 6 - 1, 3)


def test_zero_is_white_among_biases_of_both_signs() -> None:
    maps = np.array([[[-1.0, 0, 0.5]], [[0.2, 0, 0]]])
    pixels = RelativeBias(maps, "attn", (1, 2)).picture()
    assert (pixels[0, [1, 5, 6]] == 247).all() and pixels[0, 3].max() < 200  # 3 is the gap
    assert pixels[0, 0, 2] > pixels[0, 0, 0] and pixels[0, 2, 2] < pixels[0, 2, 0]


def test_files_of_similarities(tmp_path: Path) -> None:
    found = position_similarity(tiny())
    for suffix in ("npy", "NPZ", "csv", "png"):
        found.save(tmp_path / f"positions.{suffix}")
    np.testing.assert_array_equal(np.load(tmp_path / "positions.npy"), found.matrix)
    with np.load(tmp_path / "positions.NPZ", allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["values"], found.matrix)
        about = json.loads(str(archive["about"]))
    assert about == {"tokens": list(found.tokens), "grid": [4, 6], "prefix": ["CLS"]}
    header, *rows = csv.reader(io.StringIO((tmp_path / "positions.csv").read_text("utf-8")))
    assert header == ["token", *found.tokens] and [row[0] for row in rows] == header[1:]
    values = np.array([row[1:] for row in rows], float)
    np.testing.assert_array_equal(values, found.matrix)
    with Image.open(tmp_path / "positions.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20)}
    assert {VIRIDIS[0], VIRIDIS[-1]} <= colours
    assert len(list(tmp_path.iterdir())) == 4  # nothing half written is left


def test_files_of_biases(tmp_path: Path) -> None:
    found = relative_biases(swin())[2]  # windows of 4 x 5
    for suffix in ("npy", "npz", "csv", "png"):
        found.save(tmp_path / f"bias.{suffix}")
    np.testing.assert_array_equal(np.load(tmp_path / "bias.npy"), found.maps)
    with np.load(tmp_path / "bias.npz", allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["values"], found.maps)
        about = json.loads(str(archive["about"]))
    assert about == {"name": "layers.1.blocks.0.attn", "window": list(found.window)}
    rows = list(csv.DictReader(io.StringIO((tmp_path / "bias.csv").read_text("utf-8"))))
    height, width = found.window
    assert len(rows) == found.maps.size
    for row in rows:
        down, right = int(row["down"]) + height - 1, int(row["right"]) + width - 1
        assert float(row["bias"]) == found.maps[int(row["head"]), down, right]
    with Image.open(tmp_path / "bias.png") as picture:
        assert picture.size[0] > 560


def test_an_unknown_suffix_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"x.txt is no .npy, .csv, .npz or .png; choose one"):
        position_similarity(tiny()).save(tmp_path / "x.txt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("grid", [(1, 3), (40, 1), (20, 30)])
def test_pictures_of_any_grid(grid: tuple[int, int]) -> None:
    matrix = near(grid)
    picture = Image.open(io.BytesIO(PositionSimilarity(matrix, grid).png()))
    assert 560 < max(picture.size) < 2400


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("vit", {"position": "none"}, "position='none' leaves ViT no position embeddings to look"),
        ("cct", {"position": "none"}, "position='none' leaves CCT no position embeddings"),
        ("swin", {}, "Swin has no position embeddings but biases; use relative_biases"),
        ("cnn", {}, "ConvNet has no position embeddings: convolutions know .*; choose a ViT"),
    ],
)
def test_models_without_position_embeddings(
    name: str, settings: dict[str, Any], message: str
) -> None:
    model = {
        "vit": lambda: tiny(**settings),
        "cct": lambda: tiny("cct_7_3x1_32", **settings),
        "swin": swin,
        "cnn": lambda: vitkit.create_model("convnet_3_32", num_classes=2),
    }[name]()
    with pytest.raises(ConfigError, match=message):
        position_similarity(model)


def test_models_without_biases() -> None:
    with pytest.raises(ConfigError, match="ViT has no relative position biases; choose a Swin"):
        relative_biases(tiny())


def test_what_has_no_layout() -> None:
    with pytest.raises(ConfigError, match=r"grid=\(1, 2\) has no layout; .* 3 cells or more"):
        position_similarity(tiny(), (8, 16)).layout()
    with pytest.raises(ConfigError, match="shuffles=0 leaves no control; try 199"):
        position_similarity(tiny()).layout(shuffles=0)
    with pytest.raises(ConfigError, match=r"size=\(0, 8\) is not \(height, width\) in pixels"):
        position_similarity(tiny(), (0, 8))
