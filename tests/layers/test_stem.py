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
