"""Parameters and multiply-accumulates against the published figures."""

import json

import pytest
import torch

from vitkit.errors import ConfigError
from vitkit.models import CONFIGS, create_model
from vitkit.models.cost import cost

# Parameters and 10^9 multiply-accumulates at 1000 classes, as timm and the papers have them.
PUBLISHED = [
    ("vit_tiny_patch16_224", 5_717_416, 1.26),
    ("vit_small_patch16_224", 22_050_664, 4.61),
    ("vit_base_patch16_224", 86_567_656, 17.58),
    ("vit_base_patch16_384", 86_859_496, 55.54),
    ("vit_base_patch32_224", 88_224_232, 4.41),
    ("vit_large_patch16_224", 304_326_632, 61.60),
    ("vit_large_patch32_224", 306_535_400, 15.38),
    ("vit_huge_patch14_224", 632_045_800, 167.4),
    ("deit_tiny_distilled_patch16_224", 5_910_800, 1.27),
    ("deit_small_distilled_patch16_224", 22_436_432, 4.63),
    ("deit_base_distilled_patch16_224", 87_338_192, 17.68),
    ("swin_tiny_patch4_window7_224", 28_288_354, 4.51),
    ("swin_small_patch4_window7_224", 49_606_258, 8.77),
    ("swin_base_patch4_window7_224", 87_768_224, 15.47),
    ("swin_base_patch4_window12_384", 87_903_584, 47.19),
    ("swin_large_patch4_window7_224", 196_532_476, 34.53),
    ("swin_large_patch4_window12_384", 196_735_516, 104.08),
]


@pytest.mark.parametrize(("name", "parameters", "gmacs"), PUBLISHED)
def test_published_figures(name: str, parameters: int, gmacs: float) -> None:
    given = cost(name)
    assert given.parameters == parameters
    assert given.macs / 1e9 == pytest.approx(gmacs, rel=0.01)
    assert given.image_size == CONFIGS[name].image_size


def test_closed_form() -> None:
    """ViT-Ti/16 counted by hand: every matrix product, and the two of attention."""
    dim, depth, tokens, patches, classes = 192, 12, 197, 196, 1000
    block = tokens * 12 * dim * dim + 2 * tokens * tokens * dim
    embedding = patches * 3 * 16 * 16 * dim
    assert cost("vit_tiny_patch16_224").macs == embedding + depth * block + dim * classes


def test_parameters_are_those_of_the_model() -> None:
    model = create_model("deit_tiny_patch16_224")
    own = sum(parameter.numel() for parameter in model.parameters())
    assert cost("deit_tiny_patch16_224").parameters == own


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("vit_tiny_patch16_224", "arXiv:2010.11929"),
        ("deit_tiny_patch16_224", "arXiv:2012.12877"),
        ("swin_tiny_patch4_window7_224.ms_in1k", "arXiv:2103.14030"),
    ],
)
def test_json(name: str, source: str) -> None:
    given = cost(name)
    assert json.loads(json.dumps(given.to_json())) == {
        "name": name,
        "parameters": given.parameters,
        "macs": given.macs,
        "image_size": [224, 224],
        "source": source,
    }


def test_nothing_of_the_state_of_torch_is_changed() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    cost("vit_tiny_patch16_224")
    given = torch.rand(1)
    assert given.device.type == "cpu" and torch.equal(given, expected)
    assert torch.is_grad_enabled()


def test_unknown_name() -> None:
    with pytest.raises(ConfigError, match="called 'vit_base_patch16_225', did you mean"):
        cost("vit_base_patch16_225")


def test_names_that_share_a_configuration_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = cost("vit_small_patch16_224")

    def never(config: object) -> None:
        raise AssertionError(config)

    monkeypatch.setattr("vitkit.models.cost.build", never)
    again = cost("deit_small_patch16_224")
    assert (again.parameters, again.macs) == (first.parameters, first.macs)
    assert (again.name, again.source) == ("deit_small_patch16_224", "arXiv:2012.12877")
