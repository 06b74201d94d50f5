"""The logit lens against shorter models with the same weights, and the head written out."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import vitkit
from vitkit.errors import ConfigError
from vitkit.explain.lens import lens
from vitkit.models.backbone import Backbone

Build = Callable[..., Backbone]
NAMES = (
    *("vit", "mean", "both", "registers", "attention pool", "no class token", "stem", "deit"),
    *("hybrid", "cct", "swin", "swinv2"),
)


def linear(layer: Any, x: Tensor) -> Tensor:
    return x @ layer.weight.mT + layer.bias


def normed(model: Any, tokens: Tensor) -> Tensor:
    """The last norm, wherever it stands."""
    norm = model.fc_norm if isinstance(model.norm, torch.nn.Identity) else model.norm
    centred = tokens - tokens.mean(-1, keepdim=True)
    deviation = (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt()
    return centred / deviation * norm.weight + norm.bias


def alone(name: str, model: Any, tokens: Tensor) -> Tensor:
    """What the head says of each token by itself, from the weights: (B, T, D) -> (B, T, K)."""
    x = normed(model, tokens)
    if name in ("attention pool", "no class token"):  # of one cell attention is 1
        pool = model.attn_pool
        y = linear(pool.proj, linear(pool.kv, x).chunk(2, dim=-1)[1])
        z = F.layer_norm(y, y.shape[-1:], pool.norm.weight, pool.norm.bias, pool.norm.eps)
        return linear(model.head, y + linear(pool.mlp.fc2, F.gelu(linear(pool.mlp.fc1, z))))
    if name == "both":
        ours, theirs = model.head.weight.chunk(2, dim=1)
        return x @ ours.mT + x @ theirs.mT + model.head.bias
    if name == "deit":
        ours, taught = linear(model.head, x), linear(model.head_dist, x)
        said = (ours + taught) / 2
        said[:, 0], said[:, 1] = ours[:, 0], taught[:, 1]
        return said
    return linear(model.head.fc if name.startswith("swin") else model.head, x)


@pytest.mark.parametrize("name", NAMES)
def test_every_token_alone(
    name: str, build: Build, images: Callable[..., Tensor], by_hand: Callable[..., Any]
) -> None:
    model = build(name)
    x = images(model, 2)
    found, seen = lens(model, x), by_hand(model, x)
    first = 4 if name.startswith("swin") else 0  # Swin's last stage has two of its six blocks
    assert len(found.sites) == len(seen.blocks) - first
    for i, tokens in enumerate(seen.blocks[first:]):
        expected = alone(name, model, tokens.detach().reshape(2, -1, tokens.shape[-1]))
        torch.testing.assert_close(
            found.logits[:, i].double(), expected.detach(), rtol=1e-5, atol=1e-5
        )
    torch.testing.assert_close(found.read[:, -1].double(), model(x), rtol=1e-6, atol=1e-6)
    if name in ("vit", "registers", "hybrid"):
        torch.testing.assert_close(found.logits[:, :, 0], found.read)
    if name == "deit":
        torch.testing.assert_close(found.logits[:, :, :2].mean(2), found.read)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_read_is_what_a_shorter_model_says(
    name: str, build: Build, images: Callable[..., Tensor]
) -> None:
    model = build(name)
    x = images(model, 2)
    found = lens(model, x)
    for count in range(1, len(found.sites) + 1):
        depth = {"depths": (2, 2, count)} if name.startswith("swin") else {"depth": count}
        shorter = build(name, **depth)
        own = {
            key: value for key, value in model.state_dict().items() if key in shorter.state_dict()
        }
        shorter.load_state_dict(own, strict=True)
        torch.testing.assert_close(
            found.read[:, count - 1].double(), shorter(x).detach(), rtol=1e-5, atol=1e-5
        )
    assert not torch.allclose(found.read[:, 0], found.read[:, -1], atol=1e-2)


def test_chosen_classes(build: Build, images: Callable[..., Tensor]) -> None:
    model = build("registers")
    x = images(model, 2)
    full, some = lens(model, x), lens(model, x, classes=[4, 1])
    assert full.classes == (0, 1, 2, 3, 4) and some.classes == (4, 1)
    assert full.logits.shape == (2, 3, 27, 5) and some.logits.shape == (2, 3, 27, 2)
    torch.testing.assert_close(some.logits, full.logits[..., [4, 1]])
    torch.testing.assert_close(some.shares, full.logits.softmax(dim=-1)[..., [4, 1]])
    torch.testing.assert_close(some.best, full.logits.argmax(dim=-1))
    torch.testing.assert_close(some.read, full.read)
    expected = full.logits.softmax(dim=-1)[:, :, 3:, 1].reshape(2, 3, 4, 6)
    torch.testing.assert_close(some.maps(1), expected)
    with pytest.raises(ConfigError, match="class 0 is not among those chosen; add it to classes"):
        some.maps(0)


def test_temperature(build: Build, images: Callable[..., Tensor]) -> None:
    model = build("vit")
    x = images(model, 2)
    plain, cooled = lens(model, x, classes=(1,)), lens(model, x, classes=(1,), temperature=2.0)
    torch.testing.assert_close(cooled.read, plain.read / 2)
    expected = (lens(model, x).logits / 2).softmax(dim=-1)[..., 1]
    torch.testing.assert_close(cooled.shares[..., 0], expected)


def test_other_sizes(build: Build, images: Callable[..., Tensor]) -> None:
    model = build("swin")
    found = lens(model, images(model, 1, (60, 40)))
    assert found.maps(2).shape == (1, 2, 4, 3)
    torch.testing.assert_close(found.maps(2).flatten(2), found.shares[..., 2])


def test_trajectory(build: Build, images: Callable[..., Tensor]) -> None:
    model = build("deit")
    x, label = images(model, 3), torch.tensor([4, 0, 2])
    path = lens(model, x, classes=[]).trajectory(label)
    assert path.blocks == ("blocks.0", "blocks.1", "blocks.2")
    said = [build("deit", depth=count) for count in (1, 2, 3)]
    for i, shorter in enumerate(said):
        own = {k: v for k, v in model.state_dict().items() if k in shorter.state_dict()}
        shorter.load_state_dict(own)
        shares = shorter(x).exp() / shorter(x).exp().sum(dim=1, keepdim=True)
        for image in range(3):
            expected = shares[image, label[image]].item()
            assert path.share[image, i].item() == pytest.approx(expected, rel=1e-4)
            assert path.best[image, i] == shares[image].argmax()
            assert path.best_share[image, i].item() == pytest.approx(
                shares[image].max().item(), rel=1e-4
            )


def test_the_model_is_left_alone(build: Build, images: Callable[..., Tensor]) -> None:
    model = build("swinv2")
    before, x = list(model.modules()), images(model, 1)
    found = lens(model, x)
    assert list(model.modules()) == before
    assert not found.logits.requires_grad and not found.read.requires_grad


def test_errors(build: Build, images: Callable[..., Tensor]) -> None:
    cnn = vitkit.create_model("resnet18", num_classes=2)
    with pytest.raises(ConfigError, match="ResNet has no tokens .*; take a transformer"):
        lens(cnn, torch.zeros(1, 3, 32, 32))
    model = build("vit")
    x = images(model, 1)
    with pytest.raises(ConfigError, match="class 5 is not among 5; try 4"):
        lens(model, x, classes=[0, 5])
    with pytest.raises(ConfigError, match="class -1 is not among 5; try 4"):
        lens(model, x, classes=[-1])
    model.reset_classifier(3, "")
    with pytest.raises(ConfigError, match="has no head that says a class; give it one before"):
        lens(model, x)
    model.reset_classifier(0, "token")
    with pytest.raises(ConfigError, match="has no head that says a class"):
        lens(model, x)
