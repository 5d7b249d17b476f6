"""Predictions: the compiled pass that threads share, and layer by layer."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skmlp.kernels import step_threads
from skmlp.model import predict

RNG = np.random.default_rng(0)
N_ROWS = 1501  # in blocks, of which the last one is shorter

#: Widths, hidden activations, output activation, columns of its heads.
NETS = {
    "no hidden layer": ((7, 3), [], "softmax", ()),
    "one output": ((7, 11, 1), ["relu"], "logistic", ()),
    "softmax of one output": ((7, 11, 1), ["relu"], "softmax", ()),
    "a hidden layer of one unit": ((7, 5, 1), ["relu"], "gelu", ()),
    "several layers": ((7, 5, 33, 4), ["gelu", "tanh"], "identity", ()),
    "heads": ((7, 11, 9), ["selu"], "softmax_heads", (2, 3, 4)),
    "a hidden layer": ((7, 5, 33), ["relu"], "mish", ()),
}


@pytest.fixture
def n_cores(request, monkeypatch):
    for module in (predict, step_threads):
        for name in ("usable_cores", "blas_threads_allowed"):
            monkeypatch.setattr(module, name, lambda: request.param)
    return request.param


def outputs(net, dtype, monkeypatch, *, threads, X=None, kernels="compiled"):
    units, activations, output, heads = NETS[net]
    rng = np.random.default_rng(1)
    shapes = list(pairwise(units))
    coefs = [rng.normal(size=shape).astype(dtype) for shape in shapes]
    intercepts = [rng.normal(size=width).astype(dtype) for width in units[1:]]
    X = ROWS.astype(dtype) if X is None else X
    monkeypatch.setattr(predict, "_WORTH_THREADS", 0 if threads else np.inf)
    # Several calls of several blocks.
    monkeypatch.setattr(predict, "BLOCK_NUMBERS", 2000)

    def forward(finish=None):
        given = X, coefs, intercepts, activations, output, kernels, heads, finish
        return predict.forward(*given)

    found = forward()
    assert_array_equal(forward(lambda out, rows: out.copy()), found)
    return found


ROWS = RNG.normal(size=(N_ROWS, 7))


@pytest.mark.parametrize("n_cores", [1, 3], indirect=True)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("net", NETS)
def test_both_ways_predict_the_same(net, dtype, n_cores, monkeypatch):
    shared = outputs(net, dtype, monkeypatch, threads=True)
    tolerance = 100 * np.finfo(dtype).eps
    for kernels in ("compiled", "reference"):
        alone = outputs(net, dtype, monkeypatch, threads=False, kernels=kernels)
        assert_allclose(shared, alone, rtol=tolerance, atol=tolerance)
    assert shared.dtype == dtype


@pytest.mark.parametrize("net", NETS)
def test_the_bits_do_not_depend_on_the_threads(net, monkeypatch):
    found = []
    for n_cores in (1, 2, 5):
        for module in (predict, step_threads):
            for name in ("usable_cores", "blas_threads_allowed"):
                monkeypatch.setattr(module, name, lambda n=n_cores: n)
        found.append(outputs(net, np.float64, monkeypatch, threads=True))
    assert_array_equal(found[0], found[1])
    assert_array_equal(found[0], found[2])


@pytest.mark.parametrize(
    "X",
    [
        np.asfortranarray(ROWS),
        ROWS.repeat(2, axis=0)[::2],
        np.round(ROWS).astype(np.int8),
        np.frombuffer(b" " + ROWS.tobytes(), np.uint8)[1:].view("f8").reshape(-1, 7),
    ],
    ids=["Fortran", "strided", "integers", "unaligned"],
)
def test_whatever_rows_come(X, monkeypatch):
    shared = outputs("one output", np.float64, monkeypatch, threads=True, X=X)
    plain = np.array(X, dtype=np.float64, order="C")
    expected = outputs("one output", np.float64, monkeypatch, threads=True, X=plain)
    assert_allclose(shared, expected, rtol=1e-12)


def test_nan_stays(monkeypatch):
    X = ROWS.copy()
    X[1000, 2] = np.nan
    found = outputs("several layers", np.float64, monkeypatch, threads=True, X=X)
    assert_array_equal(np.isnan(found).any(axis=1), np.arange(N_ROWS) == 1000)


def test_only_rows_that_may_not_be_finite_are_checked(monkeypatch):
    monkeypatch.setattr(predict, "_WORTH_THREADS", 0)
    checked = []
    layers = [np.ones((7, 1))], [np.zeros(1)]

    def forward(X):
        return predict.forward(
            X, *layers, [], "identity", "compiled", check=lambda: checked.append(X)
        )

    forward(ROWS)
    assert not checked
    for row in (0, 777, N_ROWS - 1):
        for value in (np.nan, -np.inf):
            X = ROWS.copy()
            X[row, 3] = value
            forward(X)
            assert checked.pop() is X
    assert not checked
