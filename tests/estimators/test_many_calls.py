"""Training in ever so many calls: what a call costs, and what is kept of it."""

from __future__ import annotations

import copy
import math
import sys
import tracemalloc
import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

import skmlp
from skmlp import MLPClassifier, MLPRegressor, config_context

X = np.random.default_rng(0).normal(size=(40, 3))
Y = (X[:, 0] > 0).astype(int)
CURVES = ("loss_curve_", "validation_scores_", "validation_loss_curve_", "history_")
HELD_OUT = {"X_val": X, "y_val": Y}


@pytest.fixture(params=[MLPClassifier, MLPRegressor])
def model(request: Any) -> Any:
    """Trained for one epoch."""
    first = {"classes": [0, 1]} if request.param is MLPClassifier else {}
    model = request.param(hidden_layer_sizes=4, random_state=0)
    return model.partial_fit(X, Y, **first, **HELD_OUT)


def curves_of(model: Any) -> list[Any]:
    return [list(getattr(model, name)) for name in CURVES]


def lines_run(call: Any) -> int:
    """How many lines of Python a call runs: a cost without a clock."""
    count = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def test_a_call_copies_nothing_of_earlier_ones(model):
    """A hundred thousand epochs before it: a copy of a list of them takes 800 kB."""

    def peak_of_a_call() -> int:
        tracemalloc.start()
        model.partial_fit(X, Y, **HELD_OUT)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    peak_of_a_call()
    early = peak_of_a_call(), lines_run(lambda: model.partial_fit(X, Y, **HELD_OUT))
    for name in CURVES:
        curve = getattr(model, name)
        # As after so many calls: with the room that a list keeps to grow.
        curve.extend([curve[-1]] * 100_000)
        curve.append(curve[-1])
    late = peak_of_a_call(), lines_run(lambda: model.partial_fit(X, Y, **HELD_OUT))
    assert late[0] < early[0] + 100_000
    assert late[1] < early[1] + 100


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("Estimator", [MLPClassifier, MLPRegressor])
def test_the_length_of_the_history_is_bounded(Estimator, solver):
    names = CURVES if solver == "adam" else ("history_",)
    held_out = HELD_OUT if solver == "adam" else {}
    params = {"solver": solver, "max_iter": 7, "tol": 0.0, "random_state": 0}
    whole = Estimator(hidden_layer_sizes=4, **params)
    short = copy.deepcopy(whole)
    whole.fit(X, Y, **held_out)
    with config_context(history_length=3):
        short.fit(X, Y, **held_out)
    assert short.n_iter_ == whole.n_iter_ == 7
    for name in names:
        last, every = getattr(short, name), getattr(whole, name)
        assert (len(last), len(every)) == (3, 7)
        if name != "history_":
            assert last == every[-3:]
    assert [record["epoch"] for record in short.history_] == [5, 6, 7]
    assert list(skmlp.history_frame(short).index) == [5, 6, 7]
    assert " s, loss" in training_in_words(whole)
    # The seconds of all epochs are not known any more.
    assert " s, loss" not in training_in_words(short)


def training_in_words(model: Any) -> str:
    return " ".join(model.summary().rpartition("Trained")[2].split())


def test_pieces_are_counted_on(model):
    whole = copy.deepcopy(model)
    for _ in range(4):
        whole.partial_fit(X, Y, **HELD_OUT, epochs=2)
    with config_context(history_length=3):
        for _ in range(4):
            model.partial_fit(X, Y, **HELD_OUT, epochs=2)
    assert [record["epoch"] for record in model.history_] == [7, 8, 9]
    assert len(whole.history_) == 9
    for name in CURVES[:-1]:
        assert getattr(model, name) == getattr(whole, name)[-3:]
    assert (model.best_loss_, model.t_) == (whole.best_loss_, whole.t_)
    np.testing.assert_array_equal(model.coefs_[0], whole.coefs_[0])
    model.partial_fit(X, Y, **HELD_OUT)
    assert len(model.history_) == 4
    assert model.history_[-1]["epoch"] == 10


def test_the_displays_draw_the_epochs_that_are_there(model):
    pytest.importorskip("matplotlib").use("agg")
    with config_context(history_length=2):
        model.partial_fit(X, Y, **HELD_OUT, epochs=3)
    for display in (skmlp.LossCurveDisplay, skmlp.LearningRateDisplay):
        shown = display.from_estimator(model)
        assert list(shown.ax_.lines[0].get_xdata()) == [3, 4]


@pytest.mark.parametrize("length", [math.inf, 2])
def test_a_call_that_fails_adds_nothing(model, length):
    """Here a warning at the very end, made an error."""
    model.partial_fit(X, Y, **HELD_OUT)
    before = curves_of(model)
    model.set_params(warm_start=True, max_iter=2)
    with config_context(history_length=length), warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ConvergenceWarning, match="Maximum iterations"):
            model.fit(X, Y, **HELD_OUT)
    assert curves_of(model) == before
    model.partial_fit(X, Y, **HELD_OUT)
    assert len(model.loss_curve_) == 3


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_copies_do_not_grow_together(model, copied):
    twin = copied(model)
    model.partial_fit(X, Y, **HELD_OUT)
    assert [len(curve) for curve in curves_of(twin)] == [1] * 4
    twin.partial_fit(X, Y, **HELD_OUT)
    assert [len(curve) for curve in curves_of(model)] == [2] * 4


@pytest.mark.parametrize("length", [0, -1, 1.5, "all", True, math.nan, -math.inf])
def test_a_length_that_is_none(length):
    with pytest.raises(ValueError, match="history_length"):
        skmlp.set_config(history_length=length)
    assert skmlp.get_config()["history_length"] == math.inf
    with config_context(history_length=5), config_context(history_length=math.inf):
        assert skmlp.get_config()["history_length"] == math.inf
