import math

import numpy as np
import pytest

from vitkit.report.headline import interval


@pytest.mark.parametrize("hits", [0, 1, 353, 360])
def test_interval_solves_wilsons_equation(hits: int) -> None:
    """The ends are the shares p for which the observed one lies 1.96 standard errors away."""
    images = 360
    for end in interval(hits / images, images):
        distance = abs(hits / images - end)
        expected = 1.96 * math.sqrt(end * (1 - end) / images)
        assert distance == pytest.approx(expected, abs=1e-9)
    low, high = interval(hits / images, images)
    assert 0 <= low < high <= 1


def test_interval_covers() -> None:
    hits = np.random.default_rng(0).binomial(200, 0.9, size=2000)
    covered = [low <= 0.9 <= high for low, high in (interval(h / 200, 200) for h in hits)]
    assert 0.93 < np.mean(covered) < 0.97
