from dataclasses import replace

import numpy as np
import pytest

from vitkit.evaluation.corruptions import GROUPS, KINDS
from vitkit.evaluation.metrics import evaluate_predictions
from vitkit.evaluation.robustness import Robustness
from vitkit.report.robustness import chart, words

SCORES = evaluate_predictions(np.eye(2), [0, 1], "ab")
BORNE = Robustness(
    0.5,
    (0.4, 0.6),
    {kind: tuple(0.9 - 0.01 * i - 0.1 * s for s in range(5)) for i, kind in enumerate(KINDS)},
    (224, 160),
)


def test_a_line_for_each_group_of_kinds() -> None:
    drawn = chart(SCORES, BORNE)
    assert drawn is not None and drawn.named
    assert [line.name for line in drawn.lines] == list(GROUPS)
    assert [line.tone for line in drawn.lines] == ["tone-1", "tone-2", "tone-3", "tone-4"]
    assert [text for _, text in drawn.x_ticks] == ["clean", "1", "2", "3", "4", "5"]
    for line, kinds in zip(drawn.lines, GROUPS.values(), strict=True):
        worst = 100 * np.mean([BORNE.kinds[kind][4] for kind in kinds])
        assert line.value == f"{worst:.1f} %"
        assert f"{line.name} from 100.0 % to {worst:.1f} %" in drawn.summary
        assert line.path.count("L") == 5


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        ((224, 160), "inputs of 224x160 pixels were corrupted; severities for 160 pixels, between"),
        ((32, 32), "inputs of 32 pixels were corrupted; severities as published for 32 pixels."),
    ],
)
def test_which_severities(size: tuple[int, int], sentence: str) -> None:
    assert sentence in words(replace(BORNE, image_size=size))
