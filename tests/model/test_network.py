"""The network's gradient is the numeric gradient, whatever the net, rows or kernels."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from skmlp import kernels as kernel_sets
from skmlp.model.activations import ACTIVATIONS, kernels_of
from skmlp.model.initializers import uniform
from skmlp.model.layout import Layout
from skmlp.model.losses import LOSSES
from skmlp.model.network import Network, SparseRows, multiplications
from tests.model.plans import plan_of

ROWS, FEATURES, OUTPUTS = 11, 6, 4
FLOAT64 = np.dtype(np.float64)


def targets(loss):
    rng = np.random.default_rng(1)
    kind = LOSSES[loss].target
    if kind == "codes":
        return rng.integers(0, OUTPUTS, ROWS).astype(np.int32)
    if kind == "indicator":
        return rng.integers(0, 2, (ROWS, OUTPUTS)).astype(np.uint8)
    if kind == "heads":
        return rng.integers(0, HEADS, (ROWS, len(HEADS))).astype(np.int32)
    if loss == "quantiles":
        return rng.normal(size=(ROWS, 1))
    return rng.poisson(1.0, (ROWS, OUTPUTS)) + (LOSSES[loss].takes == "positive") / 2


#: Columns of the heads of the output layer.
HEADS = (2, 1, 1)
SETTINGS = {
    "huber": (0.7,),
    "quantile": (0.2,),
    "quantiles": (0.1, 0.4, 0.5, 0.8),
    "smoothed_softmax_log_loss": (0.1,),
    "smoothed_logistic_log_loss": (0.1,),
    "softmax_heads_log_loss": (0.1, *HEADS),
}


def make(hidden=(5, 3), activation="tanh", loss="squared_error", **fields):
    layout = Layout((FEATURES, *hidden, OUTPUTS))
    activations = (activation,) * len(hidden)
    fields["loss_settings"] = SETTINGS.get(loss, ())
    net = Network(plan_of(layout, activations, loss, **fields), ROWS)
    params = uniform(layout, activations, np.random.RandomState(0), FLOAT64)
    return net, layout, params


@pytest.mark.parametrize("kernels", ["reference", "compiled"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden", [(), (5,), (5, 3)])
def test_gradient_is_numeric_gradient(hidden, activation, loss, kernels):
    net, layout, params = make(hidden, activation, loss, kernels=kernels)
    rng = np.random.default_rng(2)
    X, y, w = rng.normal(size=(ROWS, FEATURES)), targets(loss), rng.uniform(0, 2, ROWS)
    gradient = np.empty_like(params)

    def value(at):
        return net.bind(layout.views(at), layout.views(gradient))(X, y, w)

    direction = rng.normal(size=params.size)
    h = 1e-6
    slope = (value(params + h * direction) - value(params - h * direction)) / (2 * h)
    value(params)
    assert_allclose(gradient @ direction, slope, rtol=1e-6)


@pytest.mark.parametrize("kernels", ["reference", "compiled"])
@pytest.mark.parametrize("weighted", [False, True])
def test_parts_of_rows_add_up(weighted, kernels):
    net, layout, params = make(loss="softmax_log_loss", kernels=kernels)
    rng = np.random.default_rng(3)
    X, y = rng.normal(size=(ROWS, FEATURES)), targets("softmax_log_loss")
    w = rng.uniform(0, 2, ROWS if weighted else 0)
    views = layout.views(params)
    whole = np.empty_like(params)
    loss = net.bind(views, layout.views(whole))(X, y, w)
    total, sum_of_losses = np.zeros_like(params), 0.0
    for part in (slice(0, 1), slice(1, 7), slice(7, ROWS)):
        gradient = np.empty_like(params)
        sum_of_losses += net.bind(views, layout.views(gradient))(
            X[part], y[part], w[part]
        )
        total += gradient
    assert_allclose(total, whole, rtol=1e-12, atol=1e-14)
    assert_allclose(sum_of_losses, loss, rtol=1e-13)


@pytest.mark.parametrize("kernels", ["reference", "compiled"])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_weight_is_a_count(loss, kernels):
    net, layout, params = make(loss=loss, kernels=kernels)
    rng = np.random.default_rng(4)
    X, y = rng.normal(size=(4, FEATURES)), targets(loss)[:4]
    counts = np.array([0, 1, 2, 3])
    views = layout.views(params)
    weighted, repeated = np.empty_like(params), np.empty_like(params)
    one = net.bind(views, layout.views(weighted))(X, y, counts.astype(float))
    X, y = np.repeat(X, counts, axis=0), np.repeat(y, counts, axis=0)
    other = net.bind(views, layout.views(repeated))(X, y, np.empty(0))
    assert_allclose(one, other, rtol=1e-13)
    assert_allclose(weighted, repeated, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kernels", ["reference", "compiled"])
def test_sparse_rows_are_rows(kernels):
    net, layout, params = make(kernels=kernels)
    X = sparse.random(30, FEATURES, 0.4, "csr", random_state=0)
    rows = np.array([3, 3, 0, 29, 7], dtype=np.intp)
    y, w = targets("squared_error")[:5], np.empty(0)
    views = layout.views(params)
    one, other = np.empty_like(params), np.empty_like(params)
    picked = SparseRows((X.data, X.indices, X.indptr), rows, FEATURES)
    a = net.bind(views, layout.views(one))(picked, y, w)
    b = net.bind(views, layout.views(other))(X.toarray()[rows], y, w)
    assert_allclose(a, b, rtol=1e-13)
    assert_allclose(one, other, rtol=1e-12, atol=1e-14)
    assert_allclose(
        net.forward(views, picked).copy(), net.forward(views, X.toarray()[rows])
    )


def of_name(name):
    return kernels_of(name, kernel_sets.load("reference"))[0]


def test_every_layer_has_its_own_activation():
    activations = ("gelu", "tanh", "relu", "silu")
    layout = Layout((FEATURES, 5, 4, 3, 6, OUTPUTS))
    params = uniform(layout, activations, np.random.RandomState(0), FLOAT64)
    X = np.random.default_rng(2).normal(size=(ROWS, FEATURES))
    views = layout.views(params)
    a = X
    for (W, b), name in zip(views, (*activations, "identity"), strict=True):
        a = a @ W
        of_name(name)(a, b)
    for kernels in ("reference", "compiled"):
        net = Network(plan_of(layout, activations, kernels=kernels), ROWS)
        assert_allclose(net.forward(views, X), a, rtol=1e-12)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_first_weights_suit_the_activation(name):
    """A rule by fan-in keeps the second moment of standard normal raw values."""
    rule = ACTIVATIONS[name]
    if rule.init_fan == "both":
        assert rule.bound(20, 30) == np.sqrt(rule.init_factor / 50)
        return
    z = np.linspace(-12, 12, 100_001)[:, None]
    density = np.exp(-0.5 * z**2)
    of_name(name)(z, np.zeros(1))
    moment = (z**2 * density).sum() / density.sum()
    assert_allclose(rule.bound(20, 30) ** 2 / 3 * 20 * moment, 1, rtol=1e-4)


def test_layout_packs_what_it_views():
    layout = Layout((3, 4, 2))
    flat = np.arange(layout.size, dtype=float)
    views = layout.views(flat)
    assert [(W.shape, b.shape) for W, b in views] == [((3, 4), (4,)), ((4, 2), (2,))]
    assert sum(W.size for W, _ in views) == layout.n_weights
    packed = layout.pack([W for W, _ in views], [b for _, b in views], FLOAT64)
    assert_array_equal(packed, flat)
    views[0][0][0, 0] = -1
    assert flat[0] == -1


def test_multiplications():
    # Forward 12 + 8, gradients by weights as many, by the hidden layer 8.
    assert multiplications((3, 4, 2)) == 20 + 20 + 8


@pytest.mark.parametrize("kind", ["dense", "csr"])
@pytest.mark.parametrize("activation", ["tanh", "gelu"])
@pytest.mark.parametrize("frozen", [(0,), (1,), (0, 1), (2,), (0, 2), (0, 1, 2)])
def test_frozen_layers_cost_no_gradient(frozen, activation, kind):
    """Theirs is not computed, nor what only layers below the trained ones need."""
    rng = np.random.default_rng(2)
    X, y = rng.normal(size=(ROWS, FEATURES)), rng.normal(size=(ROWS, OUTPUTS))
    if kind == "csr":
        X = sparse.csr_matrix(X)
        parts = X.data, X.indices, X.indptr
        X = SparseRows(parts, np.arange(ROWS), FEATURES)
    found = []
    for without in ((), frozen):
        net, layout, params = make(activation=activation, frozen=without)
        gradient = np.full_like(params, 7.0)
        for delta in net._deltas:
            delta.fill(7.0)
        out = layout.views(gradient)
        loss = net.bind(layout.views(params), out)(X, y, np.empty(0))
        found.append((loss, out, net._deltas))
    (loss, every, _), (other, some, deltas) = found
    assert loss == other
    trained = set(range(3)) - set(frozen)
    for layer in range(3):
        if layer in trained:
            assert_array_equal(some[layer][0], every[layer][0])
            assert_array_equal(some[layer][1], every[layer][1])
        else:
            assert (some[layer][0] == 7).all()
    for layer, delta in enumerate(deltas):
        assert (delta == 7).all() == (layer < min(trained, default=3))
