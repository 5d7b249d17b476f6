"""scikit-learn's estimator and skmlp's side by side: small tasks, what must agree."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import sklearn.neural_network as original
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

import skmlp

# Sums taken in another order differ in the last bits. Weights and losses here are of
# order 0.1 to 1; an entry that nearly cancels to zero keeps the absolute precision of
# its summands, so it gets the absolute tolerance.
RTOL, ATOL = 1e-6, 1e-9

# Only the stochastic solvers have these.
STOCHASTIC = {
    "loss_curve_",
    "best_loss_",
    "validation_scores_",
    "best_validation_score_",
    "best_epoch_",
}
#: Public fitted attributes that skmlp has beyond scikit-learn's.
ADDED = {
    *("validation_loss_curve_", "best_epoch_"),
    *("n_shards_", "history_", "restarts_"),
}

ROWS, COLUMNS = 64, 7


def data_of(task: str, rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a small task; about a third of X is zero, so that it can be sparse."""
    rng = np.random.default_rng(5)
    X = rng.normal(size=(rows, COLUMNS))
    X[rng.random(X.shape) < 0.35] = 0.0
    raw = np.tanh(X @ rng.normal(size=(COLUMNS, 3))) + 0.3 * rng.normal(size=(rows, 3))
    targets: dict[str, Callable[[], np.ndarray]] = {
        "binary": lambda: (raw[:, 0] > 0.1).astype(int),
        "binary strings": lambda: np.where(raw[:, 0] > 0.1, "yes", "no"),
        "multiclass": lambda: raw.argmax(axis=1) * 2 + 1,
        "multilabel": lambda: (raw > 0).astype(int),
        "heads": lambda: np.c_[raw.argmax(axis=1) * 2 + 1, raw[:, 1] > 0],
        "heads, mixed": lambda: _mixed(raw),
        "one output": lambda: raw[:, 0],
        "two outputs": lambda: raw[:, :2] * [1.0, 3.0],
        "poisson": lambda: rng.poisson(np.exp(raw[:, 0])).astype(float),
        "gamma": lambda: np.exp(raw[:, 0]),
        "poisson, two": lambda: rng.poisson(np.exp(raw[:, :2])).astype(float),
    }
    return X, targets[task]()


def _mixed(raw: np.ndarray) -> np.ndarray:
    """Columns of numbers, of texts and of booleans."""
    table = np.empty((len(raw), 3), object)
    table[:, 0] = raw.argmin(axis=1)
    table[:, 1] = np.where(raw[:, 0] > 0.1, "yes", "no")
    table[:, 2] = raw[:, 2] > 0
    return table


CLASSIFICATION = ("binary", "binary strings", "multiclass", "multilabel")
TASKS = (*CLASSIFICATION, "one output", "two outputs", "poisson", "poisson, two")
SOLVERS = ("sgd", "adam", "lbfgs")
#: Row 1 of the differences: the loss of L-BFGS for several outputs.
DIFFERENT = ("lbfgs", "two outputs")
SOLVERS_AND_TASKS = [
    (solver, task)
    for solver in SOLVERS
    for task in TASKS
    if (solver, task) != DIFFERENT
]
CONTAINERS: dict[str, Callable[[np.ndarray], Any]] = {
    "dense": np.ascontiguousarray,
    "fortran": np.asfortranarray,
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
}


def pair(task: str, **params: Any) -> tuple[Any, Any]:
    """Return skmlp's and scikit-learn's estimator for `task` with equal parameters."""
    if task in CLASSIFICATION:
        return skmlp.MLPClassifier(**params), original.MLPClassifier(**params)
    if task.startswith("poisson"):
        params["loss"] = "poisson"
    return skmlp.MLPRegressor(**params), original.MLPRegressor(**params)


def warned(call: Callable[[], Any]) -> list[tuple[type, str]]:
    """Run `call`; return its warnings but for those that are skmlp's own addition."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [
        (w.category, str(w.message))
        for w in caught
        if not issubclass(
            w.category, (skmlp.UnusedParameterWarning, skmlp.ModelQualityWarning)
        )
    ]


def run_both(ours: Any, theirs: Any, call: Callable[[Any], Any]) -> None:
    """Apply `call` to both estimators; they warn alike."""
    assert warned(lambda: call(ours)) == warned(lambda: call(theirs))


def _public(estimator: Any, names: set[str]) -> set[str]:
    fitted = {n for n in vars(estimator) if n.endswith("_") and n[0] != "_"}
    return {n for n in names | fitted if hasattr(estimator, n)}


def _assert_same_value(name: str, ours: Any, theirs: Any, rtol: float, atol: float):
    if isinstance(theirs, list):
        assert isinstance(ours, list), name
        assert len(ours) == len(theirs), name
        for mine, other in zip(ours, theirs, strict=True):
            _assert_same_value(name, mine, other, rtol, atol)
    elif isinstance(theirs, (int, str, type(None))):
        assert ours == theirs, name
        assert isinstance(ours, type(theirs)), name
    elif isinstance(theirs, np.ndarray) and theirs.dtype.kind in "OUSbiu":
        assert_array_equal(ours, theirs, err_msg=name)
        assert ours.dtype == theirs.dtype, name
    else:
        assert_allclose(ours, theirs, rtol=rtol, atol=atol, err_msg=name)
        assert np.shape(ours) == np.shape(theirs), name
        assert np.asarray(ours).dtype == np.asarray(theirs).dtype, name


def assert_same_model(
    ours: Any, theirs: Any, X: Any, y: Any, rtol: float = RTOL, atol: float = ATOL
) -> None:
    """Compare all fitted attributes, and what both predict for `X`."""
    names = _public(theirs, STOCHASTIC)
    assert _public(ours, STOCHASTIC) - ADDED == names
    for name in sorted(names):
        mine, other = getattr(ours, name), getattr(theirs, name)
        _assert_same_value(name, mine, other, rtol, atol)
    methods = ["predict", "predict_proba", "predict_log_proba"]
    for method in [m for m in methods if hasattr(theirs, m)]:
        with np.errstate(divide="ignore"):  # the log of a probability of 0
            mine, other = getattr(ours, method)(X), getattr(theirs, method)(X)
        _assert_same_value(method, mine, other, rtol, atol)
    assert_allclose(ours.score(X, y), theirs.score(X, y), rtol=rtol, atol=atol)
