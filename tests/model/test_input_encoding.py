"""Encoded rows: what they are, and that a network sees no others."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.preprocessing import OneHotEncoder

import skmlp
from skmlp import InputEncoding, MLPClassifier, MLPRegressor
from skmlp.kernels import compiled
from skmlp.model.input_encoding import category, number

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 3)) * [1, 10, 100]
Y = np.sin(X[:, 0]) + X[:, 1] / 10
ENCODING = InputEncoding.of_quantiles(X, n_ramps=4)


def net(**params: Any) -> MLPRegressor:
    return MLPRegressor(
        hidden_layer_sizes=9,
        **{"max_iter": 5, "random_state": 0} | params,
    )


def test_the_kernels_are_those_that_are_asked_for(monkeypatch):
    monkeypatch.setattr(compiled, "encode_rows", None)
    with skmlp.config_context(kernels="reference"):
        model = net(input_encoding=ENCODING).fit(X, Y)
        assert model.predict(X).shape == Y.shape
        assert ENCODING.encode(X).shape == (len(X), 15)


@pytest.mark.parametrize("kernels", ["reference", "compiled"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ramps_are_numpys_interpolation(kernels, dtype):
    rows = X.astype(dtype)
    rtol = 1e-5 if dtype == "float32" else 1e-12
    with skmlp.config_context(kernels=kernels):
        found = ENCODING.encode(rows)
    assert found.dtype == dtype
    for j in range(3):
        edges = np.quantile(X[:, j], np.linspace(0, 1, 5))
        low, center, high = edges[1:4]
        own = found[:, 5 * j : 5 * j + 5]
        scaled = (rows[:, j] - center) / (high - low)
        clipped = scaled / np.sqrt(1 + (scaled / 3) ** 2)
        assert_allclose(own[:, 0], clipped, rtol, atol=rtol)
        for k in range(4):
            ramp = np.interp(rows[:, j], edges[k : k + 2], [0, 1])
            assert_allclose(own[:, k + 1], ramp, rtol, atol=rtol)


def test_categories_are_scikit_learns_one_hot():
    codes = RNG.integers(0, 4, size=(50, 1))
    encoding = InputEncoding.joined([category(0, 4)], 1)
    expected = OneHotEncoder(sparse_output=False).fit_transform(codes)
    assert_array_equal(encoding.encode(codes), expected)
    assert_array_equal(encoding.encode([[-1.0]]), np.zeros((1, 4)))


def test_a_gate_closes_the_inputs_of_its_rows():
    inputs = number(0, 0.0, 1.0, np.array([-1.0, 0.0, 1.0]), gate=1)
    encoding = InputEncoding.joined([inputs], 2)
    open_, closed = encoding.encode([[0.5, 0.0], [0.5, 1.0]])
    assert_allclose(open_[1:], [1, 0.5])
    assert_allclose(closed[1:], 0)


def test_a_constant_column_has_no_ramps():
    rows = np.column_stack([X[:, 0], np.full(len(X), 7.0)])
    encoding = InputEncoding.of_quantiles(rows, n_ramps=4)
    assert encoding.n_inputs == 6
    assert_array_equal(encoding.encode(rows)[:, 5], 0)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"shuffle": False},
        {"early_stopping": True, "dropout": 0.2, "input_dropout": 0.1},
        {"solver": "lbfgs"},
        {"max_iter": 3, "batch_size": 7, "average": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("kernels", ["reference", "compiled"])
def test_a_fit_is_that_of_the_encoded_rows(params, kernels):
    with skmlp.config_context(kernels=kernels):
        narrow = net(input_encoding=ENCODING, **params).fit(X, Y)
        wide = net(**params).fit(ENCODING.encode(X), Y)
        for one, other in zip(narrow.coefs_, wide.coefs_, strict=True):
            assert_array_equal(one, other)
        assert_array_equal(narrow.predict(X), wide.predict(ENCODING.encode(X)))
    assert narrow.n_features_in_ == 3


def test_read_only_rows_and_those_of_another_order():
    expected = ENCODING.encode(X)
    rows = np.asfortranarray(X)
    rows.flags.writeable = False
    assert_array_equal(ENCODING.encode(rows), expected)
    assert_array_equal(ENCODING.encode(X.tolist()), expected)
    assert_array_equal(ENCODING.take(np.arange(3)).encode(X), expected[:, :3])


def test_it_is_kept(tmp_path):
    model = net(input_encoding=ENCODING).fit(X, Y)
    skmlp.save(model, tmp_path / "model")
    expected = model.predict(X)
    for other in (skmlp.load(tmp_path / "model"), pickle.loads(pickle.dumps(model))):
        assert_array_equal(other.predict(X), expected)
        assert_array_equal(clone(other).fit(X, Y).predict(X), expected)
    assert repr(ENCODING) == "<InputEncoding of 3 columns to 15 inputs>"


def test_onnx():
    runtime = pytest.importorskip("onnxruntime")  # an extra
    gates = np.where(ENCODING.sources == 1, 2, ENCODING.gates)
    encoding = replace(ENCODING, gates=gates, weights=np.linspace(0, 1, 15))
    parts = [number(0, 0.0, 1.0, np.empty(0)), category(1, 3)]
    codes = np.column_stack([X[:, 0], RNG.integers(-1, 3, len(X)), X[:, 2] > 0])
    for rows, own in ((X, encoding), (codes, InputEncoding.joined(parts, 3))):
        model = net(input_encoding=own).fit(rows, Y)
        graph = skmlp.to_onnx(model, rows[:1]).SerializeToString()
        session = runtime.InferenceSession(graph)
        (found,) = session.run(None, {session.get_inputs()[0].name: rows})
        assert_allclose(found.ravel(), model.predict(rows), rtol=1e-9)


def test_what_does_not_fit_is_an_error_before_training():
    model = net(input_encoding=ENCODING)
    with pytest.raises(ValueError, match=r"2 features.*for 3.*of_quantiles"):
        model.fit(X[:, :2], Y)
    with pytest.raises(TypeError, match=r"dense.*toarray"):
        model.fit(sparse.csr_array(X), Y)
    assert not hasattr(model, "coefs_")
    model.fit(X, Y)
    with pytest.raises(TypeError, match=r"dense.*toarray"):
        model.predict(sparse.csr_array(X))
    with pytest.raises(ValueError, match=r"no input_encoding.*to_onnx"):
        model.to_sklearn()
    model.set_params(warm_start=True, input_encoding=None)
    with pytest.raises(ValueError, match="goes on with the layers"):
        model.fit(X, Y)


def test_a_transformer_and_a_scorer_see_encoded_rows():
    classes = (Y > 0).astype(int)
    seen: list[tuple[int, ...]] = []

    def scorer(model: Any, rows: Any, y: Any) -> float:
        seen.append(rows.shape)
        return float(model.score(rows, y))

    model = MLPClassifier(
        9,
        input_encoding=ENCODING,
        early_stopping=True,
        scoring=scorer,
        max_iter=3,
        random_state=0,
    ).fit(X, classes)
    assert {shape[1] for shape in seen} == {3}
    assert model.hidden_outputs(X).shape == (len(X), 9)
