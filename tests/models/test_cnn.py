"""ResNet and RegNetY against timm's: names, results, gradients, statistics, at any image size."""

from copy import deepcopy
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from vitkit.errors import ConfigError
from vitkit.layers.drop_path import DropPath
from vitkit.models import create_model
from vitkit.models.backbone import Backbone

# A published name, what makes ours small, and what makes timm's so.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "basic": ("resnet18", {"depths": (1, 2, 1, 1)}, {"layers": (1, 2, 1, 1)}),
    "bottleneck": ("resnet50", {"depths": (2, 1, 1, 1)}, {"layers": (2, 1, 1, 1)}),
    "regnet": ("regnety_002", {}, {}),
    "groups": ("regnety_016", {"depth": 8, "wa": 80.0}, {"depth": 8, "wa": 80.0}),
}
SIZES = [(224, 224), (97, 130)]


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Random values for every parameter and buffer, none of them zero, that keep signals alive."""
    for name, tensor in model.state_dict().items():
        if tensor.ndim > 1:
            nn.init.normal_(tensor, std=(2 / tensor[0].numel()) ** 0.5)
        elif name.endswith("num_batches_tracked"):
            tensor.fill_(7)
        elif name.endswith("running_var"):
            nn.init.uniform_(tensor, 0.5, 1.5)
        else:
            nn.init.normal_(tensor, mean=float("bn" in name and "weight" in name), std=0.2)


def pair(case: str, **settings: Any) -> tuple[Backbone, nn.Module]:
    """Our model and timm's with the same random weights and statistics, in evaluation mode."""
    name, ours, theirs = CASES[case]
    reference = timm.create_model(name, num_classes=10, **theirs).eval()
    torch.manual_seed(0)
    randomise(reference)
    with torch.device("meta"):
        model = create_model(name, num_classes=10, **ours, **settings).eval()
    model.load_state_dict(deepcopy(reference.state_dict()), strict=True, assign=True)
    return model, reference


def assert_equal_logits(ours: nn.Module, theirs: nn.Module, x: Tensor) -> None:
    """To 1e-4 of the largest logit in float32 and 1e-9 in float64."""
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-9)):
        with torch.inference_mode():
            expected = theirs.to(dtype)(x.to(dtype))
            actual = ours.to(dtype)(x.to(dtype))
        assert 0.1 < expected.abs().max() < 1e4
        assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_matches_timm(case: str, size: tuple[int, int]) -> None:
    ours, theirs = pair(case)
    assert_equal_logits(ours, theirs, torch.randn(1, 3, *size))


@pytest.mark.parametrize("case", CASES)
def test_training_matches_timm(case: str) -> None:
    """Gradients and running statistics of one batch."""
    ours, theirs = pair(case)
    x = torch.randn(3, 3, 65, 40, dtype=torch.float64)
    weights = torch.randn(3, 10, dtype=torch.float64)
    gradients = []
    for model in (ours.double().train(), theirs.double().train()):
        loss = (model(x) * weights).sum()
        names, parameters = zip(*model.named_parameters(), strict=True)
        gradients.append(dict(zip(names, torch.autograd.grad(loss, parameters), strict=True)))
    for name, expected in gradients[1].items():
        assert expected.abs().max() > 0
        bound = 1e-9 * expected.abs().max().item()
        torch.testing.assert_close(gradients[0][name], expected, rtol=1e-8, atol=bound, msg=name)
    statistics = dict(theirs.named_buffers())
    assert statistics and statistics.keys() == dict(ours.named_buffers()).keys()
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, statistics[name], rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("case", ["basic", "regnet"])
def test_feature_maps_match_timm(case: str) -> None:
    ours, theirs = pair(case)
    x = torch.randn(2, 3, 64, 90)
    assert ours.feature_info == [theirs.feature_info[i] for i in range(5)]
    for arguments in (
        {},
        {"indices": 2},
        {"indices": [0, -2], "stop_early": True},
        {"indices": [1, 4], "norm": True, "intermediates_only": True},
        {"indices": [0], "stop_early": True, "intermediates_only": True, "output_fmt": "NCHW"},
    ):
        with torch.inference_mode():
            actual = ours.forward_intermediates(x, **arguments)
            expected = theirs.forward_intermediates(x, **arguments)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    maps = ours.forward_intermediates(x, intermediates_only=True)
    for info, each in zip(ours.feature_info, maps, strict=True):
        sides = (-(-side // info["reduction"]) for side in (64, 90))
        assert each.shape == (2, info["num_chs"], *sides)


@pytest.mark.parametrize("case", ["basic", "regnet"])
def test_features_and_methods_match_timm(case: str) -> None:
    ours, theirs = pair(case)
    x = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        features = ours.forward_features(x)
        torch.testing.assert_close(features, theirs.forward_features(x), rtol=1e-4, atol=1e-4)
        pooled = ours.forward_head(features, pre_logits=True)
        expected = theirs.forward_head(features, pre_logits=True)
        torch.testing.assert_close(pooled, expected)
        torch.testing.assert_close(ours.forward_head(features), ours(x))
    assert ours.num_features == theirs.num_features == pooled.shape[1]
    assert ours.get_submodule(ours.classifier) is ours.get_classifier()
    assert theirs.get_submodule(ours.classifier) is theirs.get_classifier()
    assert ours.no_weight_decay() == set()


@pytest.mark.parametrize("case", ["basic", "regnet"])
def test_another_or_no_classifier(case: str) -> None:
    ours, theirs = pair(case)
    x = torch.randn(2, 3, 64, 96)
    whole = ours(x)
    for model in (ours, theirs):
        model.reset_classifier(0, "")
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)
    assert ours(x).shape == (2, ours.num_features, 2, 3)
    ours.reset_classifier(7, "avg")
    assert ours(x).shape == (2, 7) != whole.shape
    logits = ours(x)
    ours.pooled = False  # the mean of what is said of each place is what is said of the mean
    assert ours(x).shape == (2, 7, 2, 3)
    torch.testing.assert_close(ours(x).mean(dim=(2, 3)), logits)
    with pytest.raises(ConfigError, match="indices=5 is not among 5|indices=\\[5\\]"):
        ours.forward_intermediates(x, indices=[5])
    with pytest.raises(ConfigError, match="output_fmt='NLC' is unknown here; use NCHW"):
        ours.forward_intermediates(x, output_fmt="NLC")


@pytest.mark.parametrize("case", ["basic", "regnet"])
def test_checkpointing_changes_neither_gradients_nor_statistics(case: str) -> None:
    """Blocks run twice, but their batch counts once."""
    plain, _ = pair(case, drop_path=0.2)
    kept, _ = pair(case, drop_path=0.2)
    kept.set_grad_checkpointing()
    x, ran = torch.randn(4, 3, 48, 33), []
    last = [module for module in kept.modules() if isinstance(module, nn.Conv2d)][-1]
    last.register_forward_hook(lambda *_: ran.append(1))
    for model in (plain.train(), kept.train()):
        torch.manual_seed(3)
        model(x).square().sum().backward()
    assert len(ran) == 2
    others = dict(kept.named_parameters())
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(others[name].grad, parameter.grad, msg=name)
    tracked = dict(kept.named_buffers())
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(tracked[name], buffer, msg=name)
        assert buffer.dtype != torch.int64 or buffer.item() == 8
    kept(x).sum()  # statistics are kept in the backward pass alone
    assert all(b.item() == 9 for b in tracked.values() if b.dtype == torch.int64)


@pytest.mark.parametrize("case", CASES)
def test_initial_weights_are_as_timm_has_them(case: str) -> None:
    published, settings, arguments = CASES[case]
    torch.manual_seed(0)
    ours = create_model(published, **settings).state_dict()
    for name, expected in timm.create_model(published, **arguments).state_dict().items():
        if "fc." in name and "se." not in name:  # our heads all start alike
            continue
        if expected.numel() == 1 or expected.unique().numel() == 1:  # zeros and ones
            torch.testing.assert_close(ours[name], expected)
        else:
            tolerance = max(0.03, 4 * expected.numel() ** -0.5)
            assert ours[name].std().item() == pytest.approx(expected.std().item(), rel=tolerance)


@pytest.mark.parametrize("case", ["basic", "groups"])
def test_drop_path_rises_over_all_blocks(case: str) -> None:
    name, settings, arguments = CASES[case]
    theirs = timm.create_model(name, drop_path_rate=0.2, **arguments)
    expected = [m.drop_prob for m in theirs.modules() if type(m).__name__ == "DropPath"]
    with torch.device("meta"):
        ours = create_model(name, drop_path=0.2, **settings)
    rates = [module.rate for module in ours.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0, *expected])
    assert rates[-1] == 0.2


@pytest.mark.parametrize("case", ["basic", "regnet"])
def test_exports_with_any_batch(case: str) -> None:
    ours, _ = pair(case)
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    x = torch.randn(2, 3, 40, 64)
    program = torch.export.export(ours, (x,), dynamic_shapes=(batch,), strict=False)
    x = torch.randn(5, 3, 40, 64)
    torch.testing.assert_close(program.module()(x), ours(x))


@pytest.mark.parametrize("case", ["basic", "regnet"])
def test_learns_in_bfloat16(case: str) -> None:
    ours, _ = pair(case)
    x = torch.randn(4, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        logits = ours.train()(x)
    logits.float().square().mean().backward()
    assert logits.dtype == torch.bfloat16
    grads = [p.grad for p in ours.parameters()]
    assert all(g is not None and g.dtype == torch.float32 and g.isfinite().all() for g in grads)


@pytest.mark.parametrize("case", ["basic", "regnet"])
def test_one_image_with_one_cell_cannot_be_learned_from(case: str) -> None:
    ours, _ = pair(case)
    small, large = torch.randn(1, 3, 32, 32), torch.randn(1, 3, 32, 33)
    assert ours(small).shape == (1, 10)
    with pytest.raises(ConfigError, match="batch norm cannot learn from one image"):
        ours.train()(small)
    assert ours(large).shape == ours(large[..., :8].repeat(2, 1, 1, 1))[:1].shape == (1, 10)
