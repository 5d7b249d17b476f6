"""Parts of all kinds as arrays: of numpy, scipy, `sparse` and pandas, by what they do.

None of those libraries but numpy and scipy is imported: what a part is shows in its
methods.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

from skmlp.arrays import Array


def is_frame(part: Any) -> bool:
    """Whether it is a data frame."""
    return hasattr(part, "columns") and hasattr(part, "iloc")


def as_table(part: Any) -> Any:
    """Rows as they are converted from: an ndarray, a sparse matrix or a data frame.

    ValueError for a sparse array whose fill value is not 0.
    """
    if sparse.issparse(part) or is_frame(part):
        return part
    if hasattr(part, "to_scipy_sparse"):  # of the package sparse
        return part.to_scipy_sparse() if part.ndim == 2 else part
    return np.asarray(part)


def as_values(part: Any) -> Array:
    """Targets or weights as an ndarray; missing numbers are NaN."""
    if is_frame(part):
        columns = [as_values(part.iloc[:, j]) for j in range(part.shape[1])]
        if not columns:
            return np.empty((len(part), 0))
        kinds = {"n" if c.dtype.kind in "biufc" else c.dtype.kind for c in columns}
        if len(kinds) == 1:
            return np.column_stack(columns)
        # Objects, for numpy would make texts of numbers.
        table = np.empty(part.shape, object)
        for j, column in enumerate(columns):
            dated = column.dtype.kind in "mM"
            table[:, j] = part.iloc[:, j].astype(object) if dated else column
        return table
    dtype = getattr(part, "dtype", None)
    if hasattr(part, "to_scipy_sparse"):
        return np.asarray(part.todense())
    if sparse.issparse(part):
        return np.asarray(part.toarray())
    # pandas' own types of numbers know missing ones, which numpy's don't.
    if getattr(dtype, "kind", "") in ("i", "u", "f", "b") and hasattr(part, "isna"):
        if part.isna().any():
            return np.asarray(part.to_numpy(np.float64, na_value=np.nan))
        if not isinstance(dtype, np.dtype):
            return np.asarray(part.to_numpy(numpy_dtype(dtype)))
    return np.asarray(part)


def numpy_dtype(dtype: Any) -> np.dtype[Any]:
    """The numpy dtype of a dtype: of pandas' own ones, that of the values."""
    if isinstance(dtype, np.dtype):
        return dtype
    inner = getattr(dtype, "numpy_dtype", None)
    if inner is None:  # a sparse column
        inner = getattr(dtype, "subtype", object)
    return np.dtype(inner)


def frame_dtype(meta: Any, name: str = "X") -> np.dtype[Any]:
    """The dtype that all columns of a data frame, called `name`, have in common.

    ValueError, with their names, if some columns are no numbers.
    """
    kinds = {column: numpy_dtype(dtype) for column, dtype in meta.dtypes.items()}
    odd = [
        f"{column!r} ({meta.dtypes[column]})"
        for column, dtype in kinds.items()
        if dtype.kind not in "biufO"
        # Objects may be numbers; strings and categories say that they are none.
        or (dtype.kind == "O" and not isinstance(meta.dtypes[column], np.dtype))
    ]
    if odd:
        raise ValueError(
            f"{name} must hold numbers, but these columns do not: {', '.join(odd)}. "
            "Encode them first, for example with dask.dataframe.get_dummies, or with "
            "scikit-learn's OrdinalEncoder in map_partitions"
        )
    return np.result_type(*kinds.values()) if kinds else np.dtype(np.float64)


def convert(table: Any, out: Array) -> None:
    """Write rows, as `as_table` gives them, into an array, in its dtype."""
    with np.errstate(all="ignore"):  # what overflows is for the caller to find
        if not is_frame(table):
            np.copyto(out, table, casting="unsafe")
            return
        # Column by column: frames of several dtypes, or of pandas' own, would be
        # copied as a whole, perhaps to Python objects.
        for j in range(table.shape[1]):
            np.copyto(out[:, j], as_values(table.iloc[:, j]), casting="unsafe")


def in_order(part: Any, names: Sequence[Any] | None, name: str) -> Any:
    """A part with its columns in the order of `names`, if it is a data frame.

    ValueError, with their names, if it has other columns.
    """
    if names is None or not is_frame(part) or list(part.columns) == list(names):
        return part
    own, wanted = Counter(part.columns), Counter(names)
    wrong = [
        f"{what} {', '.join(map(repr, columns))}"
        for what, columns in (("lacks", wanted - own), ("has also", own - wanted))
        if columns
    ]
    if not wrong and max(own.values()) > 1:
        wrong = ["has several of one name, in another order"]
    if wrong:
        raise ValueError(
            f"the columns of {name} are not those of its Dask collection: this "
            f"partition {' and '.join(wrong)}"
        )
    return part[list(names)]


def rows_of(table: Any, start: int, stop: int) -> Any:
    """Some rows of what `as_table` gives."""
    return table.iloc[start:stop] if is_frame(table) else table[start:stop]
