"""onnxruntime predicts what the networks predict."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import RandomizedSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, QuantileTransformer, StandardScaler

import skmlp
from skmlp.model.activations import ACTIVATIONS
from skmlp.model.losses import LOSSES

pytest.importorskip("skl2onnx", reason="skl2onnx is an extra, onnx")
runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is an extra, onnx")

from skmlp.onnx import graph  # noqa: E402 - it needs what is imported above

RNG = np.random.default_rng(2)
X = RNG.normal(size=(60, 5))
CODES = np.arange(60) % 3
TARGETS = {
    "binary": X[:, 0] > 0.3,
    "strings": np.array(["one", "two", "three"])[CODES],
    "objects": np.array(["a", "b"], dtype=object)[CODES % 2],
    "integers": CODES * 10 - 10,
    "whole reals": CODES + 1.0,
    "one class": np.full(60, 7),
    "one class, a text": np.full(60, "yes"),
    "uint64": np.array([2**63 + 5, 2**64 - 1, 3], np.uint64)[CODES],
    "small uint64": np.array([5, 1, 3], np.uint64)[CODES],
    "multilabel": (X[:, :3] > 0).astype(int),
    "one output": X[:, 0] * 2,
    "two outputs": X[:, :2],
    "poisson": np.abs(X[:, 0]),
    "quantile": X[:, 0],
}


def run(model: Any, rows: Any) -> list[Any]:
    """What onnxruntime makes of it."""
    proto = skmlp.to_onnx(model, rows[:1])
    session = runtime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, {session.get_inputs()[0].name: rows}))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", TARGETS)
def test_each_kind_of_target(name, dtype):
    y, rows = TARGETS[name], X.astype(dtype)
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype is np.float32 else {"rtol": 1e-9}
    if "output" in name or name in ("poisson", "quantile"):
        loss = "squared_error" if "output" in name else name
        model = skmlp.MLPRegressor(loss, (7, 4), max_iter=9, random_state=0)
        if name == "quantile":
            model.set_params(quantile=[0.1, 0.5, 0.8])
        (found,) = run(model.fit(rows, y), rows)
        assert found.shape == (60, model.n_outputs_)
        expected = model.predict(rows).reshape(60, -1)
        assert_allclose(found, expected, **tolerance)
        return
    model = skmlp.MLPClassifier((7, 4), max_iter=9, random_state=0).fit(rows, y)
    labels, probabilities = run(model, rows)
    assert_array_equal(labels, model.predict(rows), strict=name.startswith("uint64"))
    assert_allclose(probabilities, model.predict_proba(rows), **tolerance)


HEADS = {
    "integers": np.c_[CODES * 10, CODES % 2],
    "strings": np.c_[TARGETS["strings"], TARGETS["strings"]],
    "one class": np.c_[CODES, np.full(60, 7)],
    "uint64": np.c_[
        CODES.astype(np.uint64) + np.uint64(2**63), TARGETS["small uint64"]
    ],
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", HEADS)
def test_several_columns_of_classes(name, dtype):
    rows = X.astype(dtype)
    model = skmlp.MLPClassifier((7, 4), max_iter=9, random_state=0)
    labels, probabilities = run(model.fit(rows, HEADS[name]), rows)
    assert_array_equal(labels, model.predict(rows))
    for found, expected in zip(probabilities, model.predict_proba(rows), strict=True):
        width = expected.shape[1]
        assert_allclose(found[:, :width], expected, rtol=1e-5, atol=1e-6)
        assert not found[:, width:].any()


def test_labels_of_two_kinds_are_not_for_onnx():
    Y = np.array([[1, "a"], [2, "b"], [3, "a"]], dtype=object)
    model = skmlp.MLPClassifier(max_iter=2).fit(X[:3], Y)
    with pytest.raises(ValueError, match="all integers or all strings"):
        skmlp.to_onnx(model)


def test_what_is_not_fitted_is_named():
    with pytest.raises(NotFittedError, match="This MLPClassifier instance"):
        skmlp.to_onnx(skmlp.MLPClassifier(), X)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_each_activation(activation):
    rows = (3 * X).astype(np.float32)
    model = skmlp.MLPRegressor("squared_error", (9, 4), activation, max_iter=3)
    (found,) = run(model.fit(rows, X[:, 0]), rows)
    assert_allclose(found[:, 0], model.predict(rows), rtol=1e-4, atol=1e-5)
    if activation != "gelu":  # onnxruntime has no Erf in float64
        model.fit(3 * X, X[:, 0])
        (found,) = run(model, 3 * X)
        assert_allclose(found[:, 0], model.predict(3 * X), rtol=1e-8, atol=1e-9)


def test_activations_by_layer_inside_a_pipeline():
    model = skmlp.MLPClassifier((6, 5), ["silu", "tanh"], max_iter=5, random_state=0)
    pipeline = make_pipeline(StandardScaler(), model).fit(X, CODES)
    labels, probabilities = run(pipeline, X.astype(np.float32))
    assert_allclose(probabilities, pipeline.predict_proba(X), rtol=1e-4, atol=1e-5)
    assert_array_equal(labels, probabilities.argmax(axis=1))


TRANSFORMERS = {
    "standard": StandardScaler(),
    "standard, no mean": StandardScaler(with_mean=False),
    "standard, no deviation": StandardScaler(with_std=False),
    "min and max": MinMaxScaler((-1, 3)),
    "none": None,
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_transformed_target(name, dtype):
    rows = X.astype(dtype)
    tolerance = {"rtol": 1e-5, "atol": 1e-4} if dtype is np.float32 else {"rtol": 1e-9}
    network = skmlp.MLPRegressor(hidden_layer_sizes=7, max_iter=9, random_state=0)
    quantiles = clone(network).set_params(loss="quantile", quantile=[0.1, 0.5, 0.8])
    one, two = 50 + 7 * X[:, 0], 50 + 7 * X[:, :2]
    for inner, y in [
        (network, one),
        (network, two),
        (quantiles, one),
        (make_pipeline(StandardScaler(), network), two),
        (LinearRegression(), two),
    ]:
        model = TransformedTargetRegressor(inner, transformer=TRANSFORMERS[name])
        search = RandomizedSearchCV(
            model, {"check_inverse": [True]}, n_iter=1, cv=2, scoring=lambda *_: 1.0
        )
        for whole in (model, make_pipeline(StandardScaler(), model), search):
            (found,) = run(whole.fit(rows, y), rows)
            expected = whole.predict(rows).reshape(found.shape)
            assert_allclose(found, expected, **tolerance)


def test_a_target_without_onnx_names_what_has_one():
    network = skmlp.MLPRegressor(hidden_layer_sizes=7, max_iter=9, random_state=0)
    y = np.exp(X[:, 0])
    for transformed in (
        {"func": np.log, "inverse_func": np.exp},
        {"transformer": QuantileTransformer(n_quantiles=9)},
    ):
        model = TransformedTargetRegressor(network, **transformed).fit(X, y)
        with pytest.raises(ValueError, match=r"no ONNX.*`regressor_`"):
            skmlp.to_onnx(make_pipeline(model))
        (found,) = run(model.regressor_, X)
        assert_allclose(found[:, 0], model.regressor_.predict(X), rtol=1e-9)


def test_around_classifiers():
    network = skmlp.MLPClassifier(7, max_iter=9, random_state=0)
    pairs = [("net", network), ("other", LogisticRegression())]
    for whole in (
        CalibratedClassifierCV(network, cv=2),
        VotingClassifier(pairs, voting="soft"),
        make_pipeline(StandardScaler(), VotingClassifier(pairs, voting="soft")),
        StackingClassifier(pairs, cv=2),
        RandomizedSearchCV(network, {"alpha": [0.1]}, n_iter=1, cv=2),
    ):
        labels, probabilities = run(whole.fit(X, CODES), X.astype(np.float32))
        assert_array_equal(labels, whole.predict(X))
        assert_allclose(probabilities, whole.predict_proba(X), rtol=1e-3, atol=1e-5)


def test_no_hidden_layer_and_the_way_by_scikit_learn():
    import skl2onnx

    model = skmlp.MLPClassifier((), max_iter=5, random_state=0).fit(X, CODES)
    assert_allclose(run(model, X)[1], model.predict_proba(X), rtol=1e-9)
    rows = X.astype(np.float32)
    deep = skmlp.MLPClassifier((4, 3), max_iter=5, random_state=0).fit(rows, CODES)
    proto = skl2onnx.to_onnx(deep.to_sklearn(), rows[:1], options={"zipmap": False})
    session = runtime.InferenceSession(proto.SerializeToString())
    found = session.run(None, {"X": rows})[1]
    assert_allclose(found, deep.predict_proba(rows), rtol=1e-5, atol=1e-6)


def test_the_tables_know_all_there_is():
    assert all(one.onnx is not None for one in ACTIVATIONS.values())
    assert set(graph.OUTPUTS) >= {loss.output for loss in LOSSES.values()}


def test_what_has_no_onnx_is_refused():
    class Cube:
        """A user's own activation."""

        def value(self, z: Any) -> Any:
            return z**3

        def derivative(self, z: Any) -> Any:
            return 3 * z**2

    model = skmlp.MLPRegressor("squared_error", (3,), Cube(), max_iter=2)
    with pytest.raises(ValueError, match="no ONNX for the activation"):
        skmlp.to_onnx(model.fit(X, X[:, 0]))
