import numpy as np
import pytest

from vitkit.errors import ConfigError
from vitkit.evaluation.suspects import agreement, confident_class, find_suspects


def test_a_model_that_knows_little_doubts_nothing() -> None:
    """Its order stays."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 4, 400)
    probabilities = draw.dirichlet(np.ones(4), 400)  # right one time in four
    found = find_suspects(probabilities, labels)
    assert not len(found.likely) and sorted(found.order) == list(range(400))
    probabilities[np.arange(400), labels] += 1.0
    assert agreement(probabilities, labels) > 0.5


def test_by_hand() -> None:
    """Thresholds: class 0 (0.9 + 0.8 + 0.1) / 3 = 0.6, class 1 (0.7 + 0.4) / 2 = 0.55."""
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.3, 0.7], [0.6, 0.4]])
    y = np.array([0, 0, 0, 1, 1])
    assert confident_class(p, y).tolist() == [0, 0, 1, 1, 0]
    found = find_suspects(p, y)
    assert found.likely.tolist() == [2, 4]  # 1 - 0.1, and 1 - 0.4
    assert found.order.tolist() == [2, 4, 3, 1, 0]
    assert found.suggested.tolist() == [1, 1, 1, 0, 0]
    np.testing.assert_allclose(found.suspicion, [0.1, 0.2, 0.9, 0.3, 0.6])


def test_confident_of_none_and_of_a_class_without_images() -> None:
    p = np.array([[0.5, 0.3, 0.2], [0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.05, 0.05, 0.9]])
    y = np.array([0, 0, 1, 1])
    # thresholds 0.6, 0.325 and, without an image, none: the last is claimed by nobody
    assert confident_class(p, y).tolist() == [-1, 0, 1, -1]
    assert not len(find_suspects(p, y).likely)


def test_as_many_of_each_class_as_are_claimed() -> None:
    """Which ones, the label's own share says, not which were claimed."""
    p = np.array([[0.9, 0.05, 0.05], [0.85, 0.1, 0.05], [0.34, 0.66, 0.0], [0.3, 0.35, 0.35]])
    p = np.concatenate([p, [[0.1, 0.6, 0.3], [0.1, 0.3, 0.6]]])
    y = np.array([0, 0, 0, 0, 1, 2])
    assert confident_class(p, y)[:4].tolist() == [0, 0, 1, -1]
    assert find_suspects(p, y).likely.tolist() == [3]


def test_planted_noise_comes_first() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 10, 4000)
    logits = random.normal(0, 1, (4000, 10))
    logits[np.arange(4000), truth] += 4
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    changed = random.random(4000) < 0.05
    y = np.where(changed, (truth + random.integers(1, 10, 4000)) % 10, truth)
    found = find_suspects(p, y)
    assert changed[found.order[: changed.sum()]].mean() > 0.85
    assert changed[found.likely].sum() > 0.6 * changed.sum()
    likely = found.likely[changed[found.likely]]
    assert (found.suggested[likely] == truth[likely]).mean() > 0.9
    assert sorted(found.order.tolist()) == list(range(4000))
    assert (np.diff(found.suspicion[found.likely]) <= 0).all()


def test_no_images_no_suspects() -> None:
    found = find_suspects(np.zeros((0, 3)), np.zeros(0, int))
    assert len(found.likely) == len(found.order) == 0


@pytest.mark.parametrize(
    ("shape", "labels"), [((3, 2), [0, 1]), ((2, 2), [0, 2]), ((2, 2), [-1, 0]), ((2,), [0, 1])]
)
def test_what_does_not_fit_is_refused(shape: tuple[int, ...], labels: list[int]) -> None:
    with pytest.raises(ConfigError, match="do not fit; give"):
        find_suspects(np.ones(shape) / 2, labels)
