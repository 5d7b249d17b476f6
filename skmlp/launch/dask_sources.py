"""What rows a fit on Dask is given: Dask collections, or arrays of the driver."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
from scipy import sparse

from skmlp.launch.dask_blocks import DaskBlocks, check_known
from skmlp.launch.dask_send import DriverRows

#: What brings rows to the workers.
Rows = DaskBlocks | DriverRows


def source_of(X: Any, y: Any, w: Any) -> Rows:
    """Find out what is given; for the arguments see `adopt`.

    Raises
    ------
    ValueError
        Shapes don't fit, or are unknown; or X is no Dask array, but others are.
    """
    given = {"X": X, "y": y, "sample_weight": w}
    lazy = [name for name, value in given.items() if isinstance(value, da.Array)]
    for name in lazy:
        check_known(given[name], name)
    if lazy and "X" not in lazy:
        raise ValueError(
            f"{' and '.join(lazy)} can't be a Dask array where X is none: make all of "
            "them Dask arrays, or none"
        )
    for name in set(given) - set(lazy):
        if not sparse.issparse(given[name]) and given[name] is not None:
            given[name] = np.asarray(given[name])
    X, y, w = given.values()
    _check_shapes(X, y, w)
    if lazy:
        return DaskBlocks(X, y, w)
    return DriverRows(X.tocsr() if sparse.issparse(X) else X, y, w)


def _check_shapes(X: Any, y: Any, w: Any) -> None:
    """ValueError, in scikit-learn's words where it has some."""
    if X.ndim != 2:
        raise ValueError(f"Expected 2D array, got {X.ndim}D array instead")
    if y.ndim not in (1, 2):
        raise ValueError(f"y should be a 1d or 2d array, got {y.ndim} dimensions")
    if y.shape[0] != X.shape[0]:
        raise ValueError(
            "Found input variables with inconsistent numbers of samples: "
            f"{[X.shape[0], y.shape[0]]}"
        )
    if w is not None and w.ndim != 1:
        raise ValueError("Sample weights must be 1D array or scalar")
    if w is not None and w.shape[0] != X.shape[0]:
        raise ValueError(f"sample_weight.shape == {w.shape}, expected {(X.shape[0],)}!")
    for count, what in ((X.shape[0], "sample"), (X.shape[1], "feature")):
        if count == 0:
            raise ValueError(
                f"Found array with 0 {what}(s) (shape={X.shape}) while a minimum of 1 "
                "is required."
            )
