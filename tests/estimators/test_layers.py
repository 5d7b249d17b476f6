"""Layers that are given, kept, and looked at."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

import skmlp
from skmlp import HiddenLayerTransformer, MLPClassifier, MLPRegressor
from tests.estimators.attempts import CLASSES, ESTIMATORS, KWARGS, X, Y

SOLVERS = ["sgd", "adam", "lbfgs"]


def make(name: str, **params: Any) -> Any:
    return getattr(skmlp, name)(
        **{"hidden_layer_sizes": (5, 3), "random_state": 0, "max_iter": 4, **params}
    )


# ---- First weights -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_fit_goes_on_from_given_weights(name, solver, dtype):
    """As a warm start does, where nothing but the weights goes on."""
    rows = X.astype(dtype)
    donor = make(name, solver=solver, shuffle=False).fit(rows, Y)
    heir = make(name, solver=solver, shuffle=False, coefs_init=donor.coefs_)
    heir.set_params(intercepts_init=[b.tolist() for b in donor.intercepts_])
    given = [W.copy() for W in donor.coefs_]
    heir.fit(rows, Y)
    for before, now in zip(given, heir.coefs_init, strict=True):
        assert_array_equal(before, now)
    donor.set_params(warm_start=True).fit(rows, Y)
    for mine, other in zip(heir.coefs_, donor.coefs_, strict=True):
        assert mine.dtype == other.dtype == dtype
        assert_array_equal(mine, other)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_what_is_left_out_is_drawn_as_ever(name):
    kept = {"solver": "sgd", "learning_rate_init": 1e-12, "alpha": 0}
    plain = make(name, **kept).fit(X, Y)
    W = np.full((5, 3), 0.25)
    model = make(name, **kept, coefs_init=[None, W, None]).fit(X, Y)
    assert_allclose(model.coefs_[1], W, rtol=1e-9)
    for layer in (0, 2):
        assert_allclose(model.coefs_[layer], plain.coefs_[layer], rtol=1e-6)
    assert_allclose(model.intercepts_[1], plain.intercepts_[1], rtol=1e-6)


def test_a_copy_of_the_estimator_keeps_them():
    model = make("MLPClassifier", coefs_init=[np.ones((4, 5)), None, None])
    twin = clone(model)
    assert_array_equal(twin.coefs_init[0], np.ones((4, 5)))
    assert_array_equal(twin.fit(X, Y).coefs_[1], model.fit(X, Y).coefs_[1])


# ---- Frozen layers -----------------------------------------------------------------


@pytest.mark.parametrize("calls", ["fit", "warm start", "partial_fit"])
@pytest.mark.parametrize("frozen", [[0], [-1], [1], np.array([0, 2])])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_frozen_layers_stay(name, solver, frozen, calls):
    if calls == "partial_fit" and solver == "lbfgs":
        return
    start = make(name, solver=solver).fit(X, Y)
    model = make(name, solver=solver, alpha=0.7, frozen_layers=frozen)
    model.set_params(coefs_init=start.coefs_, intercepts_init=start.intercepts_)
    for _ in range(2):
        if calls == "partial_fit":
            model.partial_fit(X, Y, **(KWARGS[name] if calls == "partial_fit" else {}))
        else:
            model.set_params(warm_start=calls == "warm start").fit(X, Y)
    kept = {int(layer) % 3 for layer in frozen}
    for layer in range(3):
        for mine, other in (
            (model.coefs_[layer], start.coefs_[layer]),
            (model.intercepts_[layer], start.intercepts_[layer]),
        ):
            assert np.array_equal(mine, other) is (layer in kept)


@pytest.mark.filterwarnings("ignore::skmlp.UnusedParameterWarning")
@pytest.mark.parametrize("solver", SOLVERS)
def test_training_the_last_layer_is_training_on_the_hidden_outputs(solver):
    """So the penalty, the loss and the steps leave the frozen ones out."""
    start = make("MLPClassifier").fit(X, Y)
    params = {"solver": solver, "alpha": 2.0, "max_iter": 6, "momentum": 0.5}
    given = {"coefs_init": start.coefs_, "intercepts_init": start.intercepts_}
    model = make("MLPClassifier", frozen_layers=[0, 1], **params, **given).fit(X, Y)
    top = {name: values[2:] for name, values in given.items()}
    twin = make("MLPClassifier", hidden_layer_sizes=(), shuffle=True, **params, **top)
    # Both draw first weights before the shuffles, the one more than the other.
    model.set_params(shuffle=False).fit(X, Y)
    twin.set_params(shuffle=False).fit(start.hidden_outputs(X), Y)
    assert_allclose(model.coefs_[2], twin.coefs_[0], rtol=1e-7)
    assert model.loss_ == pytest.approx(twin.loss_, rel=1e-9)


# ---- Hidden outputs ----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dense", "csr", "float32"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "identity"])
def test_hidden_outputs(activation, kind):
    model = make("MLPClassifier", activation=activation).fit(X, Y)
    function = {
        "relu": lambda z: np.maximum(z, 0),
        "tanh": np.tanh,
        "logistic": lambda z: 1 / (1 + np.exp(-z)),
        "identity": lambda z: z,
    }[activation]
    first = function(X @ model.coefs_[0] + model.intercepts_[0])
    second = function(first @ model.coefs_[1] + model.intercepts_[1])
    rows = {"dense": X, "csr": sparse.csr_matrix(X), "float32": X.astype("f4")}[kind]
    rtol = 1e-4 if kind == "float32" else 1e-12
    for layer, expected in {0: first, -2: first, 1: second, -1: second}.items():
        got = model.hidden_outputs(rows, layer=layer)
        assert_allclose(got, expected, rtol=rtol, atol=rtol)
    assert_array_equal(model.hidden_outputs(rows), got)


@pytest.mark.parametrize(
    ("sizes", "layer"), [((5, 3), 2), ((5, 3), -3), ((), -1), ((), 0)]
)
def test_a_layer_that_is_not_there(sizes, layer):
    model = make("MLPClassifier", hidden_layer_sizes=sizes).fit(X, Y)
    with pytest.raises(ValueError, match=r"not a hidden layer.* has [02], numbered"):
        model.hidden_outputs(X, layer)


# The classifier's partial_fit asks for the classes, which scikit-learn's checks tell
# to classifiers only.
@pytest.mark.parametrize(
    "network",
    [
        MLPClassifier((5, 3), solver="lbfgs", max_iter=9, random_state=0),
        MLPRegressor(hidden_layer_sizes=(5, 3), max_iter=9, random_state=0),
    ],
    ids=ESTIMATORS,
)
def test_the_transformer_is_an_estimator(network):
    check_estimator(HiddenLayerTransformer(network), on_skip=None)


def test_the_transformer_in_a_pipeline():
    pd = pytest.importorskip("pandas", reason="feature names are those of data frames")
    frame = pd.DataFrame(X, columns=list("abcd"))
    pipe = make_pipeline(
        HiddenLayerTransformer(make("MLPClassifier"), layer=0), LogisticRegression()
    )
    pipe.set_output(transform="pandas").fit(frame, Y)
    names = [f"hiddenlayertransformer{i}" for i in range(5)]
    assert list(pipe[:-1].get_feature_names_out()) == names
    assert list(pipe[:-1].transform(frame).columns) == names
    assert list(pipe[0].feature_names_in_) == list("abcd")
    twin = pickle.loads(pickle.dumps(pipe))
    assert_array_equal(twin.predict(frame), pipe.predict(frame))


def test_the_transformer_takes_a_trained_network():
    network = make("MLPClassifier").fit(X, Y)
    features = HiddenLayerTransformer(FrozenEstimator(network)).fit(X)
    assert_array_equal(features.transform(X), network.hidden_outputs(X))


@pytest.mark.parametrize("layer", [2, -3])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_the_transformer_looks_for_its_layer_before_training(method, frozen, layer):
    network = MLPRegressor(hidden_layer_sizes=(4, 3), max_iter=3, verbose=True)
    if frozen:
        network = FrozenEstimator(network.set_params(verbose=False).fit(X, Y))
    features = HiddenLayerTransformer(network, layer=layer)
    if not hasattr(features, method):
        method = "fit"
    with pytest.raises(ValueError, match=f"layer={layer} is not a hidden layer"):
        getattr(features, method)(X, Y)
    assert not hasattr(features, "estimator_")


def test_the_transformer_learns_piece_by_piece():
    features = HiddenLayerTransformer(make("MLPClassifier"))
    twin = make("MLPClassifier")
    for rows in (slice(0, 10), slice(10, None)):
        features.partial_fit(X[rows], Y[rows], classes=CLASSES)
        twin.partial_fit(X[rows], Y[rows], classes=CLASSES)
    assert_array_equal(features.transform(X), twin.hidden_outputs(X))
    lbfgs = HiddenLayerTransformer(make("MLPClassifier", solver="lbfgs"))
    assert not hasattr(lbfgs, "partial_fit")


def test_the_transformer_routes_metadata():
    weights = np.arange(len(X)) % 3 + 1.0
    with config_context(enable_metadata_routing=True):
        asking = make("MLPClassifier").set_fit_request(sample_weight=True)
        head = LogisticRegression().set_fit_request(sample_weight=False)
        pipe = make_pipeline(HiddenLayerTransformer(asking), head)
        pipe.fit(X, Y, sample_weight=weights)
        deaf = make("MLPClassifier")
        with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
            HiddenLayerTransformer(deaf).fit(X, Y, sample_weight=weights)
        pieces = asking.set_partial_fit_request(sample_weight=True, classes=True)
        features = HiddenLayerTransformer(pieces)
        features.partial_fit(X, Y, sample_weight=weights, classes=CLASSES)
    twin = make("MLPClassifier").fit(X, Y, weights)
    assert_array_equal(pipe[0].estimator_.coefs_[0], twin.coefs_[0])
    plain = HiddenLayerTransformer(make("MLPClassifier")).fit(
        X, Y, sample_weight=weights
    )
    assert_array_equal(plain.estimator_.coefs_[0], twin.coefs_[0])
    twin = make("MLPClassifier").partial_fit(X, Y, weights, classes=CLASSES)
    assert_array_equal(features.estimator_.coefs_[0], twin.coefs_[0])
