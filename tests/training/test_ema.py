"""The moving average of the weights."""

import pytest
import torch

from vitkit.models import create_model
from vitkit.models.backbone import Backbone
from vitkit.training.ema import WeightAverage


def small(position: str = "learned") -> Backbone:
    torch.manual_seed(0)
    return create_model(
        "vit_tiny_patch16_224",
        num_classes=3,
        image_size=16,
        patch_size=8,
        dim=16,
        depth=1,
        num_heads=2,
        position=position,
    )


@pytest.mark.parametrize("decay", [0.999, 0.3])
def test_it_is_the_weighted_sum_of_all_weights_so_far(decay: float) -> None:
    model = small()
    average = WeightAverage(model, decay)
    history = [[p.detach().double().clone() for p in model.parameters()]]
    for step in range(30):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update(model, step)
        history.append([p.detach().double().clone() for p in model.parameters()])
    decays = [min(decay, (1 + step) / (10 + step)) for step in range(30)]
    weights = [1.0]  # of each entry of the history, in closed form
    for keep in decays:
        weights = [weight * keep for weight in weights] + [1 - keep]
    assert sum(weights) == pytest.approx(1)
    for at, parameter in enumerate(average.model.parameters()):
        expected = sum(w * entry[at] for w, entry in zip(weights, history, strict=True))
        torch.testing.assert_close(parameter.double(), expected, rtol=1e-5, atol=1e-5)


def test_it_begins_as_a_copy_that_learns_nothing_itself() -> None:
    model = small()
    average = WeightAverage(model, 0.9)
    first = [p.clone() for p in average.model.parameters()]
    assert not any(p.requires_grad for p in average.model.parameters())
    assert not average.model.training
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    for before, after in zip(first, average.model.parameters(), strict=True):
        assert torch.equal(before, after)


def test_fixed_positions_stay() -> None:
    model = small("sincos_2d")
    average = WeightAverage(model, 0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    average.update(model, 0)
    assert "pos_embed" in dict(average.model.named_buffers())
    assert torch.equal(average.model.pos_embed, model.pos_embed)


def test_statistics_of_batch_norms_are_averaged_and_counts_copied() -> None:
    torch.manual_seed(0)
    model = create_model("resnet18", num_classes=3, dim=8, depths=(1, 1, 1, 1))
    average = WeightAverage(model, 0.5)
    expected = {name: buffer.double() for name, buffer in model.named_buffers()}
    for step in range(5):
        model(torch.randn(4, 3, 40, 40) + step)
        average.update(model, step)
        keep = min(0.5, (1 + step) / (10 + step))
        for name, buffer in model.named_buffers():
            expected[name] = keep * expected[name] + (1 - keep) * buffer.double()
    for name, buffer in average.model.named_buffers():
        if name.endswith("num_batches_tracked"):
            assert buffer.item() == 5 and buffer.dtype == torch.int64
        else:
            torch.testing.assert_close(buffer.double(), expected[name], rtol=1e-5, atol=1e-6)
            assert not torch.equal(buffer, model.get_buffer(name))
    assert not average.model.training
