from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitkit.data.sources import open_source
from vitkit.errors import ConfigError
from vitkit.progress import Progress
from vitkit.training.crossfit import assign_folds, cross_fit
from vitkit.training.plan import plan


def test_every_class_is_spread_evenly() -> None:
    labels = [0] * 40 + [1] * 21 + [2] * 9
    folds = assign_folds(labels, range(70), 3)
    for label, count in Counter(labels).items():
        sizes = np.bincount(folds[np.array(labels) == label], minlength=3)
        assert sizes.sum() == count and sizes.max() - sizes.min() <= 1
    assert folds.tolist() == assign_folds(labels, range(70), 3).tolist()
    assert folds.tolist() != assign_folds(labels, range(70), 3, seed=1).tolist()


def test_copies_are_held_out_together() -> None:
    labels = [row % 2 for row in range(60)]
    groups = [row // 3 for row in range(60)]
    folds = assign_folds(labels, groups, 2)
    assert all(len(set(folds[at : at + 3])) == 1 for at in range(0, 60, 3))
    assert set(folds.tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("labels", "groups", "kept"),
    [
        ([0, 0, 0, 0, 1], [0, 1, 2, 3, 4], [4]),  # the only one of its class
        ([0, 0, 0, 0, 1, 1], [0, 1, 2, 3, 4, 4], [4, 5]),  # all of a class are copies
        ([0, 0, 0, 0, 1], [0, 1, 2, 3, 3], [3, 4]),  # and so is one of another
    ],
)
def test_no_class_is_left_without_an_image_to_train_on(
    labels: list[int], groups: list[int], kept: list[int]
) -> None:
    folds = assign_folds(labels, groups, 2)
    assert np.flatnonzero(folds == -1).tolist() == kept


def test_one_fold_is_none() -> None:
    with pytest.raises(ConfigError, match="folds=1 leaves nothing"):
        assign_folds([0, 1], [0, 1], 1)


def test_each_image_is_scored_by_a_model_that_did_not_see_it(
    colours: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    source = open_source(colours)
    folds = assign_folds([sample.label or 0 for sample in source.samples], range(60), 2)
    folds[5] = -1
    phases: list[str] = []

    def listen(progress: Progress) -> None:
        phases.append(progress.phase)

    resolved = plan(source, {**tiny, "epochs": 6, "data.val_fraction": 0.0})
    found = cross_fit(source, folds, resolved, listen=listen)
    assert found.shape == (60, 3)
    assert np.flatnonzero(np.isnan(found).any(axis=1)).tolist() == [5]
    scored = np.delete(np.arange(60), 5)
    labels = np.array([sample.label for sample in source.samples])
    np.testing.assert_allclose(found[scored].sum(axis=1), 1, rtol=1e-4)
    assert (found[scored].argmax(axis=1) == labels[scored]).mean() > 0.9  # rows are in order
    assert {phase[:8] for phase in phases} == {"fold 1/2", "fold 2/2"}
    assert list(tmp_path.iterdir()) == []


def test_a_stop_leaves_the_rest_unscored(colours: Path, tiny: dict[str, Any]) -> None:
    source = open_source(colours)
    folds = assign_folds([sample.label or 0 for sample in source.samples], range(60), 2)
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 14  # in the second fold

    resolved = plan(source, {**tiny, "data.val_fraction": 0.0})
    found = cross_fit(source, folds, resolved, stop=stop)
    scored = np.isfinite(found).all(axis=1)
    assert scored.tolist() == (folds == 0).tolist()
