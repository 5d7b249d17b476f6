"""Raw tables on Dask: the model is the one of the rows in one place."""

from __future__ import annotations

from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

pytest.importorskip("distributed", reason="Dask is an extra, dask")
import dask
import dask.array as da
import dask.dataframe as dd

from skmlp import TabularMLPClassifier, TabularMLPRegressor
from skmlp.tabular import summary
from skmlp.tabular.columns import Column
from skmlp.tabular.summary import Summary
from tests.estimators.conftest import client  # noqa: F401 - a fixture
from tests.tabular.test_tabular import COLUMNS, LABELS, REAL, N, quick

KINDS = {"classes": TabularMLPClassifier, "real": TabularMLPRegressor}
TABLE = pd.DataFrame(COLUMNS)
WEIGHTS = np.where(np.arange(N) % 5, 1.0, 0.0)


def target(kind: str) -> pd.Series:
    return pd.Series(LABELS if kind == "classes" else REAL, name="target")


def predict(model: Any, X: Any) -> Any:
    return getattr(model, "predict_proba", model.predict)(X)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_gives_the_model_of_its_rows(client, kind, weighted):  # noqa: F811
    y, w = target(kind), pd.Series(WEIGHTS) if weighted else None
    here = quick(KINDS[kind]).fit(TABLE, y, w)
    # So many parts that Dask gives some to each of its workers, however busy one is.
    lazy = [None if one is None else dd.from_pandas(one, 6) for one in (TABLE, y, w)]
    there = quick(KINDS[kind]).fit(*lazy)
    assert list(there.feature_names_in_) == list(TABLE)
    names = here.preprocessor_.get_feature_names_out()
    assert_array_equal(there.preprocessor_.get_feature_names_out(), names)
    assert there.estimators_[0].n_shards_ == 2
    for one, two in zip(here.estimators_, there.estimators_, strict=True):
        for a, b in zip(one.coefs_, two.coefs_, strict=True):
            assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    expected = predict(here, TABLE)
    assert_allclose(predict(there, TABLE), expected, rtol=1e-3, atol=1e-4)
    # Predictions of a frame are lazy, and have its index.
    lazily = predict(there, lazy[0])
    assert_allclose(lazily.compute(), predict(there, TABLE), rtol=1e-9)
    assert_array_equal(lazily.compute().index, TABLE.index)


def test_an_array_and_own_validation_rows(client):  # noqa: F811
    X = TABLE[["size", "flag"]].to_numpy(np.float64)
    A, b = da.from_array(X, (70, 2)), da.from_array(REAL, 70)
    model = quick(TabularMLPRegressor)
    there = model.fit(A[:200], b[:200], X_val=A[200:], y_val=b[200:]).predict(A)
    assert there.chunks[0] == A.chunks[0]
    here = quick(TabularMLPRegressor)
    here.fit(X[:200], REAL[:200], X_val=X[200:], y_val=REAL[200:])
    assert_allclose(there.compute(), here.predict(X), rtol=1e-3, atol=1e-4)
    assert_allclose(model._errors, here._errors, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_scorers_see_the_targets_as_they_came(client, kind):  # noqa: F811
    y = target(kind)
    named = "neg_mean_absolute_error" if kind == "real" else "roc_auc"
    here = quick(KINDS[kind], scoring=named, max_iter=3).fit(TABLE, y)
    lazy = dd.from_pandas(TABLE, 3), dd.from_pandas(y, 3)
    there = quick(KINDS[kind], scoring=named, max_iter=3).fit(*lazy)
    for one, two in zip(here.estimators_, there.estimators_, strict=True):
        assert_allclose(
            one.best_validation_score_, two.best_validation_score_, rtol=1e-3
        )


@pytest.mark.parametrize("kind", KINDS)
def test_members_are_trained_on_workers(client, kind):  # noqa: F811
    alone = quick(KINDS[kind]).fit(TABLE, target(kind))
    with joblib.parallel_config("dask"):
        model = quick(KINDS[kind]).fit(TABLE, target(kind))
    for one, two in zip(alone.estimators_, model.estimators_, strict=True):
        for a, b in zip(one.coefs_, two.coefs_, strict=True):
            assert_array_equal(a, b)


def test_a_partition_without_dates_has_no_kind(client):  # noqa: F811
    days = pd.Series([None] * 80 + [d.date() for d in TABLE["day"][80:]], dtype=object)
    table = pd.DataFrame({"day": days})
    with dask.config.set({"dataframe.convert-string": False}):
        lazy = dd.from_pandas(table, 3), dd.from_pandas(pd.Series(REAL), 3)
        there = quick(TabularMLPRegressor).fit(*lazy).preprocessor_
        here = quick(TabularMLPRegressor).fit(table, REAL).preprocessor_
        assert_allclose(there.transform(table), here.transform(table), rtol=1e-6)
        mixed = dd.from_pandas(table.assign(day=[1] * 80 + [*days[80:]]), 3)
        with pytest.raises(ValueError, match="'day' holds dates in some partitions"):
            quick(TabularMLPRegressor).fit(mixed, lazy[1])


def test_what_cannot_be_taken_is_said(client):  # noqa: F811
    mixed = da.from_array(np.array([[1], [2], ["x"], ["y"]], dtype=object), (2, 1))
    with pytest.raises(ValueError, match="'x0' holds numbers in some partitions"):
        quick(TabularMLPRegressor).fit(mixed, da.arange(4, chunks=2))
    lazy = dd.from_pandas(TABLE, 3)
    with pytest.raises(ValueError, match="y must be a Dask collection"):
        quick(TabularMLPRegressor).fit(lazy, REAL)
    model = quick(TabularMLPRegressor).fit(TABLE, REAL)
    with pytest.raises(ValueError, match=r"'size' held numbers .* 'big'.*partition \d"):
        model.predict(lazy.assign(size="big")).compute()
    with pytest.raises(ValueError, match="between 0 and 1"):
        model.predict_interval(lazy, 90)
    with pytest.raises(TypeError, match=r"X\.compute\(\), or call it for each"):
        model.preprocessor_.transform(lazy)


#: Targets, and the columns that the intervals of a frame have.
TARGETS = {
    "one": (REAL, ["lower", "upper"]),
    "a column": (REAL[:, None], ["lower 0", "upper 0"]),
    "two": (
        np.column_stack([REAL, -REAL]),
        ["lower 0", "upper 0", "lower 1", "upper 1"],
    ),
}


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("framed", [True, False])
def test_deviations_and_intervals_are_lazy_too(framed, name):
    y, ends = TARGETS[name]
    X = TABLE if framed else TABLE[["size", "flag"]].to_numpy(np.float64)
    model = quick(TabularMLPRegressor, n_estimators=3, max_iter=3).fit(X, y)
    lazy: Any = dd.from_pandas(X, 3) if framed else da.from_array(X, (70, 1))
    expected = [*model.predict(X, return_std=True), model.predict_interval(X, 0.7)]
    found = [*model.predict(lazy, return_std=True), model.predict_interval(lazy, 0.7)]
    for one, there in zip(expected, found, strict=True):
        here = there.compute()
        assert_allclose(np.asarray(here).reshape(one.shape), one, rtol=1e-9, atol=1e-12)
        if framed:
            assert_array_equal(here.index, X.index)
            assert type(here) is type(there._meta)
            assert there._meta.ndim == here.ndim
            if here.ndim == 2:
                assert list(there.columns) == list(here.columns)
        else:
            assert there.shape == here.shape == one.shape
            assert there.chunks[0] == lazy.chunks[0]
            assert there.dtype == here.dtype
    if framed:
        assert list(found[-1].columns) == ends
        one_column = y.ndim == 1
        assert [one.ndim for one in found[:2]] == [1 if one_column else 2] * 2
    else:  # of an unknown number of rows, and with empty chunks
        some = lazy[lazy[:, 0] > 0.5]
        kept = X[:, 0] > 0.5
        assert_allclose(
            model.predict_interval(some, 0.7).compute(), expected[2][kept], rtol=1e-9
        )


def test_summaries_of_parts_are_that_of_all(monkeypatch):
    values = np.random.default_rng(0).normal(size=9000)
    values[::10] = np.nan
    parts = [Column("a", part) for part in np.split(values, [10, 10, 4000])]
    levels = np.linspace(0, 1, 17)
    whole = Summary.of(Column("a", values))
    joined = Summary.joined([Summary.of(part) for part in parts])
    assert_array_equal(joined.quantiles(levels), whole.quantiles(levels))
    assert joined.n_missing == whole.n_missing == 900
    # Of many rows quantiles are kept.
    monkeypatch.setattr(summary, "MOST_NUMBERS", 500)
    rough = Summary.joined([Summary.of(part) for part in parts])
    assert len(rough.values) < 1100
    near = whole.quantiles(levels)[1:-1]
    assert_allclose(rough.quantiles(levels)[1:-1], near, atol=0.01)


def test_categories_of_parts_are_counted_together():
    words = np.array(["a", "b", None, "b", "a", "b", "c"], dtype=object)
    missing = Column("w", np.full(2, np.nan))  # of no kind
    parts = [Column("w", words[:3]), Column("w", words[3:]), missing]
    found = Summary.joined([Summary.of(part) for part in parts])
    assert found.categories(3, "rare") == ["b", None, "rare"]
    assert found.categories(1, "rare") == ["a", "b", "c", None]
