"""How much memory a model takes: rows 15, 17 and 18 of the differences."""

from __future__ import annotations

import copy
import functools
import pickle
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from skmlp import (
    MLPClassifier,
    MLPRegressor,
    TabularMLPClassifier,
    TabularMLPRegressor,
)

RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(40, 200)), RNG.integers(0, 3, 40)


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize(("solver", "copies"), [("adam", 3), ("sgd", 2), ("lbfgs", 1)])
def test_15_a_pickle_holds_weights_and_moments_alone(solver, copies, early_stopping):
    params: dict[str, Any] = {"solver": solver, "max_iter": 2}
    if solver != "lbfgs":
        params["early_stopping"] = early_stopping
    mlp = MLPClassifier(hidden_layer_sizes=150, **params).fit(X, Y)
    size = sum(a.nbytes for a in mlp.coefs_ + mlp.intercepts_)
    assert len(pickle.dumps(mlp)) < (copies + 0.05) * size


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("keep", ["pickle", "deepcopy"])
def test_15_a_pickle_goes_on_where_it_was(keep, solver):
    """Moments, learning rate and order of rows are in it."""
    mlp = MLPRegressor(
        solver=solver,
        learning_rate="invscaling" if solver == "sgd" else "constant",
        random_state=0,
        batch_size=7,
    )
    mlp.partial_fit(X, Y).partial_fit(X, Y)
    ways: dict[str, Callable[[Any], Any]] = {
        "pickle": lambda est: pickle.loads(pickle.dumps(est)),
        "deepcopy": copy.deepcopy,
    }
    twin = ways[keep](mlp)
    for est in (mlp, twin):
        est.partial_fit(X, Y).partial_fit(X, Y)
    for mine, other in zip(twin.coefs_, mlp.coefs_, strict=True):
        assert_array_equal(mine, other)
    assert twin.loss_curve_ == mlp.loss_curve_


N_MANY, WIDE = 100_000, 512
#: The whole hidden layer of all rows would take 410 MB.
PEAK = 64e6


@pytest.mark.parametrize(
    "container", [np.asarray, sparse.csr_matrix, sparse.csc_matrix]
)
@pytest.mark.parametrize("Estimator", [MLPClassifier, MLPRegressor])
def test_17_predictions_take_bounded_memory(Estimator, container):
    few = RNG.normal(size=(30, 4))
    mlp = Estimator(hidden_layer_sizes=WIDE, max_iter=1, random_state=0)
    mlp.fit(few, np.arange(30) % 3)
    rows = RNG.normal(size=(N_MANY, 4))
    rows[rows < 0] = 0
    many, y = container(rows), np.arange(N_MANY) % 3
    calls: dict[str, Callable[[], Any]] = {
        "predict": lambda: mlp.predict(many),
        "score": lambda: mlp.score(many, y),
    }
    if Estimator is MLPClassifier:
        calls["predict_proba"] = lambda: mlp.predict_proba(many)
        calls["predict_log_proba"] = lambda: mlp.predict_log_proba(many)
    answers = {}
    for name, call in calls.items():
        tracemalloc.start()
        try:
            answers[name] = call()
            assert tracemalloc.get_traced_memory()[1] < PEAK, name
        finally:
            tracemalloc.stop()
    # The same as by hand, also across the borders of the blocks.
    hidden = np.maximum(rows[::997] @ mlp.coefs_[0] + mlp.intercepts_[0], 0)
    raw = hidden @ mlp.coefs_[1] + mlp.intercepts_[1]
    if Estimator is MLPRegressor:
        assert_allclose(answers["predict"][::997], raw[:, 0], rtol=1e-9, atol=1e-12)
    else:
        odds = np.exp(raw - raw.max(axis=1, keepdims=True))
        share = odds / odds.sum(axis=1, keepdims=True)
        assert_allclose(answers["predict_proba"][::997], share, rtol=1e-9)
        assert_array_equal(answers["predict"][::997], raw.argmax(axis=1))


def test_17_a_million_predictions_take_a_block():
    """The hidden layer of all rows would take 1 GB."""
    mlp = MLPRegressor(hidden_layer_sizes=256, max_iter=1, random_state=0)
    mlp.fit(RNG.normal(size=(30, 4)).astype(np.float32), np.arange(30.0))
    rows = np.resize(RNG.normal(size=(999, 4)).astype(np.float32), (1_000_000, 4))
    mlp.predict(rows[:50_000])  # compiles what many rows take
    tracemalloc.start()
    try:
        found = mlp.predict(rows)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < found.nbytes + 12e6
    assert_allclose(found[999:1998], found[:999], rtol=1e-4, atol=1e-5)


N_WIDE, N_OUTPUTS = 4_000, 1_600
#: All outputs of these rows take 51 MB; a block of them takes 8 MB.
WIDE_X = RNG.normal(size=(N_WIDE, 4))
CODES = np.arange(N_WIDE) % N_OUTPUTS
HEADS = np.c_[CODES % 800 + 2, CODES % 800 + 3]
BITS = (CODES[:, None] == np.arange(N_OUTPUTS)).astype(np.int8)
BITS[0] = 1
REAL = RNG.normal(size=(N_WIDE, N_OUTPUTS)).astype(np.float32)
GAPS = np.where(BITS, np.nan, REAL)

#: What a model is fitted to, and how its score is found for those predictions.
MANY_OUTPUTS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "classes": (MLPClassifier, CODES, {}),
    "heads": (MLPClassifier, HEADS, {}),
    "multilabel": (MLPClassifier, BITS, {}),
    "sparse multilabel": (MLPClassifier, sparse.csr_matrix(BITS), {}),
    "real": (MLPRegressor, REAL, {}),
    "gaps": (MLPRegressor, GAPS, {"missing_targets": "mask"}),
}


def score_by_hand(model: Any, y: Any, w: Any) -> float:
    found = model.predict(WIDE_X)
    if isinstance(model, MLPRegressor):
        y, found = (np.nan_to_num(a).astype(float) for a in (y, found))
        known = ~np.isnan(MANY_OUTPUTS["gaps"][1]) if "mask" in repr(model) else 1
        w = (1 if w is None else w[:, None]) * known * np.ones(y.shape)
        spread = (w * (y - np.average(y, axis=0, weights=w)) ** 2).sum(axis=0)
        return float(np.mean(1 - (w * (y - found) ** 2).sum(axis=0) / spread))
    if sparse.issparse(y):
        assert sparse.issparse(found)
        y, found = y.toarray(), found.toarray()
    right = (found == y).reshape(len(y), -1).all(axis=1)
    return float(np.average(right, weights=w))


def bytes_of(found: Any) -> int:
    if isinstance(found, list):
        return sum(map(bytes_of, found))
    if sparse.issparse(found):
        return int(found.data.nbytes + found.indices.nbytes + found.indptr.nbytes)
    return int(np.asarray(found).nbytes)


def peak_beside_the_result(call: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        found = call()
        return tracemalloc.get_traced_memory()[1] - bytes_of(found)
    finally:
        tracemalloc.stop()


@functools.cache
def of_many_outputs(what: str) -> Any:
    Estimator, y, params = MANY_OUTPUTS[what]
    model = Estimator(hidden_layer_sizes=4, max_iter=1, random_state=0, **params)
    return model.fit(WIDE_X, y)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("what", MANY_OUTPUTS)
def test_17_scores_of_many_outputs_take_a_block(what, weighted):
    model, y = of_many_outputs(what), MANY_OUTPUTS[what][1]
    w = RNG.random(N_WIDE) if weighted else None
    assert_allclose(model.score(WIDE_X, y, w), score_by_hand(model, y, w), rtol=1e-6)
    assert peak_beside_the_result(lambda: model.score(WIDE_X, y, w)) < 30e6


@pytest.mark.parametrize("what", MANY_OUTPUTS)
def test_17_many_outputs_take_a_block(what):
    model, y = of_many_outputs(what), MANY_OUTPUTS[what][1]
    for method in ("predict", "predict_proba", "predict_log_proba", "hidden_outputs"):
        # Sparse labels are put together out of those of the blocks.
        limit = 30e6 if what != "sparse multilabel" else 30e6 + bytes_of(y)
        if hasattr(model, method):
            call = getattr(model, method)
            assert peak_beside_the_result(lambda call=call: call(WIDE_X)) < limit


@pytest.mark.parametrize("y", [CODES, REAL], ids=["classes", "real"])
def test_17_raw_tables_take_a_block(y):
    """All outputs would take 102 MB several times, a block of them 8 MB."""
    Estimator = TabularMLPClassifier if y is CODES else TabularMLPRegressor
    model = Estimator(2, 4, max_iter=1, early_stopping=False, random_state=0)
    model.fit(WIDE_X, y)
    assert peak_beside_the_result(lambda: model.predict(WIDE_X)) < PEAK
    whole = model.predict(WIDE_X)
    for k in range(3):
        assert_allclose(whole[k::3], model.predict(WIDE_X[k::3]))


def test_17_dask_scores_take_a_block():
    rows, y = (da.from_array(a, chunks=(N_WIDE, -1)[: a.ndim]) for a in (WIDE_X, CODES))
    model = MLPClassifier(4, max_iter=1, random_state=0).fit(WIDE_X, CODES)
    expected = model.score(WIDE_X, CODES)
    with dask.config.set(scheduler="sync"):
        assert model.score(rows, y) == expected
        assert peak_beside_the_result(lambda: model.score(rows, y)) < 30e6
        assert peak_beside_the_result(model.predict(rows).compute) < 30e6


@pytest.mark.parametrize("n_outputs", [1, 2])
def test_17_two_classes_take_a_block(n_outputs):
    y = np.arange(30) % 2
    y = y if n_outputs == 1 else np.c_[y, 1 - y]
    model = MLPClassifier(4, max_iter=1, random_state=0).fit(
        RNG.normal(size=(30, 4)), y
    )
    rows = RNG.normal(size=(N_MANY, 4))
    for method in ("predict", "predict_proba"):
        call = getattr(model, method)
        assert peak_beside_the_result(lambda call=call: call(rows)) < 12e6
        whole = call(rows)
        for k in range(3):
            assert_array_equal(whole[k::3], call(rows[k::3]))


def _calls_into_csc(call: Callable[[], Any]) -> int:
    """How often Python code of SciPy's CSC module runs during `call`."""
    count = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        name = Path(frame.f_code.co_filename)
        count += event == "call" and name.parts[-2:] == ("sparse", "_csc.py")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_18_csc_is_converted_once(solver):
    rows = np.where(RNG.random(X.shape) < 0.8, 0, X)

    def fitted(container: Callable[[Any], Any], max_iter: int) -> tuple[Any, int]:
        mlp = MLPClassifier(
            hidden_layer_sizes=5,
            solver=solver,
            batch_size=4 if solver != "lbfgs" else "auto",
            random_state=0,
            max_iter=max_iter,
        )
        data = container(rows)
        return mlp, _calls_into_csc(lambda: mlp.fit(data, Y))

    # The transposed of CSR rows is CSC, too: what counts is the difference to CSR.
    extra = []
    for max_iter in (2, 12):
        csr, calls = fitted(sparse.csr_matrix, max_iter)
        csc, calls_csc = fitted(sparse.csc_matrix, max_iter)
        extra.append(calls_csc - calls)
        for one, two in zip(csr.coefs_, csc.coefs_, strict=True):
            assert_array_equal(one, two)
    assert 0 < extra[0] == extra[1]
