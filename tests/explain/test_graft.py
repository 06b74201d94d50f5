"""Grafts: what is exchanged is exchanged in the copy alone, and all else is shared."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vitkit.explain.graft import graft
from vitkit.models.backbone import Backbone


class Doubled(nn.Module):
    """Twice what a module gives."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.module(x)


@pytest.fixture
def model() -> nn.Sequential:
    """Two layers, the second of two parts."""
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    return nn.Sequential(nn.Linear(4, 4), inner).double().eval()


def test_the_copy_runs_the_other_part_and_the_model_its_own(model: nn.Sequential) -> None:
    x = torch.randn(3, 4, dtype=torch.float64)
    before = model(x)
    first, inner = model[0], model[1]
    made = graft(model, {"1.0": Doubled(inner[0])})
    torch.testing.assert_close(made(x), inner[1](2 * inner[0](first(x))))
    torch.testing.assert_close(model(x), before, rtol=0, atol=0)
    assert not torch.allclose(made(x), before)


def test_only_the_way_to_the_part_is_copied(model: nn.Sequential) -> None:
    part = nn.Identity()
    made = graft(model, {"1.0": part})
    assert type(made) is nn.Sequential and made is not model and made[1] is not model[1]
    assert made[1][0] is part
    assert made[0] is model[0] and made[1][1] is model[1][1]
    assert isinstance(model[1][0], nn.Linear)


def test_parameters_and_buffers_are_the_models_own(model: nn.Sequential) -> None:
    made = graft(model, {"1.0": Doubled(model[1][0])})
    ours = {id(t) for t in (*made.parameters(), *made.buffers())}
    assert ours == {id(t) for t in (*model.parameters(), *model.buffers())}


def test_several_parts_at_once_and_one_graft_after_another(model: nn.Sequential) -> None:
    x = torch.randn(3, 4, dtype=torch.float64)
    parts = {"0": Doubled(model[0]), "1.0": nn.Identity()}
    together = graft(model, parts)
    stepwise = graft(graft(model, {"0": parts["0"]}), {"1.0": parts["1.0"]})
    expected = model[1][1](2 * model[0](x))
    torch.testing.assert_close(together(x), expected)
    torch.testing.assert_close(stepwise(x), expected)


def test_a_part_may_be_a_whole_branch(model: nn.Sequential) -> None:
    made = graft(model, {"1": nn.Identity()})
    x = torch.randn(3, 4, dtype=torch.float64)
    torch.testing.assert_close(made(x), model[0](x))


def test_an_unknown_name_is_an_error_and_changes_nothing(model: nn.Sequential) -> None:
    names = [name for name, _ in model.named_modules()]
    for wrong in ("2", "1.0.weight", "1.7"):
        with pytest.raises(AttributeError):
            graft(model, {"0": nn.Identity(), wrong: nn.Identity()})
    assert [name for name, _ in model.named_modules()] == names
    assert isinstance(model[0], nn.Linear)


def test_a_models_own_methods_see_the_graft(
    build: Callable[..., Backbone], images: Callable[..., Tensor]
) -> None:
    model = build("vit")
    x = images(model, 1)
    made = graft(model, {"head": nn.Identity()})
    torch.testing.assert_close(made(x), model.forward_head(model.forward_features(x), True))
    assert made.config is model.config
