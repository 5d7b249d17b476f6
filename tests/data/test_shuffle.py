"""The order of the rows is scikit-learn's, and a function of seed and epoch."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.utils import shuffle

from skmlp.data.shuffle import RowOrder
from skmlp.rng_state import twister_state


@pytest.mark.parametrize("dtype", [np.intp, np.int32])
@pytest.mark.parametrize("n_rows", [1, 2, 7, 1000])
def test_as_scikit_learn(n_rows, dtype):
    rng = np.random.RandomState(3)
    order = RowOrder(n_rows, twister_state(rng), dtype=dtype)
    expected = np.arange(n_rows)
    for epoch in range(1, 6):
        expected = shuffle(expected, random_state=rng)
        assert_array_equal(order.seek(epoch), expected)
        assert order.rng == twister_state(rng)


def test_of_some_rows():
    base = np.array([5, 9, 2, 40, 11])
    start = twister_state(np.random.RandomState(0))
    assert_array_equal(
        RowOrder(5, start, base).seek(3), base[RowOrder(5, start).seek(3)]
    )


def test_back_and_forth():
    start = twister_state(np.random.RandomState(0))
    order = RowOrder(50, start)
    orders = [order.seek(epoch).copy() for epoch in (1, 2, 3, 4)]
    for epoch in (2, 4, 1, 3):
        assert_array_equal(order.seek(epoch), orders[epoch - 1])
