"""Where attention layers lie, against index grids that are rolled and cut by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import vitkit
from vitkit.errors import ConfigError
from vitkit.explain.sites import (
    GlobalSite,
    Grid,
    Site,
    WindowSite,
    find_sites,
    has_attention,
    prefix_names,
)
from vitkit.explain.tap import tap
from vitkit.models.backbone import Backbone

Build = Callable[..., Backbone]
Images = Callable[..., Tensor]
CASES = [
    ((8, 12), (4, 4), (2, 2)),
    ((10, 14), (4, 4), (2, 2)),  # windows do not divide it
    ((7, 9), (3, 4), (1, 0)),
    ((5, 7), (4, 4), (0, 0)),
    ((6, 6), (6, 6), (0, 0)),  # a single window
]


def random_maps(site: WindowSite, heads: int, batch: int = 2) -> Tensor:
    torch.manual_seed(0)
    down, across = (-(-g // w) for g, w in zip(site.grid, site.window, strict=True))
    inside = site.window[0] * site.window[1]
    shape = (batch * down * across, heads, inside, inside)
    return torch.randn(shape, dtype=torch.float64).softmax(-1)


def whole(maps: Tensor, site: WindowSite, layout: Callable[..., Any]) -> Tensor:
    """Maps between all tokens, padding last: entry by entry from (B * windows, H, N, N)."""
    places = layout(site.grid, site.window, site.shift)
    windows = int(places.window.max()) + 1
    each = maps.unflatten(0, (-1, windows))  # (B, windows, H, N, N)
    count = len(places.window)
    out = maps.new_zeros(len(each), maps.shape[1], count, count)
    for i in range(count):
        for j in range(count):
            if places.window[i] == places.window[j]:
                out[:, :, i, j] = each[:, places.window[i], :, places.inside[i], places.inside[j]]
    return out


@pytest.mark.parametrize(("grid", "window", "shift"), CASES)
def test_windows_are_put_back_where_they_lie(
    grid: Grid, window: Grid, shift: Grid, layout: Callable[..., Any]
) -> None:
    site = WindowSite("attn", 2, grid, window=window, shift=shift)
    maps = random_maps(site, heads=2)
    full = whole(maps, site, layout)
    count = site.tokens
    real = full[..., :count, :count]
    torch.testing.assert_close(site.expand(maps), real)
    for token in {0, 1, grid[1] - 1, grid[1], count // 2, count - 1}:
        torch.testing.assert_close(site.rows(maps, token), real[:, :, token])
        torch.testing.assert_close(site.columns(maps, token), real[..., token])
    fused = maps[:, :1]
    torch.testing.assert_close(site.sums(fused), full[:, 0, :count].sum(-1))
    shares = torch.rand(2, count, dtype=torch.float64)
    expected = torch.einsum("bi,bij->bj", shares, real[:, 0])
    torch.testing.assert_close(site.pull(shares, fused), expected)


def test_rows_sum_to_one_but_for_padding() -> None:
    site = WindowSite("attn", 2, (8, 12), window=(4, 4), shift=(2, 2))
    maps = random_maps(site, heads=2)
    for token in range(0, 96, 7):
        torch.testing.assert_close(site.rows(maps, token).sum(-1), torch.ones(2, 2).double())
    padded = WindowSite("attn", 2, (8, 11), window=(4, 4))
    maps = random_maps(padded, heads=2)
    assert (padded.rows(maps, 10).sum(-1) < 1).all()  # beside a padded column
    torch.testing.assert_close(padded.rows(maps, 0).sum(-1), torch.ones(2, 2).double())


def test_a_global_site_reads_maps_as_they_are() -> None:
    site = GlobalSite("attn", 2, (2, 3), ("CLS",))
    maps = torch.rand(2, 2, 7, 7, dtype=torch.float64)
    shares = torch.rand(2, 7, dtype=torch.float64)
    assert site.tokens == 7
    for token in range(7):
        torch.testing.assert_close(site.rows(maps, token), maps[:, :, token, :])
        torch.testing.assert_close(site.columns(maps, token), maps[:, :, :, token])
    expected = torch.stack([shares[b] @ maps[b, 0] for b in range(2)])
    torch.testing.assert_close(site.pull(shares, maps[:, :1]), expected)
    torch.testing.assert_close(site.sums(maps[:, :1]), maps[:, 0].sum(2))
    torch.testing.assert_close(site.expand(maps), maps)


def test_token_names() -> None:
    site = GlobalSite("attn", 2, (2, 3), ("CLS", "DIST"))
    names = [site.token_name(token) for token in range(site.tokens)]
    assert names[:4] == ["CLS", "DIST", "row 0, column 0", "row 0, column 1"]
    assert names[5:] == ["row 1, column 0", "row 1, column 1", "row 1, column 2"]


PREFIXES = {
    "vit": ("CLS",),
    "registers": ("CLS", "REG 1", "REG 2"),
    "attention pool": ("CLS", "REG 1"),
    "no class token": (),
    "deit": ("CLS", "DIST"),
    "hybrid": ("CLS",),
    "stem": (),
    "cct": (),
}
SIZES = [None, (40, 24), (37, 50), (9, 70)]  # its own, and others that patches do not divide


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PREFIXES)
def test_tokens_are_those_of_the_maps(
    name: str, size: Grid | None, build: Build, images: Images
) -> None:
    model = build(name)
    x = images(model, 1, size)
    sites = find_sites(model, (x.shape[2], x.shape[3]))
    maps: dict[int, Tensor] = {}
    with torch.no_grad():
        tap(model, maps.__setitem__)(x)
        cells = model.forward_intermediates(x, 1, intermediates_only=True)[0]  # (B, D, h, w)
    assert sorted(maps) == list(range(len(sites))) and len(sites) == model.config.depth
    for i, site in enumerate(sites):
        assert site.name == f"blocks.{i}.attn"
        assert site.grid == tuple(cells.shape[2:])
        assert site.prefix == PREFIXES[name] == prefix_names(model)
        assert maps[i].shape == (1, site.num_heads, site.tokens, site.tokens)


@pytest.mark.parametrize("size", [None, (44, 60), (33, 81)])
@pytest.mark.parametrize("name", ["swin", "swinv2"])
def test_stages_of_swin(name: str, size: Grid | None, build: Build, images: Images) -> None:
    model = build(name)
    x = images(model, 2, size)
    sites = find_sites(model, (x.shape[2], x.shape[3]))
    maps: dict[int, Tensor] = {}
    with torch.no_grad():
        tap(model, maps.__setitem__)(x)
        stages = model.forward_intermediates(x, intermediates_only=True)
    assert [site.stage for site in sites] == [0, 0, 1, 1, 2, 2]
    assert [site.num_heads for site in sites] == [2, 2, 4, 4, 4, 4]
    for i, site in enumerate(sites):
        assert isinstance(site, WindowSite)
        assert site.name == f"layers.{i // 2}.blocks.{i % 2}.attn"
        assert site.grid == tuple(stages[site.stage].shape[2:])
        assert site.expand(maps[i]).shape == (2, site.num_heads, site.tokens, site.tokens)


def heard(model: Backbone, x: Tensor) -> tuple[list[Site], dict[int, Tensor]]:
    maps: dict[int, Tensor] = {}
    with torch.no_grad():
        tap(model, maps.__setitem__)(x)
    return find_sites(model, (x.shape[2], x.shape[3])), maps


@pytest.mark.parametrize("name", ["swin", "swinv2"])
@pytest.mark.parametrize("size", [None, (44, 60)])
def test_rows_lie_at_the_pixels_that_they_came_from(
    name: str, size: Grid | None, build: Build, images: Images
) -> None:
    """Another patch changes a token's row only if it lies in what the token can have seen."""
    model = build(name)
    x = images(model, 1, size)
    sites, before = heard(model, x)
    height, width = sites[0].grid
    for changed in ((0, 0), (3, 5), (height - 1, width - 1)):
        other = x.clone()
        rows, columns = (slice(4 * cell, 4 * cell + 4) for cell in changed)
        other[:, :, rows, columns] += 1
        _, after = heard(model, other)
        for token in range(0, sites[0].tokens, 3):
            row, column = divmod(token, width)
            same = (row // 4, column // 4) == (changed[0] // 4, changed[1] // 4)
            old, new = (sites[0].rows(maps[0], token) for maps in (before, after))
            assert torch.equal(old, new) != same  # the first block's windows are not shifted


@pytest.mark.parametrize("name", ["swin", "swinv2"])
def test_a_shifted_row_reaches_its_neighbours_and_no_further(
    name: str, build: Build, images: Images
) -> None:
    """Windows of 4 tokens, moved by 2, begin at -2, 2, 6 and so on; none joins two edges."""
    model = build(name)
    sites, maps = heard(model, images(model, 1))
    assert isinstance(sites[1], WindowSite) and sites[1].shift == (2, 2)
    height, width = sites[1].grid
    for token in range(0, sites[1].tokens, 5):
        row, column = divmod(token, width)
        cells = sites[1].rows(maps[1], token)[0].amin(0).unflatten(0, (height, width))
        seen = (cells > 1e-20).nonzero().tolist()
        near = [
            [r, c]
            for r in range(height)
            for c in range(width)
            if (r + 2) // 4 == (row + 2) // 4 and (c + 2) // 4 == (column + 2) // 4
        ]
        assert seen == near


def test_a_cnn_has_no_sites() -> None:
    model = vitkit.create_model("convnet_3_32", num_classes=2)
    assert not has_attention(model)
    with pytest.raises(ConfigError, match="ConvNet has no attention to look at; choose gradcam"):
        find_sites(model, (32, 32))


@pytest.mark.parametrize("name", ["vit", "cct", "swin", "swinv2", "hybrid"])
def test_what_attends_is_known(name: str, build: Build) -> None:
    assert has_attention(build(name))
