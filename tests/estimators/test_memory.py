"""How much memory a model takes: rows 15, 17 and 18 of the differences."""

from __future__ import annotations

import copy
import pickle
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from skmlp import MLPClassifier, MLPRegressor

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
    mlp.predict(rows[:5000])
    tracemalloc.start()
    try:
        found = mlp.predict(rows)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < found.nbytes + 12e6
    assert_allclose(found[999:1998], found[:999], rtol=1e-4, atol=1e-5)


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
