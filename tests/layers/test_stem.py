import pytest
import torch
from timm.layers import ConvNormAct
from torch import nn

from vitkit.layers.stem import ConvStem, stem_stride, stem_strides


@pytest.mark.parametrize(
    ("widths", "strides"),
    [
        ((24, 48, 96, 192), [2, 2, 2, 2]),
        ((64, 128, 128, 256, 256, 512), [2, 2, 1, 2, 1, 2]),
        ((64,), [2]),
        ((), []),
    ],
)
def test_width_grows_where_the_map_shrinks(widths: tuple[int, ...], strides: list[int]) -> None:
    """arXiv:2106.14881, section 3: stems for 1GF and 18GF, both 16 pixels to a cell."""
    assert stem_strides(widths) == strides
    assert stem_stride(widths) == 2 ** sum(stride == 2 for stride in strides)


def test_a_pool_after_each_width_halves_the_map() -> None:
    widths = (4, 6, 6, 8)
    assert stem_stride(widths, pool=True) == 8
    assert stem_stride((), pool=True) == 1
    ours = ConvStem(3, widths, pool=True).double().eval()
    x = torch.randn(2, 3, 9, 16, dtype=torch.float64)
    expected = x
    convs = [layer for layer in ours if not isinstance(layer, nn.MaxPool2d)]
    for i, conv in enumerate(convs):
        expected = conv(expected)
        if i in (0, 2, 3):  # the odd row at the end makes a cell of its own
            expected = nn.functional.pad(expected, (0, 0, 0, expected.shape[2] % 2), value=-1)
            expected = expected.unfold(2, 2, 2).unfold(3, 2, 2).amax(dim=(-1, -2))
    assert ours(x).shape == (2, 8, 2, 2)
    torch.testing.assert_close(ours(x), expected)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("size", [(16, 24), (15, 9)])
def test_matches_a_stack_of_timms_layers(size: tuple[int, int], training: bool) -> None:
    widths, strides = (4, 8, 8), (2, 2, 1)
    ours = ConvStem(3, widths).double().train(training)
    theirs = nn.Sequential(
        *(
            ConvNormAct(before, width, 3, stride)
            for before, width, stride in zip((3, 4, 8), widths, strides, strict=True)
        )
    )
    theirs = theirs.double().train(training)
    for tensor in ours.state_dict().values():
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.1, 1)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    assert ours(x).shape == (2, 8, -(-size[0] // 4), -(-size[1] // 4))
    torch.testing.assert_close(ours(x), theirs(x))
