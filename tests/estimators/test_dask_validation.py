"""Validation rows, scores and class weights where the rows are Dask arrays."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import sparse

from tests.estimators.attempts import ESTIMATORS, KWARGS, W, X, Y, attempt, make
from tests.estimators.dask_data import dask_of

STOP = {"early_stopping": True, "max_iter": 5, "learning_rate_init": 0.02}


def assert_same(one: Any, two: Any) -> None:
    assert_allclose(one.coefs_[0], two.coefs_[0], rtol=1e-6, atol=1e-9)
    assert_allclose(one.validation_scores_, two.validation_scores_, rtol=1e-6)
    assert_allclose(one.validation_loss_curve_, two.validation_loss_curve_, rtol=1e-6)


def quiet(name: str, **params: Any) -> Any:
    return make(name, "").set_params(verbose=False, **STOP, **params)


@pytest.mark.parametrize(
    ("weights", "scoring"),
    [("none", None), ("training", "loss"), ("validation", "other"), ("none", "other")],
)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_small_arrays_are_sent_along(name, weights, scoring, client):
    if scoring == "other":
        regression = name == "MLPRegressor"
        scoring = "neg_mean_absolute_error" if regression else "balanced_accuracy"
    w = W * 2 if weights == "training" else None
    kwargs: dict[str, Any] = {"X_val": X[:9], "y_val": Y[:9]}
    if weights == "validation":
        kwargs["sample_weight_val"] = W[:9] + np.arange(9)
    here = quiet(name, scoring=scoring).fit(X, Y, w, **kwargs)
    lazy_w = None if w is None else dask_of(w)
    there = quiet(name, scoring=scoring).fit(dask_of(X), dask_of(Y), lazy_w, **kwargs)
    assert_same(there, here)


def test_sparse_chunks(client):
    rows = sparse.csr_matrix(X)
    here = quiet("MLPClassifier").fit(rows, Y, X_val=rows[:9], y_val=Y[:9])
    there = quiet("MLPClassifier").fit(
        dask_of(rows), dask_of(Y), X_val=dask_of(rows[:9], 4), y_val=dask_of(Y[:9], 9)
    )
    assert_same(there, here)


@pytest.fixture
def no_rows_here(monkeypatch):
    """Let it fail if a Dask array becomes one of this process."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("rows were brought to the driver")

    monkeypatch.setattr(da.Array, "compute", refuse)
    monkeypatch.setattr(da.Array, "__array__", refuse)


@pytest.mark.usefixtures("no_rows_here")
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_no_array_is_brought_here(name, given, client):
    kwargs = {"X_val": dask_of(X), "y_val": dask_of(Y)} if given else {}
    scoring = "r2" if name == "MLPRegressor" else "accuracy"
    model = quiet(name, scoring=scoring, validation_fraction=0.3)
    model.fit(dask_of(X), dask_of(Y), dask_of(W), **kwargs)
    twin = quiet(name, validation_fraction=0.3)
    twin.fit(dask_of(X), dask_of(Y), dask_of(W), **kwargs)
    assert_same(model, twin)


BAD: dict[str, tuple[Any, Any, str]] = {
    "fewer features": (X[:9, :3], Y[:9], "4 features"),
    "columns": (X[:9], np.eye(9, 2, dtype=int), "y_val"),
    "NaN": (np.full((9, 4), np.nan), Y[:9], "validation rows: Input X contains NaN"),
    "fewer targets": (X[:9], Y[:8], "inconsistent numbers of samples"),
}


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_bad_validation_rows(name, what, lazy, client):
    X_val, y_val, words = BAD[what]
    if lazy:
        X_val, y_val = dask_of(X_val, 4), dask_of(y_val, 4)
    error = attempt(
        make(name, "fitted"),
        lambda m: m.fit(dask_of(X), dask_of(Y), X_val=X_val, y_val=y_val),
    )
    assert isinstance(error, ValueError)
    assert words in str(error)


def test_unknown_labels(client):
    error = attempt(
        make("MLPClassifier", "fitted"),
        lambda m: m.fit(dask_of(X), dask_of(Y), X_val=X, y_val=Y + 1),
    )
    assert "labels that y has not: [3]" in str(error)


def test_a_scorer_does_not_see_the_rows(client):
    def looks(estimator: Any, X: Any, y: Any) -> float:
        return float(np.asarray(X).sum())

    model = make("MLPClassifier", "fitted").set_params(scoring=looks, verbose=False)
    model.set_params(early_stopping=True, validation_fraction=0.3)
    error = attempt(model, lambda m: m.fit(dask_of(X), dask_of(Y)))
    assert "on the workers" in str(error)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_epochs_of_pieces(name, client):
    one, many = quiet(name), quiet(name)
    for model in (one, many):
        model.set_params(early_stopping=False)
    one.partial_fit(dask_of(X), dask_of(Y), epochs=3, **KWARGS[name])
    for _ in range(3):
        many.partial_fit(X, Y, **KWARGS[name])
    assert_allclose(one.coefs_[0], many.coefs_[0], rtol=1e-6)
