"""Masks are functions of key, step, layer, row and unit; a step with them is a step."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from skmlp import MLPClassifier, MLPRegressor
from skmlp import kernels as kernel_sets
from skmlp.kernels import compiled, masks, reference
from skmlp.model.dropout import Dropout
from skmlp.model.initializers import uniform
from skmlp.model.layout import Layout
from skmlp.model.network import Network, SparseRows
from tests.model.plans import plan_of

KERNELS = pytest.mark.parametrize("kernels", [compiled, reference])
FLOAT64 = np.dtype(np.float64)
KEY = (0x12345678, 0x9ABCDEF0)
ROWS = np.array([0, 3, 2**31, 2**33 + 5, 2**47, 7], np.int64)
RATE = 0.3
SETTINGS = (round(RATE * 2**32), 1 / (1 - RATE))

#: Counter, key and result: lines for philox4x32, 10 rounds, of the known answers
#: (kat_vectors) that come with Random123, the authors' library.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter, key, expected):
    words = [np.uint64(int(w, 16)) for w in counter.split()]
    keys = [np.uint64(int(w, 16)) for w in key.split()]
    answer = [int(w, 16) for w in expected.split()]
    assert list(masks.philox(*words, *keys)) == answer
    arrays = [np.array([w]) for w in words]
    assert [int(w[0]) for w in reference.philox(*arrays, *map(int, keys))] == (answer)


def mask_of(kernels, rows, width, step=5, layer=1, key=KEY, dtype=FLOAT64):
    mask = np.full((len(rows), width), 7, dtype)
    stream = np.array([*key, step], np.uint64)
    kernels.dropout_mask(mask, rows, stream, layer, *SETTINGS)
    return mask


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 10])
def test_twins_have_the_same_bits(width, dtype):
    one, other = (
        mask_of(k, ROWS, width, dtype=np.dtype(dtype)) for k in (compiled, reference)
    )
    assert_array_equal(one, other)


@KERNELS
def test_a_mask_depends_on_the_numbers_alone(kernels):
    whole = mask_of(kernels, ROWS, 9)
    assert_array_equal(mask_of(kernels, ROWS[::-1].copy(), 9), whole[::-1])
    assert_array_equal(mask_of(kernels, ROWS, 6), whole[:, :6])
    others = [
        mask_of(kernels, ROWS + 1, 9),
        mask_of(kernels, ROWS, 9, step=6),
        mask_of(kernels, ROWS, 9, layer=2),
        mask_of(kernels, ROWS, 9, key=(KEY[0], KEY[1] + 1)),
    ]
    for other in others:
        assert (other != whole).any()


@KERNELS
def test_the_share_that_is_dropped(kernels):
    mask = mask_of(kernels, np.arange(1000), 101)
    assert set(np.unique(mask)) == {0.0, SETTINGS[1]}
    # Six standard deviations of the count.
    assert abs((mask == 0).mean() - RATE) < 6 * np.sqrt(RATE * (1 - RATE) / mask.size)
    assert_allclose(mask.mean(), 1, atol=0.02)


@KERNELS
def test_stored_elements_are_dropped_like_features(kernels):
    X = sparse.random_array((40, 11), density=0.4, format="csr", rng=0)
    rows = np.array([5, 0, 39, 5], np.intp)
    numbers = np.array([5, 0, 39, 6], np.int64)
    dropout = Dropout((RATE,), (11,), KEY, kernels, FLOAT64, 4)
    dropout.begin(9, numbers)
    dense = dropout.features(X.toarray()[rows]).copy()
    picked = dropout.features(SparseRows((X.data, X.indices, X.indptr), rows, 11))
    n_stored = picked.parts[2][-1]
    data, indices = picked.parts[0][:n_stored], picked.parts[1][:n_stored]
    stored = sparse.csr_array((data, indices, picked.parts[2]), (4, 11))
    assert_array_equal(stored.toarray(), dense)
    assert 0 < np.count_nonzero(dense) < np.count_nonzero(X.toarray()[rows])


@pytest.mark.parametrize("kernels", ["reference", "compiled"])
@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_gradient_is_numeric_gradient(activation, kernels):
    rates, units = (0.3, 0.0, 0.5), (6, 5, 8, 3)
    layout, hidden = Layout(units), (activation,) * 2
    loaded = kernel_sets.load(kernels)
    dropout = Dropout(rates, units[:-1], KEY, loaded, FLOAT64, 20)
    net = Network(plan_of(layout, hidden, kernels=kernels), 20, dropout)
    params = uniform(layout, hidden, np.random.RandomState(0), FLOAT64)
    rng = np.random.default_rng(2)
    X, y, w = rng.normal(size=(20, 6)), rng.normal(size=(20, 3)), rng.uniform(0, 2, 20)
    gradient, direction = np.empty_like(params), rng.normal(size=params.size)
    dropout.begin(3, np.arange(20))

    def value(at):
        return net.bind(layout.views(at), layout.views(gradient))(X, y, w)

    h = 1e-6
    slope = (value(params + h * direction) - value(params - h * direction)) / (2 * h)
    loss = value(params)
    assert_allclose(gradient @ direction, slope, rtol=1e-6)
    dropout.begin(4, np.arange(20))
    assert value(params) != loss


def test_off_in_predict_and_off_by_default():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 4)), rng.integers(0, 3, 60)
    plain, zero, some = (
        MLPClassifier(8, max_iter=3, random_state=0, **params).fit(X, y)
        for params in ({}, {"dropout": [0.0], "input_dropout": 0.0}, {"dropout": 0.5})
    )
    for one, other in zip(plain.coefs_, zero.coefs_, strict=True):
        assert_array_equal(one, other)
    assert (plain.coefs_[0] != some.coefs_[0]).any()
    assert_array_equal(some.predict_proba(X), some.predict_proba(X))


def test_pieces_go_on_with_the_masks():
    """On the same data, k calls of partial_fit are one fit of k epochs."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 4)), rng.normal(size=60)
    params = {"batch_size": 16, "random_state": 3, "dropout": 0.4}
    whole = MLPRegressor("squared_error", 8, max_iter=4, **params).fit(X, y)
    pieces = MLPRegressor("squared_error", 8, **params)
    for _ in range(4):
        pieces.partial_fit(X, y)
    for one, other in zip(whole.coefs_, pieces.coefs_, strict=True):
        assert_allclose(one, other, rtol=1e-12)


@pytest.mark.parametrize("rates", [[0.1], [0.1, 1.0], [0.1, None], (0.1, 0.2, 0.3)])
def test_bad_rates(rates):
    with pytest.raises(ValueError, match="dropout"):
        MLPRegressor(hidden_layer_sizes=(4, 4), dropout=rates).fit([[0.0]], [0.0])
