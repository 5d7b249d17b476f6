"""Ctrl-C keeps the model of the last finished epoch, wherever it falls."""

from __future__ import annotations

import signal
import sys
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import skmlp
from skmlp.kernels import step_threads
from skmlp.launch import policy

RNG = np.random.default_rng(6)
X = RNG.normal(size=(50, 4))
Y = np.arange(50) % 3
INSIDE = (
    "skmlp.training.loop",
    "skmlp.training.evaluator",
    "skmlp.training.rank",
    "skmlp.training.fused_epoch",
    "skmlp.kernels.step_threads",
)
MESSAGE = "Training interrupted by user."
FOREVER = {"tol": 0.0, "n_iter_no_change": np.inf, "max_iter": 10**6}


class Interrupt:
    """Raises KeyboardInterrupt at the n-th Python call inside ``skmlp.training.loop``.

    It stands for a signal that arrives there: the handler of Python's SIGINT raises
    between two instructions of the main thread. The calls are counted from the first
    order to train or to evaluate; with ``starting=True`` from the start of the ranks.
    """

    def __init__(self, call: int, *, starting: bool = False) -> None:
        self.left = call
        self.counts = starting
        self.fell = False

    def __enter__(self) -> Interrupt:
        self._before = sys.getprofile()
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *exc_info: object) -> None:
        sys.setprofile(self._before)

    def _profile(self, frame: Any, event: str, argument: Any) -> None:
        if event != "call" or frame.f_globals.get("__name__") not in INSIDE:
            return
        self.counts = self.counts or frame.f_code.co_name == "handle"
        self.left -= self.counts
        if self.left == 0:
            sys.setprofile(None)
            self.fell = True
            raise KeyboardInterrupt


def make(name: str, **params: Any) -> Any:
    return getattr(skmlp, name)(
        **{"hidden_layer_sizes": 5, "batch_size": 10, "random_state": 0, **params}
    )


def assert_is_a_fit_of_its_epochs(estimator: Any, **params: Any) -> None:
    """Compare with a fit that was told beforehand to run as many epochs."""
    epochs = estimator.n_iter_
    estimator.predict(X)
    if epochs == 0:
        # The weights that it began with: a step of no length leaves them there.
        params = {**params, "learning_rate_init": 1e-300}
    params = {**params, **FOREVER, "max_iter": max(epochs, 1)}
    whole = make(type(estimator).__name__, **params).fit(X, Y)
    assert estimator.loss_curve_ == (whole.loss_curve_ if epochs else [])
    assert estimator.t_ == (whole.t_ if epochs else 0)
    for mine, other in zip(estimator.coefs_, whole.coefs_, strict=True):
        assert_array_equal(mine, other)


@pytest.mark.parametrize("n_lanes", [1, 2])
@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
@pytest.mark.parametrize("params", [{}, {"solver": "sgd"}, {"early_stopping": True}])
def test_wherever_it_falls(params, name, n_lanes, monkeypatch):
    monkeypatch.setattr(policy, "step_parts", lambda *shapes: n_lanes)
    epochs = set()
    for call in [*range(1, 40, 3), 60, 100, 161, 262, 423]:
        estimator = make(name, **params, **FOREVER)
        with Interrupt(call) as interrupt, pytest.warns(UserWarning, match=MESSAGE):
            estimator.fit(X, Y)
        assert interrupt.fell
        assert_is_a_fit_of_its_epochs(estimator, **params)
        epochs.add(estimator.n_iter_)
    assert 0 in epochs
    assert max(epochs) > 2
    assert step_threads.CORES.taken() == 0


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("fitted", [False, True])
def test_while_the_ranks_start(fitted, solver):
    """Nothing has begun: the interrupt goes through, and the estimator is untouched."""
    estimator = make("MLPClassifier", solver=solver, max_iter=2, batch_size="auto")
    if fitted:
        estimator.fit(X, Y)
    before = dict(vars(estimator))
    with Interrupt(2, starting=True) as interrupt, pytest.raises(KeyboardInterrupt):
        estimator.fit(X, Y)
    assert interrupt.fell
    assert vars(estimator) == before


class Nudge:
    """A standard output that sends this process SIGINT when it reads of an epoch."""

    def __init__(self, line: str) -> None:
        self.line = line

    def write(self, text: str) -> int:
        if self.line in text:
            self.line = "\0"
            signal.raise_signal(signal.SIGINT)
        return len(text)

    def flush(self) -> None:
        """Everything is written."""


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_a_signal(name, monkeypatch):
    estimator = make(name, verbose=True, **FOREVER)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Nudge("Iteration 3,"))
        with pytest.warns(UserWarning, match=MESSAGE):
            estimator.fit(X, Y)
    assert estimator.n_iter_ >= 3
    assert_is_a_fit_of_its_epochs(estimator)


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_training_goes_on_after_an_interrupt(name):
    """The next epochs are those that an undisturbed fit would have run."""
    whole = make(name, **{**FOREVER, "max_iter": 8}, shuffle=False, momentum=0)
    whole.set_params(solver="sgd").fit(X, Y)
    estimator = make(name, **FOREVER, shuffle=False, momentum=0, solver="sgd")
    with Interrupt(80), pytest.warns(UserWarning, match=MESSAGE):
        estimator.fit(X, Y)
    assert 0 < estimator.n_iter_ < 8
    for _ in range(8 - estimator.n_iter_):
        estimator.partial_fit(X, Y)
    assert estimator.loss_curve_ == whole.loss_curve_
    assert estimator.t_ == whole.t_


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_lbfgs_keeps_an_iterate(name):
    for call in (1, 5, 30):
        estimator = make(name, solver="lbfgs", max_iter=500, tol=0.0, batch_size="auto")
        with Interrupt(call) as interrupt, pytest.warns(UserWarning, match=MESSAGE):
            estimator.fit(X, Y)
        assert interrupt.fell
        assert np.isfinite(estimator.predict(X)).all()
        assert estimator.n_iter_ < 500
