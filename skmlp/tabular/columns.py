"""The columns of a raw table of any kind: numbers, dates, or categories as texts.

pandas, polars, pyarrow and numpy are told apart by what they can do; none but numpy is
imported.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.utils import check_array

from skmlp.arrays import Array


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes
    ----------
    name : str
        As messages and feature names show it.
    values : ndarray of shape (n,)
        float64 with NaN, datetime64[us] with NaT, or texts (objects) with None where
        one is missing.
    """

    name: str
    values: Array

    @property
    def kind(self) -> str:
        """What it holds: numbers, dates or texts."""
        return KINDS[self.values.dtype.kind]

    @property
    def is_number(self) -> bool:
        """Whether it holds numbers."""
        return self.kind == "numbers"

    def parts(self) -> list[Column]:
        """Itself; of a date its time in days, and the parts that repeat."""
        return _parts_of_date(self) if self.kind == "dates" else [self]


#: What a column holds, by the kind of its dtype.
KINDS = {"f": "numbers", "M": "dates", "O": "texts"}
#: Types of an object that is a number, a date, a duration.
NUMBERS = Real, Decimal, np.number, np.bool_
DATES = dt.date, np.datetime64
DURATIONS = dt.timedelta, np.timedelta64


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


def take(X: Any, rows: Array) -> Any:
    """Some rows of a table or of targets; see `as_rows`."""
    if hasattr(X, "iloc"):
        return X.iloc[rows]
    return X.take(rows) if hasattr(X, "num_rows") else X[rows]


def as_rows(y: Any) -> Any:
    """Targets of frames as they are, all else as an array."""
    own = hasattr(y, "iloc") or type(y).__module__.startswith("polars")
    return y if own or hasattr(y, "num_rows") else np.asarray(y)


def as_table(X: Any, estimator: Any) -> Any:
    """A frame as it is, all else as an array of two dimensions.

    Raises
    ------
    TypeError
        A sparse matrix, a lazy frame, or a Dask collection.
    """
    if type(X).__name__ == "LazyFrame":
        raise TypeError("A LazyFrame was passed, but rows are needed: pass X.collect()")
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
        One for each of the table.

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
    return [
        _column(name, raw, categorical is not None and categorical[j])
        for j, (name, raw) in enumerate(parts)
    ]


def _raw_columns(X: Any) -> list[Any]:
    """The columns of a frame: pandas' series, or arrays of numpy."""
    if hasattr(X, "iloc"):
        series = [X.iloc[:, j] for j in range(X.shape[1])]
        arrow = "pyarrow_dtype"  # of pandas' dtypes that are pyarrow's
        return [_of_arrow(s.array) if hasattr(s.dtype, arrow) else s for s in series]
    if hasattr(X, "num_rows"):  # pyarrow
        return [_of_arrow(column) for column in X.columns]
    return [_of_polars(X.get_column(name)) for name in X.columns]


def _of_arrow(column: Any) -> Any:
    if hasattr(column, "__arrow_array__"):  # of pandas
        column = column.__arrow_array__()
    kind = str(column.type)
    if kind.startswith("dictionary"):
        values = column.to_pylist()
        texts = [None if is_missing(v) else text_of(v) for v in values]
        return np.array(texts, dtype=object)
    # A time with a zone is read as the local one, below.
    if kind.startswith(("timestamp", "date")) and "tz=" not in kind:
        return np.asarray(column.cast("timestamp[us]").to_numpy())
    if kind.startswith(("int", "uint", "float", "double", "half", "decimal")):
        return np.asarray(column.cast("double").to_numpy(), np.float64)
    return np.asarray(column.to_pylist(), dtype=object)


def _of_polars(column: Any) -> Any:
    if column.dtype.is_temporal():
        if getattr(column.dtype, "time_zone", None) is not None:
            column = column.dt.replace_time_zone(None)  # the local time
        return np.asarray(column.to_numpy())
    if column.dtype.is_numeric():
        return np.asarray(column.cast(float).to_numpy(), np.float64)
    return np.asarray(column.to_list(), dtype=object)


def _column(name: str, raw: Any, categorical: bool) -> Column:
    """One raw column as a `Column`."""
    dtype = raw.dtype
    kind = getattr(dtype, "kind", "O")
    if kind == "c" or (kind == "O" and any(isinstance(v, complex) for v in raw)):
        raise ValueError(f"Complex data not supported: column {name!r}")
    category = categorical or type(dtype).__name__ == "CategoricalDtype"
    if category or kind not in "iufbMm":
        values = np.asarray(raw, dtype=object)
        return Column(name, _of_objects(name, values, category))
    if kind in "Mm":
        zoned = getattr(dtype, "tz", None) is not None
        values = np.asarray(raw.dt.tz_localize(None) if zoned else raw)
        return Column(name, _of_times(values))
    missing = {"na_value": np.nan} if hasattr(raw, "isna") else {}
    values = raw.to_numpy(np.float64, **missing) if missing else raw
    return Column(name, _finite(name, np.asarray(values, np.float64)))


def _of_objects(name: str, values: Array, category: bool) -> Array:
    """Objects as what all of them are: numbers, dates, durations, or else texts."""
    missing = np.array([is_missing(v) for v in values], bool)
    known = values[~missing]

    def all_are(*types: Any) -> bool:
        return not category and all(isinstance(v, types) for v in known)

    found: Array = np.full(len(values), np.nan)
    if all_are(*NUMBERS):
        try:
            found[~missing] = known.astype(np.float64)
        except OverflowError:  # an int of Python
            found[:] = np.inf
        return _finite(name, found)
    if all_are(dt.time):
        found[~missing] = [v.hour + v.minute / 60 + v.second / 3600 for v in known]
        return found
    if all_are(*DATES) or all_are(*DURATIONS):
        unit = "datetime64[us]" if all_are(*DATES) else "timedelta64[us]"
        times = np.full(len(values), "NaT", unit)
        times[~missing] = [_without_zone(v) for v in known]
        return _of_times(times)
    if not category and all(type(v).__name__ == "Period" for v in known):
        times = np.full(len(values), "NaT", "datetime64[us]")
        times[~missing] = [v.start_time for v in known]
        return times
    texts = np.full(len(values), None, object)
    texts[~missing] = [text_of(v) for v in known]
    return texts


def _without_zone(time: Any) -> Any:
    """The local time of a date, a duration as it is."""
    return time.replace(tzinfo=None) if isinstance(time, dt.datetime) else time


def _of_times(values: Array) -> Array:
    """Dates in microseconds, durations in days."""
    if values.dtype.kind == "M":
        return values.astype("datetime64[us]")
    return np.asarray(values / np.timedelta64(1, "D"))


def is_missing(value: Any) -> bool:
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
    if values.dtype.kind == "f" and np.isinf(values).any():
        raise ValueError(
            f"Input X contains infinity or a value too large for dtype('float64'): "
            f"column {name!r}. Replace it, for example by NaN, which counts as missing"
        )
    return values


#: Microseconds of a day.
DAY = 8.64e10


def _parts_of_date(column: Column) -> list[Column]:
    stamps = column.values
    missing = np.isnat(stamps)
    days = stamps.astype("datetime64[D]")
    parts = {
        "": stamps.astype(np.int64) / DAY,
        "month": stamps.astype("datetime64[M]").astype(np.int64) % 12,
        "weekday": (days.astype(np.int64) + 3) % 7,
        "hour": (stamps - days).astype("timedelta64[h]").astype(np.int64),
    }
    found = []
    for part, values in parts.items():
        numbers = np.where(missing, np.nan, values.astype(np.float64))
        found.append(Column(f"{column.name} {part}".strip(), numbers))
    return found


# -- columns of a table that comes later -----------------------------------------------


def as_kind(column: Column, kind: str, known: bool) -> Column:
    """A column in the kind that it had in `fit`.

    A missing value has no kind of its own, nor has a column that had no value in `fit`:
    `known` is False for it.

    Raises
    ------
    ValueError
        It holds something else, which does not read as this kind.
    """
    values = column.values
    if column.kind == kind:
        return column
    present = np.array([v == v and v is not None for v in values], bool)
    if not known:
        present[:] = False
    blank = {"numbers": np.nan, "dates": np.datetime64("NaT", "us"), "texts": None}
    found: Array = np.full(
        len(values), blank[kind], object if kind == "texts" else None
    )
    for i in np.flatnonzero(present):
        try:
            found[i] = _read_as(kind, column.kind, values[i])
        except ValueError:
            raise ValueError(
                f"column {column.name!r} held {kind} in fit and holds {column.kind} "
                f"now, such as {str(values[i])!r}: pass {kind}"
            ) from None
    return Column(column.name, _finite(column.name, found))


def _read_as(kind: str, given: str, value: Any) -> Any:
    """A value of one kind as one of another kind."""
    if (kind, given) == ("texts", "numbers"):
        return text_of(value)
    if given != "texts":
        raise ValueError
    if kind == "numbers":
        return float(value)
    return np.datetime64(_without_zone(dt.datetime.fromisoformat(value)), "us")
