"""What rows a fit on Dask is given: Dask collections, or arrays of the driver."""

from __future__ import annotations

import math
from typing import Any

import dask.array as da
import numpy as np
from scipy import sparse

from skmlp.dask.ingest.array_source import DriverRows
from skmlp.dask.ingest.collection_source import DaskBlocks
from skmlp.dask.ingest.collections import Parts, understand
from skmlp.dask.rpc import ClusterRPC

#: What brings rows to the workers.
Rows = DaskBlocks | DriverRows


def source_of(rpc: ClusterRPC, X: Any, y: Any, w: Any) -> Rows:
    """Find out what is given; for the arguments see `adopt`.

    Raises
    ------
    ValueError
        Shapes don't fit, or inputs can't be paired; or X is no Dask collection, but
        others are.
    TypeError
        A Dask collection that can't be taken.
    """
    X, y, w = understand(rpc, ("X", X), ("y", y), ("sample_weight", w))
    given = {"X": X, "y": y, "sample_weight": w}
    lazy = [name for name, value in given.items() if isinstance(value, Parts)]
    if lazy and "X" not in lazy:
        raise ValueError(
            f"{' and '.join(lazy)} can't be a Dask collection where X is none: make "
            "all of them Dask collections, or none"
        )
    for name in set(given) - set(lazy):
        if not sparse.issparse(given[name]) and given[name] is not None:
            given[name] = np.asarray(given[name])
    check_shapes(*given.values())
    if not lazy:
        X = given["X"]
        X = X.tocsr() if sparse.issparse(X) else X
        return DriverRows(X, given["y"], given["sample_weight"])
    for name in set(given) - set(lazy):
        if given[name] is not None:
            given[name] = _cut(name, given[name], given["X"])
    return DaskBlocks(*given.values())


def _cut(name: str, array: Any, X: Parts) -> Parts:
    """An array of the driver as X is cut."""
    if X.sizes is None:
        raise ValueError(
            f"{name} is an array of this process, and the sizes of X's partitions are "
            f"unknown: make {name} a Dask collection with the same partitions"
        )
    chunks = (X.sizes, *((n,) for n in array.shape[1:]))
    lazy = da.from_array(array, chunks=chunks, name=False)
    return Parts(name, lazy, array[:0], X.sizes)


def check_shapes(X: Any, y: Any, w: Any) -> None:
    """ValueError, in scikit-learn's words where it has some."""
    if X.ndim != 2:
        raise ValueError(f"Expected 2D array, got {X.ndim}D array instead")
    if y.ndim not in (1, 2):
        raise ValueError(f"y should be a 1d or 2d array, got {y.ndim} dimensions")
    if _differ(X, y):
        raise ValueError(
            "Found input variables with inconsistent numbers of samples: "
            f"{[X.shape[0], y.shape[0]]}"
        )
    if w is not None and w.ndim != 1:
        raise ValueError("Sample weights must be 1D array or scalar")
    if w is not None and _differ(X, w):
        raise ValueError(f"sample_weight.shape == {w.shape}, expected {(X.shape[0],)}!")
    for count, what in ((X.shape[0], "sample"), (X.shape[1], "feature")):
        if count == 0:
            raise ValueError(no_rows(X.shape, what))


def no_rows(shape: tuple[int, ...], what: str = "sample") -> str:
    """The words for a table without rows, or without columns."""
    words = f"Found array with 0 {what}(s) (shape={shape})"
    return f"{words} while a minimum of 1 is required."


def _differ(X: Any, other: Any) -> bool:
    """Whether the lengths are known and differ."""
    lengths = X.shape[0], other.shape[0]
    return not any(map(math.isnan, lengths)) and lengths[0] != lengths[1]
