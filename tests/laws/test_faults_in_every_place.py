"""Ranks that fail or die, and Ctrl-C, in every place: a clear end, and nothing lost."""

from __future__ import annotations

import contextlib
import copy
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV

from skmlp import config_context, testing
from skmlp.testing import failing_rank
from tests.estimators.attempts import same
from tests.launch.dask_clusters import addresses, cluster, left_behind, until
from tests.laws.fits import Fit
from tests.laws.in_workers import (
    AsAsked,
    count_shards,
    die,
    die_once,
    divide_by_zero,
    freeze_once,
    leave,
)
from tests.laws.places import (
    HERE,
    Place,
    assert_same_bits,
    assert_same_model,
    dask_arrays,
    gangs_seen,
    on_dask,
    processes,
    seen_here,
    threads,
)

#: Ends by a fault, or by nothing.
FOREVER = {"tol": 0.0, "n_iter_no_change": np.inf, "max_iter": 10**6}
ADAM = Fit(
    "multiclass", {**FOREVER, "activation": "tanh"}, weighted=True, seed="instance"
)
LBFGS = Fit(
    "multiclass", {"solver": "lbfgs", "tol": 0.0, "max_iter": 10**6}, seed="instance"
)
SHORT = Fit("multiclass", {"max_iter": 3})

WHERE = ["threads", "processes", "dask", "dask arrays"]
IN_EVERY_PLACE = pytest.mark.parametrize("where", WHERE)


@pytest.fixture(scope="module", autouse=True)
def _count():
    with gangs_seen():
        yield


@pytest.fixture(scope="module")
def client():
    with cluster(2) as client:
        yield client


@pytest.fixture
def place(where, request):
    """The ranks of n_jobs=2; at the end they are left as they were, and of use."""
    client = request.getfixturevalue("client") if "dask" in where else None
    found = {
        "threads": lambda: threads(2),
        "processes": lambda: processes(2),
        "dask": lambda: on_dask(client, 2, 2),
        "dask arrays": lambda: dask_arrays(client, 2, "uneven"),
    }[where]()
    before = testing.blas_threads_now()
    yield found
    assert testing.blas_threads_now() == before
    if client is not None:
        until(lambda: len(addresses(client)) == 2, "two workers")
        until(lambda: not left_behind(client), "a clean cluster")
    assert_same_model(SHORT.run(found), SHORT.run(HERE), **SHORT.tolerances)


def train(place: Place, model: Any, *data: Any) -> Any:
    """Call `fit` there. Nothing is counted: it may not come so far."""
    with place.around():
        return model.fit(*place.bring(*data))


def fails(place: Place, model: Any, *data: Any) -> BaseException:
    """Return the error of `fit`, after which the estimator is as it was before."""
    before = copy.deepcopy(vars(model))
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the callers look at it
        train(place, model, *data)
    assert same(vars(model), before)
    return caught.value


def estimator(task: Fit, place: Place) -> Any:
    """For `place`: new, or fitted in this process before."""
    model = task.estimator(place.n_jobs)
    if task is LBFGS:
        return model
    model.set_params(max_iter=2).fit(*task.data())
    return model.set_params(max_iter=10**6, warm_start=True)


def up_to(task: Fit, n_iter: int) -> Any:
    """The model of an undisturbed fit of so many epochs or iterations."""
    return replace(task, params={**task.params, "max_iter": n_iter}).run(HERE)


# ---- A rank that raises ------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "rank"), [(ADAM, 1), (LBFGS, 0)], ids=["adam", "lbfgs"]
)
@IN_EVERY_PLACE
def test_the_error_of_a_rank_is_the_error_of_the_fit(where, place, task, rank):
    model = estimator(task, place)
    with failing_rank(min(rank, place.n_ranks - 1), 3, divide_by_zero):
        error = fails(place, model, *task.data())
    assert type(error) is ZeroDivisionError
    assert "in a rank" in str(error)


def weights_of_the_validation_rows(task: Fit) -> np.ndarray:
    """1 for each row that will be set aside, and 0 for those that are to be trained."""
    model = task.estimator(None)
    X, y, _ = task.data()
    w = np.zeros(len(y))
    w[testing.validation_rows(model.fit(X, y))] = 1
    return w


@pytest.mark.parametrize("where", ["in process", *WHERE])
def test_training_rows_without_weight(where, request):
    """Only the ranks see it: the weights of all rows are sound."""
    task = Fit("one output", {"early_stopping": True, "max_iter": 3})
    X, y, _ = task.data()
    w = weights_of_the_validation_rows(task)
    place = HERE if where == "in process" else request.getfixturevalue("place")
    error = fails(place, task.estimator(place.n_jobs), X, y, w)
    assert type(error) is ValueError
    assert "of those of the training rows must be greater than zero" in str(error)


# ---- A worker that dies, or freezes ------------------------------------------------

MORTAL = ["processes", "dask", "dask arrays"]
BRIEF = replace(ADAM, params={**ADAM.params, "max_iter": 30})
STOPPING = Fit(
    "binary", {**FOREVER, "max_iter": 30, "early_stopping": True}, weighted=True
)
#: The driver scores after each epoch, and on Dask asks the ranks for predictions.
SCORED = replace(
    STOPPING, params={**STOPPING.params, "max_iter": 6, "scoring": "roc_auc"}
)
BRIEF_LBFGS = replace(LBFGS, params={**LBFGS.params, "max_iter": 12})


def calm(task: Fit, place: Place) -> Any:
    """The model of a fit there that nobody disturbs."""
    return train(place, task.estimator(place.n_jobs), *task.data())


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize(
    ("task", "rank", "order"),
    [(BRIEF, 0, 1), (STOPPING, 1, 2), (SCORED, 1, 4), (BRIEF_LBFGS, 1, 7)],
    ids=["adam", "early stopping", "scorer", "lbfgs"],
)
@pytest.mark.parametrize("where", MORTAL)
def test_a_killed_worker_changes_no_bit(where, place, task, rank, order, tmp_path):
    undisturbed = calm(task, place)
    before = len(seen_here())
    flag = tmp_path / "dead"
    with failing_rank(rank, order, partial(die_once, str(flag))):
        model = calm(task, place)
    assert flag.exists()
    # On Dask the one that is left has both shards, unless its nanny was quick.
    first, *others = seen_here()[before:]
    assert first == (place.where, 2, 2)
    assert others
    assert {n_shards for _, _, n_shards in others} == {2}
    assert_same_bits(model, undisturbed)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGSTOP")
@pytest.mark.parametrize("where", ["processes"])
def test_a_frozen_worker_changes_no_bit(where, place, tmp_path):
    undisturbed = calm(BRIEF, place)
    flag = tmp_path / "frozen"
    freeze = partial(freeze_once, str(flag))
    with failing_rank(1, 2, freeze), config_context(worker_timeout=6.0):
        model = calm(BRIEF, place)
    assert flag.exists()
    assert_same_bits(model, undisturbed)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("where", ["processes", "dask arrays"])
def test_a_death_that_comes_back_ends_the_fit(where, place):
    model = estimator(ADAM, place)
    before = len(seen_here())
    names = r"rank \d \(process \d+\)|Dask worker \S+ is gone"
    fault = leave if where == "processes" else die
    with failing_rank(0, 1, fault):
        error = fails(place, model, *ADAM.data())
    assert isinstance(error, testing.RankFailed)
    assert re.search(names, str(error)), error
    assert len(seen_here()) - before >= testing.FAILURES


# ---- Ctrl-C ------------------------------------------------------------------------


class OnLine:
    """A standard output that does something when it reads of an epoch."""

    def __init__(self, line: str, action: Callable[[], None]) -> None:
        self.line = line
        self.action = action

    def write(self, text: str) -> int:
        if self.line in text:
            self.line = "\0"
            self.action()
        return len(text)

    def flush(self) -> None:
        """Everything is written."""


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def press_soon() -> None:
    """While the ranks are at work."""
    main = threading.main_thread().ident
    threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGINT)).start()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pthread_kill")
@pytest.mark.parametrize("when", [press, press_soon])
@IN_EVERY_PLACE
def test_ctrl_c_keeps_the_last_epoch(where, place, when, monkeypatch):
    model = ADAM.estimator(place.n_jobs).set_params(verbose=True)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", OnLine("Iteration 3,", when))
        with pytest.warns(UserWarning, match="Training interrupted by user"):
            train(place, model, *ADAM.data())
    assert model.n_shards_ == place.n_shards
    assert model.n_iter_ >= 3
    assert_same_model(model, up_to(ADAM, model.n_iter_), **ADAM.tolerances)


GANGS = ["threads", "processes", "dask"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pthread_kill")
@pytest.mark.parametrize("where", GANGS)
def test_ctrl_c_keeps_untold_epochs(where, place):
    """The ranks finish theirs, of a round whose end is far."""
    told, pressed = [], threading.Event()

    @contextlib.contextmanager
    def pressing(request: testing.Request) -> Iterator[None]:
        if request.n_epochs > 5_000 and not pressed.is_set():
            pressed.set()
            press_soon()
        yield
        told.append(request.n_epochs)

    model = ADAM.estimator(place.n_jobs)
    with (
        testing.settings(round_s=1e6),
        testing.around_requests(pressing),
        pytest.warns(UserWarning, match="Training interrupted by user"),
    ):
        train(place, model, *ADAM.data())
    assert model.n_iter_ > sum(told)
    assert_same_model(model, up_to(ADAM, model.n_iter_), **ADAM.tolerances)


def press_at_request(number: int) -> Any:
    """Let Ctrl-C fall when the driver asks its ranks for the n-th time."""
    left = number

    @contextlib.contextmanager
    def interrupted(request: testing.Request) -> Iterator[None]:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        yield

    return testing.around_requests(interrupted)


@pytest.mark.parametrize("where", GANGS)
def test_ctrl_c_keeps_an_iterate_of_lbfgs(where, place):
    model = LBFGS.estimator(place.n_jobs)
    with (
        press_at_request(9),
        pytest.warns(UserWarning, match="Training interrupted by user"),
    ):
        train(place, model, *LBFGS.data())
    assert 2 < model.n_iter_ < 9
    assert_same_model(model, up_to(LBFGS, model.n_iter_), **LBFGS.tolerances)


@pytest.mark.parametrize("task", [ADAM, LBFGS], ids=["adam", "lbfgs"])
@pytest.mark.parametrize("where", GANGS)
def test_ctrl_c_before_the_first_epoch_keeps_the_first_weights(where, place, task):
    model = task.estimator(place.n_jobs)
    with (
        press_at_request(1),
        pytest.warns(UserWarning, match="Training interrupted by user"),
    ):
        train(place, model, *task.data())
    assert model.n_iter_ == 0
    # A step of no length leaves them where they are.
    still = {**ADAM.params, "learning_rate_init": 1e-300}
    first = up_to(replace(ADAM, params=still), 1)
    for mine, theirs in zip(model.coefs_, first.coefs_, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert set(model.predict(task.data()[0])) <= set(model.classes_)


# ---- What is left as it was --------------------------------------------------------


def blas_threads_there(place: Place) -> Any:
    """BLAS threads of the processes in which ranks of `place` run."""
    if place.client is not None:
        return place.client.run(testing.blas_threads_now)
    if place.where == "processes":
        with place.around():
            ask = joblib.Parallel(n_jobs=2)
            return ask(joblib.delayed(testing.blas_threads_now)() for _ in range(2))
    return testing.blas_threads_now()


@IN_EVERY_PLACE
def test_blas_threads_are_given_back(where, place):
    SHORT.run(place)  # a fresh worker has no BLAS yet
    before = blas_threads_there(place)
    assert before
    SHORT.run(place)
    assert blas_threads_there(place) == before


# ---- Fits inside a search ----------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "refitted_on"),
    [("threading", 1), ("loky", 2), ("dask", 2)],
)
def test_a_search_around_gangs(backend, refitted_on, request):
    """The candidates have one rank each, the last fit has its own; it doesn't hang."""
    kwargs = {"backend": backend, "n_jobs": 2}
    if backend == "dask":
        kwargs["client"] = request.getfixturevalue("client")
    X, y, _ = SHORT.data()
    model = AsAsked(n_jobs=2, **SHORT.params, random_state=0)
    scoring = {"score": "accuracy", "shards": count_shards}
    search = GridSearchCV(
        model,
        {"hidden_layer_sizes": [(3,), (6,)], "solver": ["adam", "lbfgs"]},
        scoring=scoring,
        refit="score",
        cv=2,
    )
    alone = copy.deepcopy(search).fit(X, y)
    with joblib.parallel_config(**kwargs):
        search.set_params(n_jobs=2).fit(X, y)
    shards = [search.cv_results_[f"split{i}_test_shards"] for i in range(2)]
    np.testing.assert_array_equal(shards, 1)
    assert search.best_estimator_.n_shards_ == refitted_on
    for name in ("mean_test_score", "rank_test_score"):
        np.testing.assert_allclose(search.cv_results_[name], alone.cv_results_[name])
    assert_same_model(search.best_estimator_, alone.best_estimator_, 1e-6, 1e-9)
