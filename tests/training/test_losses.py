"""What a step makes smaller, against timm's losses, NumPy and the papers' formulas."""

from typing import Any

import numpy as np
import pytest
import timm.loss
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vitkit.data.mix import Mix
from vitkit.models import create_model
from vitkit.training.config import resolve
from vitkit.training.losses import loss_of, smoothed
from vitkit.training.settings import TrainSettings
from vitkit.training.step import Heads

BATCH, CLASSES = 6, 5


def settings_with(**changes: Any) -> TrainSettings:
    return resolve({"label_smoothing": 0.0, **changes}).settings


def numbers(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(BATCH, CLASSES, generator=generator, dtype=torch.float64)


def labels() -> Tensor:
    return torch.tensor([4, 0, 2, 2, 1, 3])


def one_hot() -> Tensor:
    return F.one_hot(labels(), CLASSES).double()


def mixed(mode: str = "elem") -> Tensor:
    """Shares as mixing makes them."""
    torch.manual_seed(8)
    shares = Mix(mixup=0.8, cutmix=1.0, mode=mode)(torch.zeros(BATCH, 3, 8, 8), one_hot())[1]
    assert (shares.max(dim=1).values < 0.99).any()
    return shares


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_cross_entropy_of_labels_is_timms(smoothing: float) -> None:
    expected = timm.loss.LabelSmoothingCrossEntropy(smoothing)(numbers(0), labels())
    ours = loss_of((numbers(0),), one_hot(), None, settings_with(label_smoothing=smoothing))
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("mode", ["batch", "elem"])
def test_cross_entropy_of_shares_is_timms(mode: str) -> None:
    expected = timm.loss.SoftTargetCrossEntropy()(numbers(0), mixed(mode))
    ours = loss_of((numbers(0),), mixed(mode), None, settings_with())
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)


def test_cross_entropy_of_smoothed_shares_is_timms() -> None:
    """timm's Mixup smooths the labels before it mixes them."""
    smooth = mixed() * 0.8 + 0.2 / CLASSES
    expected = timm.loss.SoftTargetCrossEntropy()(numbers(0), smooth)
    ours = loss_of((numbers(0),), mixed(), None, settings_with(label_smoothing=0.2))
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy_of_labels_is_timms(smoothing: float) -> None:
    expected = timm.loss.BinaryCrossEntropy(smoothing)(numbers(0), labels())
    settings = settings_with(loss="bce", label_smoothing=smoothing)
    ours = loss_of((numbers(0),), one_hot(), None, settings)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy_of_shares_is_the_formula(smoothing: float) -> None:
    t = (mixed() * (1 - smoothing) + smoothing / CLASSES).numpy()
    p = 1 / (1 + np.exp(-numbers(0).numpy()))
    expected = -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean()
    settings = settings_with(loss="bce", label_smoothing=smoothing)
    ours = loss_of((numbers(0),), mixed(), None, settings)
    assert ours.item() == pytest.approx(expected, rel=1e-12)


def test_classes_above_a_threshold_are_wholly_there() -> None:
    """As in the code of arXiv:2204.07118, and timm's `target_threshold`."""
    expected = timm.loss.BinaryCrossEntropy(0.0, target_threshold=0.2)(numbers(0), mixed())
    settings = settings_with(loss="bce", label_smoothing=0.0, bce_threshold=0.2)
    ours = loss_of((numbers(0),), mixed(), None, settings)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)
    assert ((mixed() > 0) & (mixed() < 0.2)).sum() > 0  # else the threshold said nothing


def test_smoothed_shares_sum_to_one() -> None:
    torch.testing.assert_close(smoothed(mixed(), 0.3).sum(dim=1), torch.ones(BATCH).double())
    torch.testing.assert_close(
        smoothed(one_hot(), 0.5)[0], torch.tensor([0.1] * 4 + [0.6]).double()
    )


# Distillation: facts of arXiv:2012.12877, eq. 2 and 3


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def cross_entropy(logits: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
    return float(-(targets * log_softmax(logits)).sum(axis=1).mean())


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_hard_distillation_is_the_papers(heads: int, alpha: float) -> None:
    """Each head has its own target; with one head it has both."""
    ours, taught, teacher = (numbers(seed).numpy() for seed in (0, 1, 2))
    second = taught if heads == 2 else ours
    chosen = np.eye(CLASSES)[teacher.argmax(axis=1)]
    shares = mixed().numpy()
    expected = (1 - alpha) * cross_entropy(ours, shares) + alpha * cross_entropy(second, chosen)
    settings = settings_with(**{"distill.kind": "hard", "distill.alpha": alpha})
    outputs = (numbers(0), numbers(1))[:heads]
    actual = loss_of(outputs, mixed(), numbers(2), settings)
    assert actual.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("tau", [1.0, 3.0, 7.5])
@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_soft_distillation_is_the_papers(heads: int, tau: float, loss: str) -> None:
    """(1 - alpha) CE + alpha tau^2 KL(teacher || student), the mean over the batch."""
    alpha, ours, taught, teacher = 0.7, *(numbers(seed).numpy() for seed in (0, 1, 2))
    second = log_softmax((taught if heads == 2 else ours) / tau)
    theirs = log_softmax(teacher / tau)
    divergence = (np.exp(theirs) * (theirs - second)).sum(axis=1).mean()
    shares = mixed().numpy()
    if loss == "ce":
        own = cross_entropy(ours, shares)
    else:
        p = 1 / (1 + np.exp(-ours))
        own = float(-(shares * np.log(p) + (1 - shares) * np.log(1 - p)).mean())
    expected = (1 - alpha) * own + alpha * tau**2 * divergence
    changes = {"distill.kind": "soft", "distill.alpha": alpha, "distill.temperature": tau}
    outputs = (numbers(0), numbers(1))[:heads]
    actual = loss_of(outputs, mixed(), numbers(2), settings_with(loss=loss, **changes))
    assert actual.item() == pytest.approx(expected, rel=1e-12)


def test_the_label_is_smoothed_and_the_teachers_choice_is_not() -> None:
    """As in the paper's table 9 and its authors' code."""
    settings = settings_with(**{"label_smoothing": 0.2, "distill.alpha": 0.5})
    expected = (
        F.cross_entropy(numbers(0), labels(), label_smoothing=0.2)
        + F.cross_entropy(numbers(1), numbers(2).argmax(dim=1))
    ) / 2
    actual = loss_of((numbers(0), numbers(1)), one_hot(), numbers(2), settings)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)


def test_a_student_that_equals_its_teacher_has_nothing_to_learn_from_it() -> None:
    settings = settings_with(**{"distill.kind": "soft", "distill.alpha": 1.0})
    logits = numbers(0).requires_grad_()
    loss = loss_of((logits,), one_hot(), numbers(0) + 4.0, settings)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert gradient.abs().max() < 1e-12


# Heads

VIT = {"image_size": 8, "patch_size": 4, "dim": 16, "depth": 1, "num_heads": 2, "num_classes": 3}


def test_a_distilled_model_learns_by_both_heads_and_others_by_one() -> None:
    distilled = create_model("deit_tiny_distilled_patch16_224", **VIT).double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    ours, taught = Heads(distilled, taught=True)(x)
    tokens = distilled.forward_features(x)
    torch.testing.assert_close(ours, distilled.head(tokens[:, 0]))
    torch.testing.assert_close(taught, distilled.head_dist(tokens[:, 1]))
    torch.testing.assert_close((ours + taught) / 2, distilled(x))
    (alone,) = Heads(distilled, taught=False)(x)  # without a teacher what is used learns
    torch.testing.assert_close(alone, distilled(x))
    plain = create_model("deit_tiny_patch16_224", **VIT).double()
    (logits,) = Heads(plain, taught=True)(x)
    torch.testing.assert_close(logits, plain(x))
