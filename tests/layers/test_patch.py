import pytest
import torch
import torch.nn.functional as F
from timm.layers import HybridEmbed as TimmHybridEmbed
from torch import nn

from vitkit.errors import ConfigError
from vitkit.layers.patch import HybridEmbed, PatchEmbed, cells_of_patch


@pytest.mark.parametrize("patch", [1, 4, 7])
@pytest.mark.parametrize("grid", [(3, 3), (2, 5)])
@pytest.mark.parametrize("channels", [1, 3])
def test_is_a_matrix_product_with_each_patch(
    channels: int, grid: tuple[int, int], patch: int
) -> None:
    layer = PatchEmbed(channels, 6, patch).double()
    x = torch.randn(2, channels, grid[0] * patch, grid[1] * patch, dtype=torch.float64)
    patches = F.unfold(x, patch, stride=patch).mT  # (B, h * w, C * p * p)
    expected = patches @ layer.proj.weight.flatten(1).T + layer.proj.bias
    torch.testing.assert_close(layer(x), expected.unflatten(1, grid))


@pytest.mark.parametrize("size", [(7, 8), (8, 5), (3, 1), (9, 10)])
def test_odd_sides_are_padded_with_zeros_below_and_right(size: tuple[int, int]) -> None:
    layer = PatchEmbed(2, 6, 4)
    x = torch.randn(2, 2, *size)
    height, width = (side + -side % 4 for side in size)
    padded = torch.zeros(2, 2, height, width)
    padded[:, :, : size[0], : size[1]] = x
    assert layer(x).shape == (2, height // 4, width // 4, 6)
    assert torch.equal(layer(x), layer(padded))


def test_norm_after_the_projection() -> None:
    plain, normed = PatchEmbed(3, 6, 4).double(), PatchEmbed(3, 6, 4, norm_eps=1e-3).double()
    normed.proj.load_state_dict(plain.proj.state_dict())
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    y = plain(x)
    centred = y - y.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-3).sqrt()
    torch.testing.assert_close(normed(x), expected)


@pytest.mark.parametrize("cells", [1, 2])
@pytest.mark.parametrize("size", [(12, 18), (13, 20)])
def test_patches_of_a_map_match_timm(size: tuple[int, int], cells: int) -> None:
    backbone = nn.Conv2d(3, 5, 3, stride=3, padding=1).double()
    ours = HybridEmbed(backbone, 5, 6, cells).double()
    theirs = TimmHybridEmbed(
        nn.Conv2d(3, 5, 3, stride=3, padding=1),
        img_size=(12, 18),
        patch_size=cells,
        embed_dim=6,
        output_fmt="NHWC",
        dynamic_img_pad=True,
    ).double()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x))


def test_a_patch_is_made_of_whole_cells() -> None:
    assert cells_of_patch(32, 4) == 8
    with pytest.raises(ConfigError, match="patch_size=20 is not a multiple of the 16 .*; try 32"):
        cells_of_patch(20, 16)
