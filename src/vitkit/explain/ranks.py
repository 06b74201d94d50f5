"""Places in an order, for correlations of ranks."""

import numpy as np
from numpy.typing import NDArray


def ranks(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """The place of each value from below, from 1: (n,) -> (n,).

    Equal values share the mean of their places.
    """
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    shared: NDArray[np.float64] = (counts.cumsum() - (counts - 1) / 2)[which]
    return shared
