import numpy as np
import pytest
from scipy.stats import rankdata

from vitkit.explain.ranks import ranks


@pytest.mark.parametrize("kinds", [2, 5, 1000])
def test_as_scipy(kinds: int) -> None:
    values = np.random.default_rng(kinds).integers(0, kinds, 60).astype(np.float64)
    np.testing.assert_array_equal(ranks(values), rankdata(values))
