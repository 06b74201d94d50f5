import numpy as np
import pytest

from vitkit.data.check.look import MEASURES
from vitkit.data.check.outliers import RULES, Rule, find_unusual, pick

LOW = Rule("low", "x", "x", False, (10, 60))
HIGH = Rule("high", "x", "x", True, (2, 10), relative=True)


def test_the_threshold_is_three_and_a_half_robust_deviations_off() -> None:
    values = np.random.default_rng(0).normal(100, 10, 1000)
    values[7] = 12
    found = pick(Rule("low", "x", "x", False, (0, 99)), values)
    reach = 3.5 * 1.4826 * np.median(np.abs(values - np.median(values)))
    assert found.median == np.median(values)
    assert found.threshold == pytest.approx(found.median - reach)
    assert 60 < found.threshold < 70
    assert found.rows[0] == 7 and len(found.rows) < 5


def test_in_logarithms_where_factors_count() -> None:
    values = np.r_[np.exp(np.linspace(-0.5, 0.5, 101)) * 100, 1000, 240, 150]
    found = pick(HIGH, values)
    reach = 3.5 * 1.4826 * np.median(np.abs(np.log(values) - np.log(np.median(values))))
    assert found.threshold == pytest.approx(found.median * np.exp(reach))
    assert found.rows.tolist() == [101]
    assert found.values.tolist() == [1000]


def test_bounds_hold_where_all_are_alike() -> None:
    values = np.r_[np.full(50, 100.0), 190, 230]
    found = pick(HIGH, values)
    assert found.threshold == 200
    assert found.rows.tolist() == [51]


def test_the_most_unusual_come_first_and_nan_never() -> None:
    values = np.r_[np.full(50, 100.0), 5, np.nan, 3, 8]
    assert pick(LOW, values).rows.tolist() == [52, 50, 53]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.finding)
def test_no_rule_picks_more_than_half(rule: Rule) -> None:
    for values in (np.zeros(9), np.full(9, 255.0), np.arange(9.0), np.r_[np.zeros(5), [9.0] * 4]):
        assert len(pick(rule, values).rows) <= len(values) / 2


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.finding)
def test_nothing_known_is_nothing_found(rule: Rule) -> None:
    assert not len(pick(rule, np.full(3, np.nan)).rows)
    assert not len(pick(rule, np.zeros(0)).rows)


def test_what_has_no_contrast_is_not_called_blurry() -> None:
    measures = {name: np.full(20, 100.0) for name in MEASURES}
    measures["contrast"][3], measures["edges"][3], measures["edges"][4] = 0.5, 1, 1
    found = {some.rule.finding: some.rows.tolist() for some in find_unusual(measures)}
    assert found["low-information"] == [3]
    assert found["blurry"] == [4]
    assert not any(
        rows for name, rows in found.items() if name not in ("low-information", "blurry")
    )
