"""Call after call, and on the side, skmlp does what scikit-learn does.

Sequences of warm-started and partial fits, the random state that a caller hands in,
the text printed, the kinds of input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from tests.laws.twins import (
    ATOL,
    CONTAINERS,
    ROWS,
    RTOL,
    assert_same_model,
    data_of,
    pair,
    run_both,
    warned,
)

# ------------------------------------------------------- call after call

ONE_FIT = {"hidden_layer_sizes": 6, "batch_size": 10, "random_state": 4}


@pytest.mark.parametrize("task", ["binary", "multilabel", "one output", "poisson, two"])
@pytest.mark.parametrize(
    "steps",
    [
        [{"solver": "sgd", "max_iter": 4}, {"learning_rate_init": 0.1}, {"alpha": 1}],
        [
            {"solver": "sgd", "learning_rate": "invscaling", "max_iter": 3},
            {},
            {"power_t": 0.2},
        ],
        [
            {"solver": "sgd", "learning_rate": "adaptive", "tol": 1, "max_iter": 9},
            {"n_iter_no_change": 2},
        ],
        [{"solver": "adam", "max_iter": 5}, {"max_iter": 3}, {"beta_1": 0.5}],
        [{"solver": "adam", "max_iter": 5}, {"solver": "sgd"}, {"solver": "adam"}],
        [{"solver": "lbfgs", "max_iter": 8}, {"max_iter": 12}],
        [{"solver": "adam", "max_iter": 5}, {"solver": "lbfgs"}],
        [{"activation": "tanh", "max_iter": 3}, {"activation": "relu"}],
    ],
    ids=["sgd", "invscaling", "adaptive", "adam", "solvers", "lbfgs", "mixed", "act"],
)
def test_warm_started_fits(steps, task):
    X, y = data_of(task)
    ours, theirs = pair(task, warm_start=True, **ONE_FIT)
    for params in steps:
        for est in (ours, theirs):
            est.set_params(**params)
        run_both(ours, theirs, lambda est: est.fit(X, y))
        assert_same_model(ours, theirs, X, y)


def _partial_fit(X: Any, y: Any, task: str, **kwargs: Any) -> Callable[[Any], Any]:
    if task in ("binary", "multiclass"):
        kwargs["classes"] = [0, 1] if task == "binary" else [1, 3, 5]
    elif task == "multilabel":
        kwargs["classes"] = [0, 1, 2]
    return lambda est: est.partial_fit(X, y, **kwargs)


PARTIAL_TASKS = ["binary", "multiclass", "multilabel", "two outputs", "poisson"]


@pytest.mark.parametrize("task", PARTIAL_TASKS)
@pytest.mark.parametrize("random_state", [4, "instance", "global"])
@pytest.mark.parametrize("container", ["dense", "csr", "csc"])
def test_partial_fits_of_other_numbers_of_rows(container, random_state, task):
    """With as many rows as in the call before, the order of rows differs (row 7)."""
    X, y = data_of(task)
    X = CONTAINERS["csr" if container == "csc" else container](X)
    ours, theirs = pair(task, **{**ONE_FIT, "random_state": 4})
    ends = [(0, 40), (40, 64), (0, 64), (30, 31), (5, 64), (0, 40)]
    states = []
    for est in (ours, theirs):
        if random_state == "instance":
            est.set_params(random_state=np.random.RandomState(1))
        elif random_state == "global":
            est.set_params(random_state=None)
            np.random.seed(1)
        for begin, end in ends:
            part = X[begin:end]
            part = part.tocsc() if container == "csc" else part
            step = _partial_fit(part, y[begin:end], task)
            # The batches of the call of one row are clipped; both say so.
            states.append(warned(lambda est=est, step=step: step(est)))
        states.append(est.n_iter_)
    assert states[: len(states) // 2] == states[len(states) // 2 :]
    assert_same_model(ours, theirs, X, y)


@pytest.mark.parametrize("task", PARTIAL_TASKS)
@pytest.mark.parametrize("learning_rate", ["constant", "invscaling", "adaptive"])
def test_partial_fits_in_the_order_of_the_rows(learning_rate, task):
    X, y = data_of(task)
    params = {"shuffle": False, "solver": "sgd", "learning_rate": learning_rate}
    ours, theirs = pair(task, n_iter_no_change=1, tol=0.05, **params, **ONE_FIT)
    for _ in range(5):
        run_both(ours, theirs, _partial_fit(X, y, task))
        assert_same_model(ours, theirs, X, y)


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_fit_and_partial_fit_take_turns(solver):
    X, y = data_of("multiclass")
    ours, theirs = pair("multiclass", solver=solver, shuffle=False, **ONE_FIT)
    for est in (ours, theirs):
        est.set_params(max_iter=3)
    calls: list[Callable[[Any], Any]] = [
        lambda est: est.partial_fit(X[:30], y[:30], classes=[1, 3, 5, 7]),
        lambda est: est.partial_fit(X, y),
        lambda est: est.fit(X, y),
        lambda est: est.partial_fit(X[:20], y[:20]),
        lambda est: est.partial_fit(X, y, np.full(ROWS, 2.0)),
        lambda est: est.fit(X[:50], y[:50]),
    ]
    for call in calls:
        run_both(ours, theirs, call)
        assert_same_model(ours, theirs, X, y)


# ------------------------------------------------- what a fit does on the side

SIDE = [
    {"solver": "sgd"},
    {"solver": "adam", "shuffle": False},
    {"solver": "adam", "early_stopping": True},
    {"solver": "sgd", "early_stopping": True, "shuffle": False},
    {"solver": "lbfgs"},
]


@pytest.mark.parametrize("params", SIDE, ids=str)
@pytest.mark.parametrize("kind", ["instance", "global"])
@pytest.mark.parametrize("task", ["binary", "multiclass", "one output"])
def test_the_random_state_is_advanced_alike(task, kind, params):
    X, y = data_of(task)
    models, states = pair(task, max_iter=4, batch_size=9, **params), []
    for est in models:
        rng = np.random.RandomState(9)
        if kind == "global":
            np.random.seed(9)
            rng = np.random.mtrand._rand
        else:
            est.set_params(random_state=rng)
        warned(lambda est=est: est.fit(X, y))
        states.append(rng.get_state(legacy=False))
        assert kind == "global" or est.random_state is rng
    mine, other = states
    assert_array_equal(mine["state"]["key"], other["state"]["key"])
    assert mine["state"]["pos"] == other["state"]["pos"]
    assert_same_model(*models, X, y)


@pytest.mark.parametrize(
    "params",
    [
        {"solver": "sgd", "tol": 0.5, "n_iter_no_change": 2},
        {"solver": "sgd", "tol": 0.5, "n_iter_no_change": 2, "early_stopping": True},
        {
            "solver": "sgd",
            "tol": 0.5,
            "n_iter_no_change": 1,
            "learning_rate": "adaptive",
            "max_iter": 40,
        },
        {"solver": "adam", "max_iter": 4},
        {"solver": "adam", "max_iter": 4, "verbose": 10, "early_stopping": True},
        {"solver": "adam", "max_iter": 4, "verbose": 0},
        {"solver": "lbfgs", "max_iter": 4},
    ],
    ids=lambda params: ",".join(f"{k}={v}" for k, v in params.items()),
)
@pytest.mark.parametrize("task", ["binary", "one output"])
def test_verbose_prints_the_same_text(task, params, capfd):
    X, y = data_of(task)
    said = []
    for est in pair(task, **{"verbose": True, "random_state": 0, **params}):
        warned(lambda est=est: est.fit(X, y))
        if est.solver != "lbfgs" and not est.early_stopping:
            warned(lambda est=est: est.partial_fit(X, y))
        said.append(capfd.readouterr())
    mine, other = said
    assert mine == other
    if params["solver"] != "lbfgs":
        assert bool(mine.out) is (params.get("verbose") != 0)


KINDS: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = {
    "lists": lambda X, y: (X.tolist(), y.tolist()),
    "whole numbers": lambda X, y: ((X * 4).astype(int), y),
    "columns": lambda X, y: (X[:, ::2], y),
    "read-only": lambda X, y: (_read_only(X), _read_only(y)),
    "y a column": lambda X, y: (X, y.reshape(-1, 1)),
    "y of objects": lambda X, y: (X, _objects(y)),
    "y of float32": lambda X, y: (X, y.astype(np.float32)),
    "big-endian": lambda X, y: (X.astype(">f8"), y),
    "float16": lambda X, y: (X.astype(np.float16), y),
    "coo": lambda X, y: (sparse.coo_array(X), y),
    "unsorted csr": lambda X, y: (_unsorted(X), y),
}


def _objects(y: np.ndarray) -> np.ndarray:
    return (y.astype(str) if y.dtype.kind == "i" else y).astype(object)


def _read_only(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.flags.writeable = False
    return a


def _unsorted(X: np.ndarray) -> Any:
    """CSR with the columns of each row in falling order and one entry written twice."""
    rows, columns = np.nonzero(X)
    order = np.lexsort((-columns, rows))
    values = X[rows, columns][order]
    first = order[0]
    data = np.r_[0.5 * values[0], 0.5 * values[0], values[1:]]
    indices = np.r_[columns[first], columns[first], columns[order][1:]]
    counts = np.bincount(rows, minlength=len(X))
    counts[rows[first]] += 1
    indptr = np.r_[0, np.cumsum(counts)]
    return sparse.csr_matrix((data, indices, indptr), shape=X.shape)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", ["multiclass", "one output"])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_kinds_of_input(solver, task, kind):
    X, y = KINDS[kind](*data_of(task))
    ours, theirs = pair(task, solver=solver, max_iter=5, **ONE_FIT)
    run_both(ours, theirs, lambda est: est.fit(X, y))
    assert_same_model(ours, theirs, X, y)


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "two outputs"])
def test_containers_may_change_between_fit_and_predict(task):
    X, y = data_of(task)
    ours, theirs = pair(task, max_iter=5, **ONE_FIT)
    run_both(ours, theirs, lambda est: est.fit(CONTAINERS["csc"](X), y))
    for container in CONTAINERS.values():
        assert_same_model(ours, theirs, container(X), y)
    for rows in (1, 2, ROWS):
        mine, other = (est.predict(X[:rows]) for est in (ours, theirs))
        assert_allclose(mine, other, rtol=RTOL, atol=ATOL)
