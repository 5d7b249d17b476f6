"""Lanes: several threads at each step, and the same bits whoever does its parts."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import threading
import time
import warnings

import joblib
import numpy as np
import pytest
import threadpoolctl
from numpy.testing import assert_array_equal
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

from skmlp import Checkpoint, MLPClassifier, MLPRegressor, config_context, testing
from skmlp.testing import AfterEpoch, blas_threads_now, cores_taken, step_thread_names
from tests.limits import HANG_S

RNG = np.random.default_rng(0)
X = RNG.normal(size=(600, 12))
Y = (X[:, 0] * X[:, 1] > 0).astype(int) + (X[:, 2] > 0.7)
PARAMETERS = {
    "hidden_layer_sizes": (40, 24),
    "batch_size": 64,
    "max_iter": 8,
    "random_state": 0,
}


def fitted(*callbacks, **parameters):
    model = MLPClassifier(**{**PARAMETERS, **parameters}).set_callbacks(*callbacks)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(X, Y)


def same_bits(one, other):
    for mine, its in zip(
        [*one.coefs_, *one.intercepts_],
        [*other.coefs_, *other.intercepts_],
        strict=True,
    ):
        assert_array_equal(mine, its)
    assert one.loss_curve_ == other.loss_curve_


@pytest.fixture(autouse=True)
def nothing_stays():
    """After each test no thread of ours is left, and BLAS has its threads again."""
    before = blas_threads_now()
    yield
    assert step_thread_names() == []
    assert blas_threads_now() == before
    assert cores_taken() == 0


@pytest.fixture
def on():
    """Cut steps into so many parts, on so many cores, which BLAS may use, too."""
    with contextlib.ExitStack() as stack:

        def set_both(n_lanes, n_cores):
            stack.enter_context(testing.step_threads(n_lanes, n_cores))

        yield set_both


@pytest.mark.parametrize("n_lanes", [2, 3, 5])
def test_bits_do_not_depend_on_who_does_the_parts(n_lanes, on):
    """Also with more threads than this machine has cores."""
    on(n_lanes, 1)
    alone = fitted()
    for n_cores in (2, n_lanes, n_lanes):
        on(n_lanes, n_cores)
        same_bits(fitted(), alone)


def test_the_number_of_parts_counts(on):
    """Else the test before would show nothing."""
    on(1, 1)
    whole = fitted()
    on(2, 1)
    halves = fitted()
    assert any((a != b).any() for a, b in zip(whole.coefs_, halves.coefs_, strict=True))
    for a, b in zip(whole.coefs_, halves.coefs_, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


X_VAL = {
    "as it is": X[:99],
    "in columns": np.asfortranarray(X[:99]),
    "a slice": X[:198:2],
    "sparse": sparse.csr_array(X[:99]),
    "one row": X[:1],
}


@pytest.mark.parametrize("kind", X_VAL)
def test_validation_rows_are_shared_too(kind, on):
    """The scores are those of one lane, whoever looks at the rows."""
    rows = X_VAL[kind]
    parameters = {**PARAMETERS, "early_stopping": True}
    found = []
    for n_lanes, n_cores in ((1, 1), (3, 1), (3, 3)):
        on(n_lanes, n_cores)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = MLPClassifier(**parameters)
            model.fit(X, Y, X_val=rows, y_val=Y[: rows.shape[0]])
        found.append(model)
    one, alone, shared = found
    same_bits(alone, shared)
    assert alone.validation_scores_ == shared.validation_scores_
    np.testing.assert_allclose(one.validation_scores_, shared.validation_scores_)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_limit_of_blas_limits_the_threads_and_changes_no_bit(n_threads, on):
    on(3, 3)
    alone = fitted()
    names = set()
    with (
        testing.real_blas_limits(),
        threadpoolctl.threadpool_limits(n_threads, user_api="blas"),
    ):
        limited = fitted(AfterEpoch(lambda epoch: names.update(step_thread_names())))
    assert len(names) == n_threads - 1
    same_bits(limited, alone)


def test_the_same_bits_in_a_process_of_loky():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        there = joblib.Parallel(2)(joblib.delayed(_large_fit)() for _ in range(2))
        here = _large_fit()
    for model in there:
        same_bits(model, here)


def _large_fit():
    """Of enough rows for lanes, where there are cores for them."""
    rows = np.random.default_rng(0).normal(size=(3000, 30))
    model = MLPClassifier((50,), batch_size=128, random_state=0, max_iter=3)
    return model.fit(rows, rows[:, 0] > 0)


def test_a_system_without_threads(on, monkeypatch):
    on(3, 3)
    alone, start = fitted(), threading.Thread.start

    def refuse(self):
        if self.name == "skmlp-step-2":
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    names = set()
    same_bits(
        fitted(AfterEpoch(lambda epoch: names.update(step_thread_names()))), alone
    )
    assert names == {"skmlp-step-1"}


def test_in_a_grid_on_threads(on):
    on(2, 2)
    grid = {"alpha": [1e-4, 1e-2]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        one = GridSearchCV(MLPClassifier(**PARAMETERS), grid, cv=2).fit(X, Y)
        with joblib.parallel_config(backend="threading"):
            two = GridSearchCV(MLPClassifier(**PARAMETERS), grid, cv=2, n_jobs=2)
            two.fit(X, Y)
    assert_array_equal(
        one.cv_results_["mean_test_score"], two.cv_results_["mean_test_score"]
    )
    same_bits(one.best_estimator_, two.best_estimator_)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ZeroDivisionError])
def test_an_exception_between_two_runs(kind, on):
    on(2, 2)

    def stop(epoch):
        if epoch == 3:
            raise kind

    if kind is ZeroDivisionError:
        with pytest.raises(kind):
            fitted(AfterEpoch(stop))
        return
    with pytest.warns(UserWarning, match="interrupted"):
        model = MLPClassifier(**PARAMETERS).set_callbacks(AfterEpoch(stop)).fit(X, Y)
    assert model.n_iter_ == 3
    same_bits(model, fitted(max_iter=3))


@pytest.mark.skipif(sys.platform == "win32", reason="no signals to threads there")
@pytest.mark.usefixtures("_ctrl_c_falls_into_the_fit")
@pytest.mark.parametrize("presses", [1, 3])
@testing.settings(step_thread_s=HANG_S)
def test_ctrl_c_at_any_moment(presses, on):
    """Whatever comes of it, nothing stays: see the fixture, and its checks here."""
    on(2, 2)
    rng = random.Random(presses)
    main, before = threading.main_thread().ident, blas_threads_now()
    model = MLPClassifier(**PARAMETERS)
    fitted()  # the kernels are there
    began = time.perf_counter()
    fitted()
    span = time.perf_counter() - began
    for _ in range(40):
        # When to press first, and how long to wait after each time.
        waits = [1.2 * span * rng.random()]
        waits += [rng.random() / 2000 for _ in range(presses)]
        pressed = threading.Event()
        presser = threading.Thread(target=_press, args=(main, waits, pressed))
        with warnings.catch_warnings(), contextlib.suppress(KeyboardInterrupt):
            warnings.simplefilter("ignore")
            _fit_with(presser, model)
        assert pressed.wait(HANG_S)
        presser.join()
        assert step_thread_names() == []
        assert blas_threads_now() == before
        assert cores_taken() == 0


def _fit_with(presser, model):
    presser.start()
    model.fit(X, Y)


@pytest.fixture
def _ctrl_c_falls_into_the_fit():
    """One that comes after the fit would end pytest."""

    def heed(number, frame):
        while frame is not None:
            if frame.f_code is _fit_with.__code__:
                raise KeyboardInterrupt
            frame = frame.f_back

    before = signal.signal(signal.SIGINT, heed)
    yield
    signal.signal(signal.SIGINT, before)


def _press(thread, waits, pressed):
    pressed.wait(waits.pop(0))
    for wait in waits:
        signal.pthread_kill(thread, signal.SIGINT)
        pressed.wait(wait)
    pressed.set()


def test_a_resumed_fit_keeps_its_parts(on, tmp_path):
    on(2, 2)
    whole = fitted()
    path = tmp_path / "fit.ckpt"
    fitted(Checkpoint(path), max_iter=3)
    on(1, 2)
    resumed = fitted(Checkpoint(path, resume=True))
    same_bits(resumed, whole)


@pytest.mark.parametrize(
    ("kernels", "n_threads", "n_ranks"),
    [("compiled", 2, 1), ("compiled", 1, 2), ("reference", 2, 2)],
)
def test_ranks_are_not_asked_for_where_lanes_do(kernels, n_threads, n_ranks):
    """Then any `n_jobs` gives the same bits. But BLAS must have threads for them."""
    with (
        testing.worthwhile_ranks(n_threads),
        config_context(kernels=kernels),
        joblib.parallel_config(backend="loky"),
    ):
        one, two = fitted(), fitted(n_jobs=2)
        assert two.n_shards_ == n_ranks
        if n_ranks == 1:
            same_bits(one, two)
        with config_context(ranks="as_asked"):
            assert fitted(n_jobs=2).n_shards_ == 2


def test_a_fit_that_goes_on_without_lanes_has_the_threads_of_blas(on, tmp_path):
    on(2, 2)
    path = tmp_path / "fit.ckpt"
    fitted(Checkpoint(path), max_iter=3)
    seen, rows = [], sparse.csr_array(X)
    model = MLPClassifier(**PARAMETERS).set_callbacks(
        Checkpoint(path, resume=True),
        AfterEpoch(lambda epoch: seen.append(step_thread_names())),
    )
    with pytest.warns(ConvergenceWarning):
        model.fit(rows, Y)
    assert model.n_iter_ == PARAMETERS["max_iter"]
    assert seen == [[]] * len(seen)


def test_sparse_rows_have_no_lanes(on):
    on(2, 2)
    model = MLPRegressor(**PARAMETERS)
    with testing.fused_epochs() as fused, pytest.warns(ConvergenceWarning):
        model.fit(sparse.csr_array(X * (X > 0)), Y.astype(float))
    assert np.isfinite(model.loss_)
    assert not fused


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_trains_with_helpers_of_its_own(on):
    on(2, 2)
    alone, children, before = fitted(), [], blas_threads_now()

    def child():
        """Here no helper lives, nor has anybody a core."""
        status = 1
        try:
            same_bits(fitted(), alone)
            assert blas_threads_now() == before
            status = 0
        finally:
            os._exit(status)

    def fork(epoch):
        if epoch == 2:
            pid = os.fork()
            if pid == 0:
                child()
            children.append(pid)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks with threads
        same_bits(fitted(AfterEpoch(fork)), alone)
    _, status = os.waitpid(children[0], 0)
    assert os.waitstatus_to_exitcode(status) == 0
