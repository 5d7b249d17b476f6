"""The columns of a raw table of any kind: numbers with NaN, or categories as texts.

pandas, polars, pyarrow and numpy are told apart by what they can do; none but numpy is
imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.utils import check_array

from skmlp.model.layout import Array


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes
    ----------
    name : str
        As messages and feature names show it.
    values : ndarray of shape (n,)
        float64 with NaN, or texts (objects) with None where one is missing.
    """

    name: str
    values: Array

    @property
    def is_number(self) -> bool:
        """Whether it holds numbers."""
        return self.values.dtype.kind == "f"


def is_frame(X: Any) -> bool:
    """Whether `X` is a data frame or a table of pandas, polars or pyarrow."""
    return hasattr(X, "columns") and (hasattr(X, "dtypes") or hasattr(X, "schema"))


def n_rows(X: Any) -> int:
    """The number of rows."""
    return int(X.num_rows if hasattr(X, "num_rows") else np.shape(X)[0])


def block(X: Any, start: int, length: int) -> Any:
    """Some successive rows of a table that `as_table` gives."""
    if hasattr(X, "iloc"):
        return X.iloc[start : start + length]
    if hasattr(X, "slice"):  # polars and pyarrow
        return X.slice(start, length)
    return X[start : start + length]


def as_table(X: Any, estimator: Any) -> Any:
    """A frame as it is, all else as an array of two dimensions.

    Raises
    ------
    TypeError
        A sparse matrix, or a Dask collection.
    """
    if sparse.issparse(X):
        raise TypeError(
            "Sparse data was passed, but a table of raw columns is needed: pass a "
            "frame or a dense array, or use skmlp's MLPClassifier or MLPRegressor"
        )
    if hasattr(X, "__dask_graph__"):
        raise TypeError(
            f"{type(X).__name__} of Dask: this method takes rows of one place, such as "
            "X.compute(), or call it for each partition with X.map_partitions"
        )
    if is_frame(X):
        return X
    if isinstance(X, list | tuple):  # numpy would make texts of mixed rows
        X = np.asarray(X, dtype=object)
    return check_array(
        X, dtype=None, ensure_all_finite=False, estimator=estimator, input_name="X"
    )


def names_of(X: Any) -> list[str] | None:
    """The names of a frame's columns, or None."""
    if not is_frame(X):
        return None
    return [str(n) for n in (X.column_names if hasattr(X, "num_rows") else X.columns)]


def read(X: Any, categorical: Sequence[bool] | None, estimator: Any) -> list[Column]:
    """Read a table's columns.

    Parameters
    ----------
    X : ndarray or frame of shape (n, n_features)
        The table, as `as_table` gives it.
    categorical : sequence of bool, or None
        Which columns are categories whatever their type; None where the type says so.
    estimator : estimator
        It gives messages their name.

    Returns
    -------
    list of Column
        Dates give several.

    Raises
    ------
    ValueError
        An infinite number, complex numbers, no rows or no columns.
    """
    if not is_frame(X):
        parts = [(f"x{j}", X[:, j]) for j in range(X.shape[1])]
    else:
        parts = list(zip(names_of(X) or (), _raw_columns(X), strict=True))
        for length, what in ((len(parts), "feature"), (n_rows(X), "sample")):
            if length == 0:
                raise ValueError(
                    f"Found array with 0 {what}(s) (shape={(n_rows(X), len(parts))}) "
                    f"while a minimum of 1 is required by {type(estimator).__name__}."
                )
    found: list[Column] = []
    for j, (name, raw) in enumerate(parts):
        found += _columns_of(name, raw, categorical is not None and categorical[j])
    return found


def _raw_columns(X: Any) -> list[Any]:
    """The columns of a frame: pandas' series, or arrays of numpy."""
    if hasattr(X, "iloc"):
        return [X.iloc[:, j] for j in range(X.shape[1])]
    if hasattr(X, "num_rows"):  # pyarrow
        return [_of_arrow(column) for column in X.columns]
    return [_of_polars(X.get_column(name)) for name in X.columns]


def _of_arrow(column: Any) -> Any:
    kind = str(column.type)
    if kind.startswith(("timestamp", "date")):
        return np.asarray(column.cast("timestamp[us]").to_numpy())
    if kind.startswith(("int", "uint", "float", "double", "half", "decimal")):
        return np.asarray(column.cast("double").to_numpy(), np.float64)
    return np.asarray(column.to_pylist(), dtype=object)


def _of_polars(column: Any) -> Any:
    if column.dtype.is_temporal():
        return np.asarray(column.to_numpy())
    if column.dtype.is_numeric():
        return np.asarray(column.cast(float).to_numpy(), np.float64)
    return np.asarray(column.to_list(), dtype=object)


def _columns_of(name: str, raw: Any, categorical: bool) -> list[Column]:
    """One raw column as a `Column`, a date as several."""
    dtype = raw.dtype
    kind = getattr(dtype, "kind", "O")
    if kind == "c" or (kind == "O" and any(isinstance(v, complex) for v in raw)):
        raise ValueError(f"Complex data not supported: column {name!r}")
    category = categorical or type(dtype).__name__ == "CategoricalDtype"
    if not category and kind == "M":
        return _of_date(name, raw)
    if not category and kind in "iufb":
        missing = {"na_value": np.nan} if hasattr(raw, "isna") else {}
        values = raw.to_numpy(np.float64, **missing) if missing else raw
        return [Column(name, _finite(name, np.asarray(values, np.float64)))]
    values = np.asarray(raw, dtype=object)
    missing_rows = np.array([_is_missing(v) for v in values], bool)
    known = values[~missing_rows]
    if not category and all(isinstance(v, int | float | np.number) for v in known):
        numbers = np.full(len(values), np.nan)
        numbers[~missing_rows] = known.astype(np.float64)
        return [Column(name, _finite(name, numbers))]
    texts = np.full(len(values), None, object)
    texts[~missing_rows] = [text_of(v) for v in known]
    return [Column(name, texts)]


def _is_missing(value: Any) -> bool:
    """None, NaN, NaT or pandas' NA."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float) and value != value


def text_of(value: Any) -> str:
    """A category's name, the same for 1 and 1.0."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    return str(value)


def _finite(name: str, values: Array) -> Array:
    if np.isinf(values).any():
        raise ValueError(
            f"Input X contains infinity or a value too large for dtype('float64'): "
            f"column {name!r}"
        )
    return values


def _of_date(name: str, raw: Any) -> list[Column]:
    """A date as its time in days, and the parts that repeat."""
    naive = raw.dt.tz_localize(None) if hasattr(raw, "dt") else raw
    stamps = np.asarray(naive, "datetime64[us]")
    missing = np.isnat(stamps)
    days = stamps.astype("datetime64[D]")
    parts = {
        "": stamps.astype(np.int64) / 8.64e10,
        "month": stamps.astype("datetime64[M]").astype(np.int64) % 12,
        "weekday": (days.astype(np.int64) + 3) % 7,
        "hour": (stamps - days).astype("timedelta64[h]").astype(np.int64),
    }
    found = []
    for part, values in parts.items():
        numbers = np.where(missing, np.nan, values.astype(np.float64))
        found.append(Column(f"{name} {part}".strip(), numbers))
    return found
