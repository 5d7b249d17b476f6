"""Tables of unknown length grow by what comes."""

from __future__ import annotations

import numpy as np
from numpy.testing import assert_array_equal

from skmlp.data.store.buffers import Table


def test_a_table_grows_although_somebody_looks_at_it():
    """A view keeps the old memory; what comes next goes into new memory, with all."""
    table = Table(3, np.dtype(np.float64), lambda size: "")
    rows = np.arange(30_000.0).reshape(-1, 3)
    table.put(0, rows[:4])
    view = table.rows()
    for start in range(4, len(rows), 1_000):
        table.put(start, rows[start : start + 1_000])
        looks = table.rows()
        assert_array_equal(looks, rows[: start + 1_000])
    assert_array_equal(view, rows[:4])
