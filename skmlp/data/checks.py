"""What can be wrong with a part of a table, in scikit-learn's words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from scipy import sparse

from skmlp.arrays import Array, arrays_of, fetch

#: No more columns than this are named in an error.
MOST_NAMED = 10
#: Root mean square of a column from which on a network of the default learning rate
#: learns next to nothing (0.53 of 1.00 at 1e4); pixels and years are below.
LARGE = 5e3

MIXED = "Mix of label input types (string and number)"
NOTHING_KNOWN = "y has no known target: each is NaN."
HOW_TO_MASK = (
    "To train on those targets that are known, set missing_targets='mask'; or leave "
    "out the rows that have none."
)


def check_shapes(n_rows: int, features: int, X: Any, y: Array, w: Array | None) -> None:
    """ValueError unless the part is what its collection says."""
    if X.ndim != 2:
        raise ValueError(f"X has {X.ndim} dimensions, not 2")
    if X.shape != (n_rows, features):
        raise ValueError(
            f"X has {X.shape[0]} rows and {X.shape[1]} columns here; its Dask "
            f"collection says {n_rows} rows and {features} columns"
        )
    if y.ndim not in (1, 2):
        raise ValueError(f"y has {y.ndim} dimensions, not 1 or 2")
    if w is not None and w.ndim != 1:
        raise ValueError(f"sample_weight has {w.ndim} dimensions, not 1")
    for name, values in {"y": y, "sample_weight": w}.items():
        if values is not None and len(values) != n_rows:
            raise ValueError(f"X has {n_rows} rows, but {name} has {len(values)}")


def check_finite(values: Array, name: str, table: Any = None) -> None:
    """ValueError, in scikit-learn's words, if some value is NaN or infinite.

    It names the columns if `values` are those of a data frame `table`.
    """
    # The sum of finite values is finite, but for overflow: a look without a copy.
    with np.errstate(all="ignore"):
        if np.isfinite(values.sum(dtype=np.float64)):
            return
    for wrong, what in (
        (np.isnan, "NaN"),
        (np.isinf, f"infinity or a value too large for {values.dtype!r}"),
    ):
        found = wrong(values)
        if found.any():
            where = ""
            if hasattr(table, "columns"):
                columns = list(table.columns[found.any(axis=0)])
                more = f" and {len(columns) - MOST_NAMED} more"
                named = ", ".join(map(repr, columns[:MOST_NAMED]))
                where = f" It is in {named}{more if columns[MOST_NAMED:] else ''}"
            raise ValueError(f"Input {name} contains {what}.{where}")


def sum_of_squares(values: Array) -> float:
    """Of all values, which must lie in one block: finite only if all of them are.

    So it is a check that they are, as cheap as their sum, and a bound for each column.
    """
    flat = values.ravel("K")
    with np.errstate(all="ignore"):
        # Not `np.dot`: the BLAS would wake its threads, and these look for work for a
        # while after it, on the cores that the first epochs need.
        return float(np.einsum("i,i->", flat, flat))


def unscaled(X: Any, squares: float | None = None) -> dict[int, float]:
    """The root mean square of each column of finite floats where it is above `LARGE`.

    Such columns are too large for a network. `squares` is the sum of all squares of the
    ndarray or sparse matrix `X`, if it is known.
    """
    arrays = arrays_of(X)
    if arrays is not None:
        norms = fetch(arrays.xp.linalg.vector_norm(X, axis=0))
        sizes = norms / math.sqrt(X.shape[0])
        return {int(j): float(sizes[j]) for j in np.flatnonzero(sizes > LARGE)}
    data = X.data if sparse.issparse(X) else X
    if squares is None:
        squares = sum_of_squares(data)
    if squares <= LARGE**2 * X.shape[0]:
        return {}
    with np.errstate(all="ignore"):
        if sparse.issparse(X):
            rows = X.tocsr()
            sums = np.bincount(rows.indices, np.square(rows.data, dtype=np.float64))
        else:
            sums = np.einsum("ij,ij->j", X, X, dtype=np.float64)
        sizes = np.sqrt(sums / X.shape[0])
    return {int(j): float(sizes[j]) for j in np.flatnonzero(sizes > LARGE)}


def checked_rows(X: Any, table: Any = None) -> dict[int, float]:
    """`unscaled` of a table. ValueError if it is not finite, as in `check_finite`."""
    data = X.data if sparse.issparse(X) else X
    squares = sum_of_squares(data)
    if not np.isfinite(squares):
        check_finite(data, "X", table)
    return unscaled(X, squares)


def largest(parts: Iterable[Mapping[int, float]]) -> dict[int, float]:
    """What is `unscaled` in any of several parts of a table."""
    found: dict[int, float] = {}
    for part in parts:
        found |= {j: max(size, found.get(j, 0)) for j, size in part.items()}
    return dict(sorted(found.items()))


def check_target(y: Array, masked: bool = False, cure: str = "") -> None:
    """ValueError if a target is infinite, complex, or missing unless `masked`.

    `cure` is what to say of missing ones.
    """
    if y.dtype.kind == "c":
        raise ValueError("Complex data not supported")
    if masked:
        if np.isinf(y).any():
            check_finite(np.where(np.isnan(y), 0, y), "y")
    elif y.dtype.kind == "f":
        if np.isnan(y.sum(dtype=np.float64)) and np.isnan(y).any():
            raise ValueError(f"Input y contains NaN. {cure}".rstrip())
        check_finite(y, "y")
    elif y.dtype == object and any(_is_missing(v) for v in y.ravel()):
        raise ValueError(f"Input y contains NaN. {cure}".rstrip())


def known_or_nan(y: Array) -> Array:
    """Targets as numbers; Python objects that are missing become NaN."""
    if y.dtype != object:
        return y
    flat = [np.nan if _is_missing(value) else value for value in y.ravel()]
    return np.array(flat, np.float64).reshape(y.shape)


def _is_missing(value: Any) -> bool:
    """Whether it is None, NaN, or pandas' NA, which is not even unlike itself."""
    if value is None:
        return True
    differs = value != value
    return differs is not False and (not isinstance(differs, bool) or differs)


def distinct(y: Array, suffix: str = "") -> Array:
    """The distinct labels, sorted. ValueError if these are no labels."""
    if y.dtype.kind == "f" and (y != np.floor(y)).any():
        raise ValueError(
            f"Unknown label type: continuous{suffix}. Maybe you are trying to fit a "
            "classifier, which expects discrete classes on a regression target with "
            "continuous values."
        )
    try:
        return np.unique(y)
    except TypeError:
        raise ValueError(MIXED) from None


def counted(y: Array) -> tuple[tuple[Array, Array], ...]:
    """For each column of labels, the sorted distinct ones and how many rows have them.

    `y` has the shape (n,) or (n, n_outputs). ValueError if a column has no labels.
    """
    # Not -1: there may be no rows.
    columns = y.reshape(len(y), math.prod(y.shape[1:])).T
    suffix = "-multioutput" if len(columns) > 1 else ""
    labels = [distinct(column, suffix) for column in columns]
    counts = [
        np.bincount(np.searchsorted(known, column), minlength=len(known))
        for known, column in zip(labels, columns, strict=True)
    ]
    return tuple(zip(labels, counts, strict=True))
