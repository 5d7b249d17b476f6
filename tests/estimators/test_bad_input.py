"""Bad input: scikit-learn's error, before any training, and the estimator as it was."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sklearn.neural_network as original
from scipy import sparse
from sklearn.exceptions import NotFittedError

import skmlp
from tests.estimators.attempts import (
    ESTIMATORS,
    KWARGS,
    N,
    W,
    X,
    Y,
    assert_like_the_original,
    attempt,
    make,
    put,
)

#: X, y and sample_weight; each fits neither of the two estimators.
DATA: dict[str, tuple[Any, Any, Any]] = {
    "no rows": (X[:0], Y[:0], None),
    "no features": (X[:, :0], Y, None),
    "X of one dimension": (X[:, 0], Y, None),
    "X of three dimensions": (X[:, :, None], Y, None),
    "X a number": (3.0, Y, None),
    "X of text": (np.full((N, 2), "a"), Y, None),
    "X complex": (X + 1j, Y, None),
    "X None": (None, Y, None),
    "ragged X": ([[1.0, 2.0], [3.0]], [0, 1], None),
    "NaN in X": (put(X, (7, 2), np.nan), Y, None),
    "inf in X": (put(X, (7, 2), np.inf), Y, None),
    "-inf in X": (put(X, (7, 2), -np.inf), Y, None),
    "NaN in float32 X": (put(X, (7, 2), np.nan).astype(np.float32), Y, None),
    "NaN in sparse X": (sparse.csr_matrix(put(X, (7, 2), np.nan)), Y, None),
    "inf in sparse X": (sparse.csc_matrix(put(X, (7, 2), np.inf)), Y, None),
    "float64 too large for float32": (np.full((N, 2), 1e39, dtype=object), ["a"], None),
    "y None": (X, None, None),
    "y shorter": (X, Y[:-1], None),
    "y longer": (X, np.r_[Y, 0], None),
    "y a number": (X, 3, None),
    "y of three dimensions": (X, Y.reshape(N, 1, 1), None),
    "NaN in y": (X, put(Y, 4, np.nan), None),
    "inf in y": (X, put(Y, 4, np.inf), None),
    "NaN in a column of y": (X, put(np.column_stack([Y, Y]), (4, 1), np.nan), None),
    "weights shorter": (X, Y, W[:-1]),
    "weights of two dimensions": (X, Y, W[:, None]),
    "weights of text": (X, Y, np.full(N, "a")),
    "NaN in weights": (X, Y, put(W, 3, np.nan)),
    "inf in weights": (X, Y, put(W, 3, np.inf)),
}
DATA_OF = {
    "MLPClassifier": {
        **DATA,
        "real targets": (X, X[:, 0], None),
        "labels of two kinds": (X, np.array([1, "a"] * (N // 2), dtype=object), None),
    },
    "MLPRegressor": {
        **DATA,
        "y of text in objects": (X, np.full(N, "a", dtype=object), None),
    },
}
CASES = [(name, what) for name, table in DATA_OF.items() for what in table]


@pytest.mark.parametrize("fitted", ["unfitted", "fitted"])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize(("name", "what"), CASES)
def test_fit(name, what, solver, fitted, capsys):
    rows, y, w = DATA_OF[name][what]
    batch = {} if solver == "adam" else {"batch_size": "auto"}
    estimator = make(name, fitted, solver=solver, **batch)

    def call(est: Any) -> None:
        est.fit(rows, y, sample_weight=w)

    error = attempt(estimator, call)
    assert not capsys.readouterr().out
    twin = make(name, fitted, original, solver=solver, **batch)
    assert_like_the_original(error, twin, call)


# scikit-learn looks at the kind of the labels before it looks for NaN.
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")
@pytest.mark.parametrize("fitted", ["unfitted", "fitted"])
@pytest.mark.parametrize(("name", "what"), CASES)
def test_partial_fit(name, what, fitted, capsys):
    rows, y, w = DATA_OF[name][what]
    estimator = make(name, fitted)

    def call(est: Any) -> None:
        est.partial_fit(rows, y, sample_weight=w, **KWARGS[name])

    error = attempt(estimator, call)
    assert not capsys.readouterr().out
    assert_like_the_original(error, make(name, fitted, original), call)


@pytest.mark.parametrize("fitted", ["unfitted", "fitted"])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize(
    "y",
    [
        np.full(N, "a"),
        np.array([None] * N),
        np.where(Y == 2, None, Y),
        sparse.csr_matrix(X[:, :2]),
        sparse.csr_array(X[:, :2]),
    ],
    ids=["text", "nothing", "gaps", "sparse", "sparse array"],
)
def test_targets_that_are_no_numbers(y, solver, fitted, capsys):
    """The original finds these by accident, while it trains, or not at all."""
    estimator = make("MLPRegressor", fitted, solver=solver, batch_size="auto")
    error = attempt(estimator, lambda e: e.fit(X, y))
    assert isinstance(error, (ValueError, TypeError))
    assert re.search(r"\by\b|target", str(error))
    assert "non-finite parameter" not in str(error)
    assert not capsys.readouterr().out


CALLS: dict[str, tuple[str, str, Callable[[Any], Any], dict[str, Any]]] = {
    "no classes at first": (
        *("MLPClassifier", "unfitted", lambda e: e.partial_fit(X, Y), {}),
    ),
    "labels not among the classes": (
        "MLPClassifier",
        "unfitted",
        lambda e: e.partial_fit(X, Y, classes=[0, 1]),
        {},
    ),
    "a new label later": (
        *("MLPClassifier", "fitted", lambda e: e.partial_fit(X, Y + 1), {}),
    ),
    "other classes later": (
        "MLPClassifier",
        "fitted",
        lambda e: e.partial_fit(X, Y, classes=[0, 1, 2, 3]),
        {},
    ),
    "other classes in a warm start": (
        *("MLPClassifier", "fitted", lambda e: e.fit(X, Y + 1), {"warm_start": True}),
    ),
    "fewer classes in a warm start": (
        *("MLPClassifier", "fitted", lambda e: e.fit(X, Y % 2), {"warm_start": True}),
    ),
    "more features later": (
        "MLPRegressor",
        "fitted",
        lambda e: e.partial_fit(np.hstack([X, X]), Y),
        {},
    ),
    "fewer features in a warm start": (
        *("MLPRegressor", "fitted", lambda e: e.fit(X[:, :2], Y), {"warm_start": True}),
    ),
    "a validation set of one row": (
        *("MLPRegressor", "unfitted", lambda e: e.fit(X[:9], Y[:9])),
        {"early_stopping": True, "batch_size": "auto"},
    ),
    "a validation set of no row": (
        *("MLPRegressor", "unfitted", lambda e: e.fit(X, Y)),
        {"early_stopping": True, "validation_fraction": 0.0},
    ),
    "a class of one row, to be split": (
        *("MLPClassifier", "unfitted", lambda e: e.fit(X, np.arange(N) == 3)),
        {"early_stopping": True},
    ),
    "a width of 0": (
        *("MLPClassifier", "unfitted", lambda e: e.fit(X, Y)),
        {"hidden_layer_sizes": (4, 0)},
    ),
    "a negative width": (
        *("MLPRegressor", "unfitted", lambda e: e.fit(X, Y)),
        {"hidden_layer_sizes": [-1]},
    ),
}


@pytest.mark.parametrize("what", CALLS)
def test_calls_that_do_not_fit_together(what, capsys):
    name, fitted, call, params = CALLS[what]
    error = attempt(make(name, fitted, **params), call)
    assert not capsys.readouterr().out
    assert_like_the_original(error, make(name, fitted, original, **params), call)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("fitted", ["unfitted", "fitted"])
def test_partial_fit_with_early_stopping(name, fitted):
    estimator = make(name, fitted).set_params(early_stopping=True)
    error = attempt(estimator, lambda e: e.partial_fit(X, Y, **KWARGS[name]))
    assert type(error) is ValueError
    assert str(error) == "partial_fit does not support early_stopping=True"


@pytest.mark.parametrize("fitted", ["unfitted", "fitted"])
@pytest.mark.parametrize("weights", [0 * W, -W, np.where(W.cumsum() > 15, 1.0, -1.0)])
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_weights_that_add_up_to_nothing(name, method, weights, fitted, capsys):
    kwargs = KWARGS[name] if method == "partial_fit" else {}
    estimator = make(name, fitted)
    error = attempt(
        estimator, lambda e: getattr(e, method)(X, Y, sample_weight=weights, **kwargs)
    )
    assert type(error) is ValueError
    assert "weights" in str(error)
    assert "zero" in str(error)
    assert not capsys.readouterr().out


@pytest.mark.parametrize("where", [0, N - 1])
def test_weights_that_add_up_to_nothing_after_the_split(where):
    """All the weight is in one row; it ends up in one part of the split only."""
    estimator = make("MLPRegressor", "unfitted", early_stopping=True)
    error = attempt(estimator, lambda e: e.fit(X, Y, put(0 * W, where, 1.0)))
    assert "weights" in str(error)


@pytest.mark.parametrize("fitted", ["unfitted", "fitted"])
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("targets", [Y - 1.0, np.column_stack([Y, Y - 1])])
def test_poisson_with_negative_targets(targets, method, fitted, capsys):
    estimator = make("MLPRegressor", fitted, loss="poisson")
    error = attempt(estimator, lambda e: getattr(e, method)(X, targets))
    assert type(error) is ValueError
    assert "poisson" in str(error)
    assert not capsys.readouterr().out


#: Rows that a model of four features cannot take.
UNFIT: dict[str, Any] = {
    "fewer features": X[:, :3],
    "more features": np.hstack([X, X]),
    "one dimension": X[0],
    "three dimensions": X[:, :, None],
    "no rows": X[:0],
    "NaN": put(X, (3, 0), np.nan),
    "inf": put(X, (3, 0), np.inf),
    "NaN, sparse": sparse.csc_matrix(put(X, (3, 0), np.nan)),
    "fewer features, sparse": sparse.csr_matrix(X[:, :3]),
    "text": np.full((N, 4), "a"),
    "None": None,
}


@pytest.mark.parametrize("what", UNFIT)
@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("MLPClassifier", "predict"),
        ("MLPClassifier", "predict_proba"),
        ("MLPClassifier", "predict_log_proba"),
        ("MLPRegressor", "predict"),
    ],
)
def test_predict(name, method, what):
    def call(est: Any) -> None:
        getattr(est, method)(UNFIT[what])

    error = attempt(make(name, "fitted"), call)
    assert_like_the_original(error, make(name, "fitted", original), call)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("method", ["predict", "fit", "partial_fit"])
def test_other_feature_names(name, method):
    pd = pytest.importorskip("pandas", reason="feature names are those of data frames")
    frame = pd.DataFrame(X, columns=["a", "b", "c", "d"])
    other = frame.rename(columns={"d": "e"})
    args = () if method == "predict" else (Y,)

    def fitted(module: Any) -> Any:
        return make(name, "unfitted", module, warm_start=True).fit(frame, Y)

    for rows in (other, frame[["b", "a", "c", "d"]], frame[["a", "b"]]):
        mine = attempt(fitted(skmlp), lambda e, r=rows: getattr(e, method)(r, *args))
        with pytest.raises(ValueError, match="feature") as theirs:
            getattr(fitted(original), method)(rows, *args)
        assert type(mine) is type(theirs.value)
        assert str(mine) == str(theirs.value)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("MLPClassifier", "predict"),
        ("MLPClassifier", "predict_proba"),
        ("MLPClassifier", "predict_log_proba"),
        ("MLPRegressor", "predict"),
    ],
)
def test_not_fitted(name, method):
    with pytest.raises(NotFittedError, match=f"This {name} instance is not fitted yet"):
        getattr(make(name, "unfitted"), method)(X)
    with pytest.raises(NotFittedError):
        make(name, "unfitted").score(X, Y)


@pytest.mark.parametrize("which", ["X", "y", "sample_weight"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_dask_and_numpy_do_not_mix(name, which):
    da = pytest.importorskip("dask.array", reason="dask is an extra")
    given = {"X": X, "y": Y, "sample_weight": W}
    given[which] = da.from_array(given[which], chunks=10)
    error = attempt(make(name, "unfitted"), lambda e: e.fit(**given))
    assert isinstance(error, (ValueError, TypeError))
    assert "dask" in str(error).lower()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_dask_without_a_client(name):
    da = pytest.importorskip("dask.array", reason="dask is an extra")
    rows, y = da.from_array(X, chunks=(10, 4)), da.from_array(Y, chunks=10)
    error = attempt(make(name, "unfitted"), lambda e: e.fit(rows, y))
    assert isinstance(error, ValueError)
    assert "client" in str(error).lower()
