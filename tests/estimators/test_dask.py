"""Dask arrays: lazy predictions, scores, and rows that stay on the cluster."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Future
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.exceptions import DataConversionWarning

import skmlp
from tests.estimators.attempts import ESTIMATORS, KWARGS, N, W, X, Y, make
from tests.estimators.dask_data import dask_of, refuse
from tests.laws.twins import CLASSIFICATION, data_of


@pytest.fixture
def no_cluster():
    """Dask works in this thread: what is lazy needs no more."""
    with dask.config.set(scheduler="synchronous"):
        yield


# ---- Predictions -------------------------------------------------------------------

TASKS = (*CLASSIFICATION, "one output", "two outputs", "poisson")


@functools.cache
def trained(task: str, dtype: str = "f8") -> Any:
    X, y = data_of(task)
    name = "MLPClassifier" if task in CLASSIFICATION else "MLPRegressor"
    model = getattr(skmlp, name)(hidden_layer_sizes=5, max_iter=8, random_state=1)
    if task == "poisson":
        model.set_params(loss="poisson")
    return model.fit(X.astype(dtype), y)


LAYOUTS = {
    "uneven": ((10, 1, 50, 3), (7,)),
    "empty chunks": ((0, 20, 0, 0, 44, 0), (7,)),
    "column chunks": ((32, 32), (3, 3, 1)),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.usefixtures("no_cluster")
def test_predictions_are_lazy_and_keep_the_chunks(task, dtype, layout):
    model = trained(task, dtype)
    X = data_of(task)[0].astype(dtype)
    lazy = da.from_array(X, chunks=layout)
    # The log of a probability of 0.
    with np.errstate(divide="ignore"):
        for method in (
            *("predict", "predict_proba", "predict_log_proba", "hidden_outputs"),
        ):
            if not hasattr(model, method):
                continue
            here = getattr(model, method)(X)
            there = getattr(model, method)(lazy)
            assert isinstance(there, da.Array)
            assert there.chunks[0] == layout[0]
            assert there.shape == here.shape
            assert there.dtype == there._meta.dtype == here.dtype
            computed = there.compute()
            assert type(computed) is np.ndarray
            assert computed.dtype == here.dtype
            if here.dtype.kind == "f":
                # A product of other shapes differs in its last bits.
                rtol = 1e-4 if dtype == "f4" else 1e-6
                assert_allclose(computed, here, rtol=rtol, atol=rtol**2)
            else:
                assert_array_equal(computed, here)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.usefixtures("no_cluster")
def test_scores_are_floats(task, weighted, layout):
    model = trained(task)
    X, y = data_of(task)
    w = np.arange(len(y)) % 3.0 if weighted else None
    rows = da.from_array(X, chunks=layout)
    # The chunks of y and of the weights are their own.
    weights = None if w is None else da.from_array(w, chunks=len(w))
    score = model.score(rows, dask_of(y, 11), weights)
    assert type(score) is float
    assert score == pytest.approx(model.score(X, y, w), rel=1e-9)


@pytest.mark.parametrize("task", ["binary strings", "multiclass"])
@pytest.mark.usefixtures("no_cluster")
def test_an_unknown_label_is_a_wrong_prediction(task):
    X, y = data_of(task)
    y = y.copy()
    y[::3] = "n/a" if y.dtype.kind == "U" else 77
    score = trained(task).score(dask_of(X), dask_of(y))
    assert score == trained(task).score(X, y)


@pytest.mark.usefixtures("no_cluster")
def test_sparse_chunks_and_unknown_sizes_can_be_predicted():
    X, _ = data_of("multiclass")
    model = trained("multiclass")
    lazy = dask_of(sparse.csr_matrix(X))
    assert_array_equal(model.predict(lazy).compute(), model.predict(X))
    lazy = dask_of(X)
    some = lazy[lazy[:, 0] > 0]
    assert np.isnan(some.shape[0])
    expected = model.predict_proba(X[X[:, 0] > 0])
    assert_allclose(model.predict_proba(some).compute(), expected, rtol=1e-6)


def test_nothing_is_computed_before_it_is_asked_for():
    rows = dask_of(X).map_blocks(refuse, dtype=float, meta=np.empty((0, 0)))
    model = make("MLPClassifier", "fitted")
    lazy = [model.predict(rows), model.predict_proba(rows)]
    lazy += [
        model.predict_log_proba(rows),
        make("MLPRegressor", "fitted").predict(rows),
    ]
    for one in lazy:
        with pytest.raises(ValueError, match="computed"):
            one.compute(scheduler="synchronous")


def test_the_model_goes_into_the_graph_once(client):
    """And no future: the prediction outlives the client that it was made with."""
    model = make("MLPClassifier", "fitted")
    fitted = make("MLPClassifier", "", verbose=False).set_params(n_jobs=2)
    fitted.fit(dask_of(X), dask_of(Y))
    for estimator in (model, fitted):
        graph = dict(estimator.predict(dask_of(X, 1)).__dask_graph__())
        values = [getattr(node, "value", node) for node in graph.values()]
        assert sum(isinstance(v, skmlp.MLPClassifier) for v in values) == 1
        assert not any(isinstance(v, Future) for v in values)


# ---- Rows stay on the cluster ------------------------------------------------------


@pytest.fixture
def no_rows_here(monkeypatch):
    """Let it fail if a Dask array becomes one of this process."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("rows were brought to the driver")

    monkeypatch.setattr(da.Array, "compute", refuse)
    monkeypatch.setattr(da.Array, "__array__", refuse)


@pytest.mark.usefixtures("no_rows_here")
@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("early_stopping", [False, True])
def test_no_array_is_brought_here(name, early_stopping, client):
    model = make(name, "", early_stopping=early_stopping).set_params(verbose=False)
    model.fit(dask_of(X), dask_of(Y), dask_of(W))
    model.predict(dask_of(X))
    model.score(dask_of(X), dask_of(Y), dask_of(W))


@pytest.mark.usefixtures("no_rows_here")
@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("columns", [1, 2])
def test_no_array_is_brought_here_by_partial_fit(name, columns, client):
    model = make(name, "").set_params(verbose=False)
    y = Y if columns == 1 else np.column_stack([Y > 0, Y > 1]).astype(int)
    kwargs = KWARGS[name] if columns == 1 else {}
    if name == "MLPClassifier" and columns == 2:
        kwargs = {"classes": [0, 1]}
    for _ in range(2):
        model.partial_fit(dask_of(X), dask_of(y), **kwargs)
    assert model.n_outputs_ == (3 if columns == 1 and kwargs else columns)


# ---- As in this process ------------------------------------------------------------


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_column_of_targets_is_taken_with_a_warning(name, client):
    column = dask_of(Y[:, None])
    model = make(name, "").set_params(verbose=False)
    with pytest.warns(DataConversionWarning, match="A column-vector y was passed"):
        model.fit(dask_of(X), column)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataConversionWarning)
        here = make(name, "").set_params(verbose=False).fit(X, Y[:, None])
    assert_allclose(model.coefs_[0], here.coefs_[0], rtol=1e-6)
    assert model.predict(dask_of(X)).shape == (N,)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_single_class_and_a_constant_target(name, client):
    models = [make(name, "").set_params(verbose=False) for _ in range(2)]
    models[0].fit(X, Y * 0)
    models[1].fit(dask_of(X), dask_of(Y * 0))
    assert_allclose(models[1].coefs_[0], models[0].coefs_[0], rtol=1e-6)
    assert_allclose(models[1].predict(dask_of(X)), models[0].predict(X))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_names_of_features_are_those_of_the_last_fit(name, client):
    """Dask arrays have none."""
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=list("abcd"))
    model = make(name, "").set_params(verbose=False).fit(frame, Y)
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        model.predict(dask_of(X))
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        model.partial_fit(dask_of(X), dask_of(Y))
    assert list(model.feature_names_in_) == list("abcd")
    model.fit(dask_of(X), dask_of(Y))
    assert not hasattr(model, "feature_names_in_")
    model.predict(X)
