"""Bad input on Dask: scikit-learn's class of error, and the estimator as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask
import joblib
import numpy as np
import pytest
import sklearn.neural_network as original
from dask.bag import Bag
from distributed import Client, default_client
from numpy.testing import assert_array_equal
from scipy import sparse
from sklearn.exceptions import NotFittedError

import skmlp
from tests.estimators.attempts import ESTIMATORS, N, W, X, Y, attempt, make, put
from tests.estimators.dask_data import dask_of, refuse


# Before the first test that has a client.
@pytest.mark.parametrize("name", ESTIMATORS)
def test_without_a_client(name):
    with pytest.raises(ValueError, match="clients"):
        Client.current()
    error = attempt(make(name, "fitted"), lambda m: m.fit(dask_of(X), dask_of(Y)))
    assert type(error) is ValueError
    assert "create one first" in str(error)
    model = make(name, "fitted")
    assert_array_equal(model.predict(dask_of(X)).compute(), model.predict(X))
    assert isinstance(model.score(dask_of(X), dask_of(Y)), float)


# ---- Bad input ---------------------------------------------------------------------

#: X, y and sample_weight; each fits neither of the two estimators.
DATA: dict[str, tuple[Any, Any, Any]] = {
    "no rows": (X[:0], Y[:0], None),
    "no features": (X[:, :0], Y, None),
    "X of one dimension": (X[:, 0], Y, None),
    "X of three dimensions": (X[:, :, None], Y, None),
    "X of text": (np.full((N, 2), "a"), Y, None),
    "X complex": (X + 1j, Y, None),
    "NaN in a chunk of X": (put(X, (25, 2), np.nan), Y, None),
    "inf in a chunk of X": (put(X, (25, 2), np.inf), Y, None),
    "NaN in float32 X": (put(X, (9, 2), np.nan).astype(np.float32), Y, None),
    "inf in sparse X": (sparse.csr_matrix(put(X, (25, 2), np.inf)), Y, None),
    "y shorter": (X, Y[:-1], None),
    "y longer": (X, np.r_[Y, 0], None),
    "y of three dimensions": (X, Y.reshape(N, 1, 1), None),
    "NaN in a chunk of y": (X, put(Y, 28, np.nan), None),
    "inf in a chunk of y": (X, put(Y, 28, np.inf), None),
    "y complex": (X, Y + 1j, None),
    "weights shorter": (X, Y, W[:-1]),
    "weights of two dimensions": (X, Y, W[:, None]),
    "NaN in a chunk of the weights": (X, Y, put(W, 28, np.nan)),
    "inf in a chunk of the weights": (X, Y, put(W, 28, np.inf)),
    "weights of text": (X, Y, np.full(N, "a")),
}
#: For one of them.
LABELS: dict[str, tuple[Any, Any, Any]] = {
    "labels with fractions": (X, Y + 0.5 * (Y > 1), None),
    "columns of labels with fractions": (X, np.column_stack([Y, Y + 0.5]), None),
}
TARGETS: dict[str, tuple[Any, Any, Any]] = {
    "targets of text": (X, np.full(N, "a", object), None),
}
WRONG = [(name, DATA[what]) for name in ESTIMATORS for what in DATA]
WRONG += [("MLPClassifier", data) for data in LABELS.values()]
WRONG += [("MLPRegressor", data) for data in TARGETS.values()]
IDS = [f"{name}-{what}" for name in ESTIMATORS for what in DATA] + [*LABELS, *TARGETS]


def error_of(name: str, call: Callable[[Any], Any], module: Any = skmlp) -> type:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - its class is the result
        call(getattr(module, name)(hidden_layer_sizes=3, max_iter=2))
    return type(caught.value)


@pytest.mark.parametrize(("name", "data"), WRONG, ids=IDS)
def test_wrong_data_is_refused_as_by_the_original(name, data, client):
    given = [None if a is None else dask_of(a) for a in data]
    error = attempt(make(name, "fitted"), lambda model: model.fit(*given))
    theirs = error_of(name, lambda model: model.fit(*data), original)
    assert type(error) is theirs
    assert str(error)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("fitted", ["", "fitted"])
def test_a_single_nan_among_many_chunks_is_found_and_placed(name, fitted, client):
    rows = dask_of(put(X, (25, 2), np.nan), 1)
    error = attempt(make(name, fitted), lambda model: model.fit(rows, dask_of(Y)))
    assert "Input X contains NaN." in str(error)
    assert "rows 25 to 25" in str(error)


def unknown(a: Any) -> Any:
    lazy = dask_of(a)
    return lazy[dask_of(np.arange(N)) % 5 > 0]


#: X, y and weights that only Dask can bring about, with the class and words expected.
ODD: dict[str, tuple[Callable[[], tuple[Any, ...]], type[Exception], str]] = {
    "y of numpy": (lambda: (dask_of(X), Y), ValueError, "^y must be a Dask collection"),
    "X of numpy": (lambda: (X, dask_of(Y)), ValueError, "^X must be a Dask collection"),
    "weights of numpy": (
        lambda: (dask_of(X), dask_of(Y), W),
        ValueError,
        "^sample_weight must be a Dask collection",
    ),
    "weights of Dask alone": (
        lambda: (X, Y, dask_of(W)),
        ValueError,
        "^X and y must be a Dask collection",
    ),
    "a bag": (
        lambda: (Bag({("b", 0): [1]}, "b", 1), dask_of(Y)),
        TypeError,
        "^X is a Bag",
    ),
    "something delayed": (
        lambda: (dask_of(X), dask.delayed(Y)),
        TypeError,
        "^y is a Delayed",
    ),
    "one future": (
        lambda: (default_client().scatter(X), dask_of(Y)),
        TypeError,
        "^X is a Future",
    ),
    "a list of arrays": (
        lambda: ([dask_of(X), dask_of(X)], dask_of(Y)),
        TypeError,
        "^X is a list of Dask's Array",
    ),
    "weights of unknown size alone": (
        lambda: (dask_of(X), dask_of(Y), unknown(W)),
        ValueError,
        "rows, but sample_weight has",
    ),
    "an unknown number of columns": (
        lambda: (dask_of(X)[:, dask_of(np.ones(4, bool), 4)], dask_of(Y)),
        ValueError,
        "number of columns of X is unknown",
    ),
    "chunks that lie about their size": (
        lambda: (
            dask_of(X).map_blocks(
                lambda block: block[:-1], dtype=float, meta=np.empty((0, 0))
            ),
            dask_of(Y),
        ),
        ValueError,
        "collection says",
    ),
    "weights that add up to 0": (
        lambda: (dask_of(X), dask_of(Y), dask_of(W * 0)),
        ValueError,
        "Sample weights must contain at least one non-zero number",
    ),
    "an error of the user's own": (
        lambda: (
            dask_of(X).map_blocks(refuse, dtype=float, meta=np.empty((0, 0))),
            dask_of(Y),
        ),
        ValueError,
        "computed",
    ),
}


@pytest.mark.parametrize("what", ODD)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_odd_collections_are_refused(name, what, client):
    given, kind, words = ODD[what]
    error = attempt(make(name, "fitted"), lambda model: model.fit(*given()))
    assert type(error) is kind
    assert words.strip("^") in str(error)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("given", ["Dask arrays", "arrays on Dask"])
def test_no_ranks_at_all(name, given, client):
    model = make(name, "fitted").set_params(n_jobs=0)
    of = dask_of if given == "Dask arrays" else np.asarray
    with joblib.parallel_config("dask"), skmlp.config_context(ranks="as_asked"):
        error = attempt(model, lambda m: m.fit(of(X), of(Y)))
    assert type(error) is ValueError
    assert "n_jobs == 0 has no meaning" in str(error)


CLASSES = [0, 1, 2]
#: Second calls that do not follow from the first one, which has seen X and Y.
SEQUENCES: dict[str, tuple[dict[str, Any], Callable[[Any, Any], Any]]] = {
    "fewer features": ({}, lambda m, of: m.partial_fit(of(X[:, :2]), of(Y))),
    "a new label": ({}, lambda m, of: m.partial_fit(of(X), of(Y + 1))),
    "other classes": (
        {},
        lambda m, of: m.partial_fit(of(X), of(Y), classes=[0, 1]),
    ),
    "early stopping": (
        {"early_stopping": True},
        lambda m, of: m.partial_fit(of(X), of(Y)),
    ),
    "other labels, warm": (
        {"warm_start": True},
        lambda m, of: m.fit(of(X), of(Y // 2)),
    ),
    "too small a validation set": (
        {"early_stopping": True, "validation_fraction": 0.01},
        lambda m, of: m.fit(of(X), of(Y)),
    ),
}


@pytest.mark.parametrize("what", SEQUENCES)
def test_calls_that_do_not_follow(what, client):
    params, call = SEQUENCES[what]
    ours, theirs = (
        make("MLPClassifier", "fitted", module=module).set_params(**params)
        for module in (skmlp, original)
    )
    error = attempt(ours, lambda model: call(model, dask_of))
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - compared below
        call(theirs, np.asarray)
    assert type(error) is type(caught.value)
    assert str(error).split("`self")[0] == str(caught.value).split("`self")[0]


def test_classes_are_needed_in_the_first_call(client):
    def call(model):
        return model.partial_fit(dask_of(X), dask_of(Y))

    error = attempt(make("MLPClassifier", ""), call)
    assert "classes must be passed on the first call" in str(error)


@pytest.mark.parametrize("loss", ["poisson", "gamma"])
def test_targets_that_a_loss_is_not_defined_for(loss, client):
    model = make("MLPRegressor", "fitted").set_params(loss=loss)
    targets = put(np.abs(Y) + 1, 28, -0.5)
    error = attempt(model, lambda m: m.fit(dask_of(X), dask_of(targets)))
    assert "the smallest is -0.5" in str(error)


def test_several_quantiles_are_of_one_target(client):
    model = make("MLPRegressor", "unfitted").set_params(
        loss="quantile", quantile=[0.1, 0.9]
    )
    error = attempt(model, lambda m: m.fit(dask_of(X), dask_of(X[:, :2])))
    assert "2 columns" in str(error)


#: Calls of a fitted model with X and Y.
AFTER: dict[str, tuple[Callable[[Any], Any], str]] = {
    "fewer features": (lambda m: m.predict(dask_of(X[:, :2])), "X has 2 features"),
    "one dimension": (lambda m: m.predict(dask_of(X[:, 0])), "Expected 2D array"),
    "score: y of numpy": (lambda m: m.score(dask_of(X), Y), "^y must be"),
    "score: weights of numpy": (
        lambda m: m.score(dask_of(X), dask_of(Y), W),
        "^sample_weight must be",
    ),
    "score: y shorter": (
        lambda m: m.score(dask_of(X), dask_of(Y[:-1])),
        "inconsistent numbers of samples",
    ),
    "score: unknown sizes that differ": (
        lambda m: m.score(unknown(X), dask_of(Y)),
        "inconsistent numbers of samples: [",
    ),
}


@pytest.mark.parametrize("what", AFTER)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_wrong_rows_for_a_fitted_model(name, what):
    call, words = AFTER[what]
    error = attempt(make(name, "fitted"), call)
    assert type(error) is ValueError
    assert words.strip("^") in str(error)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_not_fitted(name):
    for call in ("predict", "score"):
        given = [dask_of(X)] if call == "predict" else [dask_of(X), dask_of(Y)]
        with pytest.raises(NotFittedError):
            getattr(make(name, ""), call)(*given)
