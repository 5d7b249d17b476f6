"""Where the rows of some ranges lie."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skmlp.data.partitioned_dataset import Ranges

CASES = {
    "all": ([(0, 50)], 50),
    "the first": ([(0, 20)], 50),
    "the last": ([(31, 19)], 50),
    "none": ([], 50),
    "one row": ([(0, 1)], 1),
    "several": ([(3, 4), (7, 5), (12, 1), (30, 5), (35, 2)], 50),
    "every other": ([(start, 1) for start in range(1, 5000, 2)], 5000),
    # Many in a corner: more than a bucket tells apart.
    "uneven": ([(start, 2) for start in range(7, 900, 3)] + [(70_000, 9)], 100_000),
}


@pytest.mark.parametrize("dtype", [np.int32, np.intp])
@pytest.mark.parametrize("case", CASES)
def test_as_from_a_table(case, dtype):
    ranges, n_rows = CASES[case]
    here = np.concatenate([np.empty(0, int), *(np.arange(s, s + n) for s, n in ranges)])
    table = np.full(n_rows, -1)
    table[here] = np.arange(len(here))
    numbers = np.random.RandomState(0).permutation(n_rows).astype(dtype)
    found = Ranges(ranges, n_rows)
    assert_array_equal(np.maximum(found.places(numbers), -1), table[numbers])
    assert_array_equal(found.all_numbers(), here)
    assert_array_equal(found.numbers(np.arange(len(here))[::-1]), here[::-1])
    for number in (0, 1, n_rows // 2, n_rows):
        assert found.count_below(number) == (here < number).sum()
