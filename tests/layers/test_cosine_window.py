"""Cosine attention in windows against the paper's equations, written out by hand, and timm's."""

import math

import pytest
import torch
from timm.models.swin_transformer_v2 import WindowAttention as TimmAttention
from torch import Tensor

from vitkit.errors import ConfigError
from vitkit.layers.cosine_window import CosineWindowAttention, log_offsets
from vitkit.layers.window import partition, shift_mask


def random_layer(window: tuple[int, int], **settings: object) -> CosineWindowAttention:
    """A layer of width 8 with random weights, one of its two scales beyond the limit."""
    torch.manual_seed(0)
    layer = CosineWindowAttention(8, 2, window, **settings)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    torch.nn.init.normal_(layer.cpb_mlp[2].weight, std=0.1)
    with torch.no_grad():
        layer.logit_scale.copy_(torch.tensor([1.3, 7.0]).reshape(2, 1, 1))
    return layer.eval()


@pytest.mark.parametrize(
    ("window", "trained"),
    [
        ((8, 8), (8, 8)),
        ((16, 16), (12, 12)),
        ((6, 7), (6, 7)),
        ((1, 3), (1, 3)),
        ((12, 12), (6, 6)),
    ],
)
def test_log_offsets(window: tuple[int, int], trained: tuple[int, int]) -> None:
    def place(step: int, known: int) -> float:
        scaled = 8 * step / max(known - 1, 1)
        return math.copysign(math.log(abs(scaled) + 1, 8), step)

    offsets = log_offsets(window, trained)
    rows, columns = range(1 - window[0], window[0]), range(1 - window[1], window[1])
    expected = [[(place(i, trained[0]), place(j, trained[1])) for j in columns] for i in rows]
    torch.testing.assert_close(offsets, torch.tensor(expected), rtol=1e-6, atol=1e-6)
    theirs = TimmAttention(8, window, 2, pretrained_window_size=trained).relative_coords_table[0]
    assert torch.equal(offsets, theirs)  # to the bit, so that float64 agrees too


def written_out(
    layer: CosineWindowAttention, x: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Equations 2 to 4, one window and one head at a time: output and maps."""
    height, width = layer.window
    cells = [(i, j) for i in range(height) for j in range(width)]
    spread = [side - 1 for side in layer.pretrained]
    places = [
        [[8 * (p - q) / s for p, q, s in zip(a, b, spread, strict=True)] for b in cells]
        for a in cells
    ]
    offsets = torch.tensor(places, dtype=torch.float64)  # (N, N, 2)
    offsets = offsets.sign() * (1 + offsets.abs()).log() / math.log(8)
    first, last = layer.cpb_mlp[0], layer.cpb_mlp[2]
    hidden = (offsets @ first.weight.T + first.bias).clamp(min=0)
    bias = 16 / (1 + (-(hidden @ last.weight.T)).exp())  # (N, N, H)
    wq, wk, wv = layer.qkv.weight.chunk(3)
    outputs, maps = [], []
    for index, window in enumerate(x):
        heads = []
        for head, own in enumerate((slice(0, 4), slice(4, 8))):
            q = window @ wq[own].T + layer.q_bias[own]
            k = window @ wk[own].T
            v = window @ wv[own].T + layer.v_bias[own]
            cosine = torch.cosine_similarity(q[:, None], k[None], dim=-1)
            scores = cosine * (math.exp(1.3), 100.0)[head] + bias[:, :, head]
            if mask is not None:
                scores = scores + mask[index % len(mask)]
            maps.append(scores.softmax(-1))
            heads.append(maps[-1] @ v)
        outputs.append(torch.cat(heads, -1) @ layer.proj.weight.T + layer.proj.bias)
    return torch.stack(outputs), torch.stack(maps).unflatten(0, (len(x), 2))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("window", "known"), [((3, 3), None), ((2, 4), None), ((4, 3), (2, 2))])
def test_matches_the_formula(
    window: tuple[int, int], known: tuple[int, int] | None, masked: bool
) -> None:
    layer = random_layer(window, pretrained=known).double()
    assert layer.pretrained == (known or window)
    size, shift = (2 * window[0], 3 * window[1]), (1, 1)
    x = partition(torch.randn(2, *size, 8, dtype=torch.float64), window)  # (12, N, 8)
    mask = shift_mask(size, window, shift, dtype=torch.float64) if masked else None
    expected, expected_maps = written_out(layer, x, mask)
    maps: list[Tensor] = []
    loose = {"rtol": 1e-5, "atol": 1e-5}  # our offsets are of float32
    torch.testing.assert_close(layer(x, mask), expected, **loose)
    layer.on_map = maps.append
    torch.testing.assert_close(layer(x, mask), expected, **loose)
    torch.testing.assert_close(maps[0], expected_maps, **loose)


@pytest.mark.parametrize("known", [None, (3, 3)])
def test_matches_timm(known: tuple[int, int] | None) -> None:
    layer = random_layer((4, 5), pretrained=known).double()
    theirs = TimmAttention(8, (4, 5), 2, pretrained_window_size=known or (0, 0)).double()
    theirs.load_state_dict(layer.state_dict(), strict=True)
    x = torch.randn(6, 20, 8, dtype=torch.float64)
    mask = shift_mask((8, 15), (4, 5), (2, 2), dtype=torch.float64)
    torch.testing.assert_close(layer(x, mask), theirs(x, mask), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer(x), theirs(x), rtol=1e-12, atol=1e-12)


def test_bias_stays_within_its_bounds() -> None:
    layer = random_layer((3, 4))
    torch.nn.init.normal_(layer.cpb_mlp[2].weight, std=100)
    bias = layer.position_bias()
    assert bias.shape == (2, 12, 12)
    assert bias.min() >= 0 and bias.max() <= 16 and bias.max() > 15


def test_initial_weights() -> None:
    layer = CosineWindowAttention(8, 2, (3, 3))
    torch.testing.assert_close(layer.logit_scale.exp(), torch.full((2, 1, 1), 10.0))
    assert not layer.q_bias.any() and not layer.v_bias.any()


def test_tokens_of_zero_have_finite_gradients() -> None:
    """As on padded maps: without a bias, queries and keys of zeros have no direction."""
    layer = CosineWindowAttention(8, 2, (3, 3))
    x = torch.zeros(2, 9, 8, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


@pytest.mark.parametrize("masked", [False, True])
def test_bfloat16(masked: bool) -> None:
    """Under autocast and with weights of that type, to its few digits of the largest value."""
    layer = random_layer((4, 4))
    with torch.no_grad():
        layer.logit_scale.fill_(1)
    x = torch.randn(4, 16, 8)
    mask = shift_mask((8, 8), (4, 4), (2, 2)) if masked else None
    expected = layer(x, mask).detach()
    with torch.autocast("cpu", torch.bfloat16):
        cast = layer(x, mask)
    layer.bfloat16()
    pure = layer(x.bfloat16(), None if mask is None else mask.bfloat16())
    for given in (cast, pure):
        assert given.dtype == torch.bfloat16
        assert (given.float() - expected).abs().max() < 0.05 * expected.abs().max()


def test_dropout_acts_only_in_training() -> None:
    layer = random_layer((3, 3), attention_dropout=0.5).train()
    x = torch.randn(4, 9, 8)
    assert not torch.allclose(layer(x), layer(x))
    layer.eval()
    torch.testing.assert_close(layer(x), layer(x))


def test_width_must_divide() -> None:
    with pytest.raises(ConfigError, match="dim=10 is not a multiple of num_heads=4; try num_he"):
        CosineWindowAttention(10, 4, (7, 7))
