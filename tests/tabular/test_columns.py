"""What the columns of a raw table are read as, in fit and later."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from numpy.testing import assert_array_equal

from skmlp import ModelQualityWarning
from skmlp.tabular.encoder import TableEncoder

ZONED = pd.Series(pd.date_range("2024-03-30", periods=9, freq="7h", tz="Europe/Berlin"))
LOCAL = ZONED.dt.tz_localize(None)
HOURS = pd.Series([1.0, 2.5, np.nan] * 3)
FLAG = pd.Series([True, False, None] * 3, dtype=object)
CODES = pd.Series(list("abc") * 3)
#: Columns, and the plain ones that they are read as.
READ_AS: dict[str, tuple[Any, pd.Series]] = {
    "dates with a zone": (ZONED, LOCAL),
    "objects that are dates with a zone": (ZONED.astype(object), LOCAL),
    "pyarrow's dates with a zone in pandas": (
        ZONED.astype("timestamp[us, Europe/Berlin][pyarrow]"),
        LOCAL,
    ),
    "polars' dates with a zone": (pl.Series(ZONED.to_list()), LOCAL),
    "pyarrow's dates with a zone": (pa.array(ZONED), LOCAL),
    "days of the calendar": (LOCAL.dt.date, LOCAL.dt.floor("D")),
    "pyarrow's days": (
        LOCAL.dt.floor("D").astype("date32[pyarrow]"),
        LOCAL.dt.floor("D"),
    ),
    "periods": (LOCAL.dt.to_period("M"), LOCAL.dt.to_period("M").dt.start_time),
    "durations": (pd.to_timedelta(HOURS, unit="h"), HOURS / 24),
    "objects that are durations": (
        pd.to_timedelta(HOURS, unit="h").astype(object),
        HOURS / 24,
    ),
    "polars' durations": (
        pl.Series([None if h != h else dt.timedelta(hours=h) for h in HOURS]),
        HOURS / 24,
    ),
    "times of the day": (
        pd.Series([dt.time(1), dt.time(2, 30), None] * 3, dtype=object),
        HOURS,
    ),
    "decimals": (
        pd.Series([Decimal("1"), Decimal("2.5"), None] * 3, dtype=object),
        HOURS,
    ),
    "numpy's bools": (pd.Series([np.True_, np.False_, None] * 3, dtype=object), FLAG),
    "pandas' bools": (FLAG.astype("boolean"), FLAG),
    "pyarrow's bools": (FLAG.astype("bool[pyarrow]"), FLAG),
    "pandas' Int64": (
        pd.Series([1, 2, None] * 3, dtype="Int64"),
        pd.Series([1, 2, np.nan] * 3),
    ),
    "levels in another order, and unused ones": (
        pd.Series(pd.Categorical(CODES, categories=list("xcba"))),
        CODES,
    ),
    "pyarrow's dictionaries": (pa.array(CODES).dictionary_encode(), CODES),
    "pyarrow's dictionaries of numbers": (
        pa.array([1, 2, 3] * 3).dictionary_encode(),
        pd.Series(["1", "2", "3"] * 3),
    ),
    "strings": (CODES.astype("string"), CODES),
    "nothing at all": (pd.Series([None] * 9, dtype=object), HOURS * np.nan),
}


@pytest.mark.parametrize("name", READ_AS)
def test_what_a_column_is_read_as(name):
    odd, plain = READ_AS[name]
    kind = {pl.Series: pl.DataFrame, pa.Table: pa.table}
    make = kind.get(type(odd), pa.table if isinstance(odd, pa.Array) else pd.DataFrame)
    if isinstance(odd, pa.ChunkedArray):
        make = pa.table
    table, expected = make({"a": odd}), pd.DataFrame({"a": plain})
    one = TableEncoder(min_frequency=1).fit(table)
    two = TableEncoder(min_frequency=1).fit(expected)
    names = one.get_feature_names_out()
    assert list(names) == list(two.get_feature_names_out())
    assert_array_equal(one.transform(table), two.transform(expected))
    # It may come as the other one later.
    assert_array_equal(one.transform(expected), two.transform(table))


LATER: dict[str, tuple[Any, Any, str | None]] = {
    "texts that are dates": (LOCAL, LOCAL.astype(str), None),
    "texts that are dates with a zone": (ZONED, ZONED.map(str), None),
    "dates as objects": (LOCAL, LOCAL.astype(object), None),
    "no date": (LOCAL, pd.Series([None] * 9), None),
    "no number": (HOURS, pd.Series([None] * 9), None),
    "no text": (CODES, HOURS * np.nan, None),
    "texts where all was missing": (HOURS * np.nan, CODES, None),
    "texts that are numbers": (HOURS, HOURS.astype(str).replace("nan", None), None),
    "numbers, not dates": (LOCAL, HOURS, r"held dates in fit .* numbers now, .*'1\.0'"),
    "dates, not numbers": (HOURS, LOCAL, "held numbers in fit and holds dates now"),
    "dates, not texts": (CODES, LOCAL, "held texts in fit and holds dates now"),
    "texts, not dates": (LOCAL, CODES, "held dates in fit .* 'a': pass dates"),
    "infinite texts": (HOURS, pd.Series(["inf"] * 9), "infinity .* Replace it"),
}


@pytest.mark.parametrize("name", LATER)
def test_columns_that_come_as_another_kind_later(name):
    first, later, message = LATER[name]
    encoder = TableEncoder(min_frequency=1).fit(pd.DataFrame({"a": first}))
    table = pd.DataFrame({"a": later})
    if message is not None:
        with pytest.raises(ValueError, match=message):
            encoder.transform(table)
        return
    found = encoder.transform(table)
    gone = later.isna().all() or first.isna().all()
    expected = pd.DataFrame({"a": first.mask(first.notna()) if gone else first})
    assert_array_equal(found, encoder.transform(expected))


def test_columns_of_rare_categories_only_are_named():
    table = pd.DataFrame({"id": [f"n{k}" for k in range(40)], "color": list("ab") * 20})
    with pytest.warns(ModelQualityWarning, match=r"of 'id' has 5 rows .*to_datetime"):
        TableEncoder().fit(table)
    TableEncoder().fit(table[["color"]])  # no warning
    TableEncoder().fit(table[:8])  # too few rows to say
