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
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import threadpoolctl
from numpy.testing import assert_array_equal
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

from skmlp import MLPClassifier, MLPRegressor, config_context, lanes, steps
from skmlp.callbacks import EPOCH, OwnCallback, training_of
from skmlp.checkpoints import Checkpoint
from skmlp.launch import choose
from skmlp.launch.blas import blas_threads_allowed, blas_threads_now
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


class Hook(OwnCallback):
    """Calls a function with the number of each finished epoch."""

    def __init__(self, function):
        self.function = function

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        if context.task_name == EPOCH:
            self.function(training_of(estimator).state.epoch)


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


def own_threads():
    return [t.name for t in threading.enumerate() if t.name.startswith("skmlp-lane")]


@pytest.fixture(autouse=True)
def nothing_stays():
    """After each test no thread of ours is left, and BLAS has its threads again."""
    before = blas_threads_now()
    yield
    assert own_threads() == []
    assert blas_threads_now() == before
    assert lanes.CORES.taken() == 0


@pytest.fixture
def on(monkeypatch):
    """Cut steps into so many parts, on so many cores, which BLAS may use, too."""

    def set_both(n_lanes, n_cores):
        monkeypatch.setattr(choose, "lanes", lambda *shapes: n_lanes)
        monkeypatch.setattr(lanes, "usable_cores", lambda: n_cores)
        monkeypatch.setattr(lanes, "blas_threads_allowed", lambda: n_cores)

    return set_both


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


def test_fits_share_the_cores(on):
    """A second fit of the process finds no core free, and has the same bits."""
    on(2, 2)
    alone, counts, take = fitted(), [], lanes.CORES.take

    def counting(owner, wanted):
        counts.append(take(owner, wanted))
        return counts[-1]

    with ThreadPoolExecutor(4) as pool, pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes.CORES, "take", counting)
        for model in pool.map(lambda _: fitted(), range(8)):
            same_bits(model, alone)
    assert set(counts) <= {0, 1}


@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_limit_of_blas_limits_the_threads_and_changes_no_bit(
    n_threads, on, monkeypatch
):
    on(3, 3)
    alone = fitted()
    monkeypatch.setattr(lanes, "blas_threads_allowed", blas_threads_allowed)
    names = set()
    with threadpoolctl.threadpool_limits(n_threads, user_api="blas"):
        limited = fitted(Hook(lambda epoch: names.update(own_threads())))
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
        if self.name == "skmlp-lane-2":
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    names = set()
    same_bits(fitted(Hook(lambda epoch: names.update(own_threads()))), alone)
    assert names == {"skmlp-lane-1"}


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
            fitted(Hook(stop))
        return
    with pytest.warns(UserWarning, match="interrupted"):
        model = MLPClassifier(**PARAMETERS).set_callbacks(Hook(stop)).fit(X, Y)
    assert model.n_iter_ == 3
    same_bits(model, fitted(max_iter=3))


def test_an_interrupt_before_a_run_waits_for_the_helper(on, monkeypatch):
    """The helper has been told; it must have left the parameters when fit returns."""
    on(2, 2)
    entered, left, tell = threading.Event(), threading.Event(), lanes._Helper.tell

    def hold(self, job):
        if job is not None:
            function, arguments, keep = job

            def slowly(*given):
                entered.set()
                interrupted.wait(HANG_S)
                function(*given)
                left.set()

            job = slowly, arguments, keep
        tell(self, job)
        if job is not None:
            assert entered.wait(HANG_S)
            interrupted.set()
            raise KeyboardInterrupt

    interrupted = threading.Event()
    monkeypatch.setattr(lanes._Helper, "tell", hold)
    with pytest.warns(UserWarning, match="interrupted"):
        model = MLPClassifier(**PARAMETERS).fit(X, Y)
    assert left.is_set()
    # The first run of so few rows is not worth a thread.
    assert model.n_iter_ == 1
    monkeypatch.undo()
    on(2, 2)
    same_bits(model, fitted(max_iter=1))


@pytest.mark.skipif(sys.platform == "win32", reason="no signals to threads there")
@pytest.mark.usefixtures("_ctrl_c_falls_into_the_fit")
@pytest.mark.parametrize("presses", [1, 3])
def test_ctrl_c_at_any_moment(presses, on, monkeypatch):
    """Whatever comes of it, nothing stays: see the fixture, and its checks here."""
    on(2, 2)
    monkeypatch.setattr(lanes, "_LIMIT", HANG_S)
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
        assert own_threads() == []
        assert blas_threads_now() == before
        assert lanes.CORES.taken() == 0


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
def test_ranks_are_not_asked_for_where_lanes_do(
    kernels, n_threads, n_ranks, monkeypatch
):
    """Then any `n_jobs` gives the same bits. But BLAS must have threads for them."""
    monkeypatch.setattr(choose, "usable_cores", lambda: 2)
    monkeypatch.setattr(choose, "blas_threads_allowed", lambda: n_threads)
    monkeypatch.setattr(choose, "LEAST_WORK", {"threads": 1, "processes": 1})
    monkeypatch.setattr(choose, "LEAST_EPOCH", 0)
    with config_context(kernels=kernels):
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
        Checkpoint(path, resume=True), Hook(lambda epoch: seen.append(own_threads()))
    )
    with pytest.warns(ConvergenceWarning):
        model.fit(rows, Y)
    assert model.n_iter_ == PARAMETERS["max_iter"]
    assert seen == [[]] * len(seen)


def test_sparse_rows_have_no_lanes(on, monkeypatch):
    on(2, 2)
    monkeypatch.setattr(steps.CompiledSteps, "epoch", None)
    model = MLPRegressor(**PARAMETERS)
    with pytest.warns(ConvergenceWarning):
        model.fit(sparse.csr_array(X * (X > 0)), Y.astype(float))
    assert np.isfinite(model.loss_)


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
        same_bits(fitted(Hook(fork)), alone)
    _, status = os.waitpid(children[0], 0)
    assert os.waitstatus_to_exitcode(status) == 0
