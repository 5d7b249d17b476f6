"""The compiled kernels do what the formulas in numpy do, whatever comes in."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from skmlp.fused import plus_quotient, shrunk
from skmlp.kernels import activations as kernels_of_activations
from skmlp.kernels import compiled, reference
from skmlp.model import activations
from skmlp.model.activations import ACTIVATIONS, kernels_of
from skmlp.model.losses import LOSSES, OUTPUT_ACTIVATIONS, kernel_of, output_of
from skmlp.optim.solvers import SOLVERS

DTYPES = [np.float64, np.float32]
ROWS, WIDTH = 37, 19
ODD = [0.0, -0.0, np.nan, np.inf, -np.inf, 1e-300, -1e-30, 710.0, -746.0, 89.0, -104.0]


def close(mine, other, dtype, scale=1):
    assert mine.dtype == dtype
    eps = np.finfo(dtype).eps
    assert_allclose(mine, other, rtol=40 * scale * eps, atol=scale * 1e3 * eps)


def numbers(dtype, *, odd, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(ROWS, WIDTH)) * rng.choice([1e-6, 1, 30], (ROWS, 1))
    if odd:
        values[::5, ::3].flat[: len(ODD)] = ODD
    with np.errstate(over="ignore", under="ignore"):
        return values.astype(dtype)


@pytest.fixture(autouse=True)
def _overflow_is_expected():
    with np.errstate(all="ignore"):
        yield


def test_same_names():
    assert set(compiled.FORWARD) == set(ACTIVATIONS) | set(OUTPUT_ACTIVATIONS)
    of_value = {name for name in ACTIVATIONS if ACTIVATIONS[name].of_value}
    assert set(compiled.BACKWARD) == of_value
    assert set(compiled.DERIVING) == set(ACTIVATIONS) - of_value
    assert {loss.output for loss in LOSSES.values()} <= set(OUTPUT_ACTIVATIONS)
    assert set(compiled.LOSS) == set(LOSSES)
    assert set(compiled.STEP) == set(SOLVERS)
    for name in ("LEAK", "SELU_ALPHA", "SELU_SCALE"):
        assert getattr(kernels_of_activations, name) == getattr(activations, name)


def forward_of(name, kernels):
    if name in OUTPUT_ACTIVATIONS:
        heads = HEADS if name == "softmax_heads" else ()
        return output_of(name, heads, kernels)
    return kernels_of(name, kernels)[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("name", compiled.FORWARD)
def test_forward(name, odd, dtype):
    z = numbers(dtype, odd=odd)
    b = numbers(dtype, odd=False, seed=1)[0]
    mine, other = z.copy(), z.copy()
    forward_of(name, compiled)(mine, b)
    forward_of(name, reference)(other, b)
    eps = np.finfo(dtype).eps
    # exp(x) magnifies the rounding of x by x itself.
    scale = {"softmax": 130, "softmax_heads": 130, "gelu": 8}.get(name, 1)
    # Known to the last bit of 1: the error function, and what 1/2 is added to.
    atol = {"gelu": 40, "hard_sigmoid": 2}.get(name, 0) * eps
    if name == "softplus":
        atol = np.finfo(dtype).tiny  # below, numbers lose bits
    assert_allclose(mine, other, rtol=4 * eps * scale, atol=atol)
    assert mine.dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("name", compiled.DERIVING)
def test_deriving(name, odd, dtype):
    z = numbers(dtype, odd=odd)
    b = numbers(dtype, odd=False, seed=1)[0]
    found = []
    for kernels in (compiled, reference):
        forward, deriving, backward = kernels_of(name, kernels)
        a, d, alone = z.copy(), np.full_like(z, 7), z.copy()
        deriving(a, b, d)
        forward(alone, b)
        assert_allclose(a, alone, rtol=8 * np.finfo(dtype).eps)
        derivative = np.ones_like(z)
        backward(d, derivative, np.empty_like(b))
        found.append((a, derivative))
    for mine, other in zip(*found, strict=True):
        close(mine, other, dtype)


@pytest.mark.parametrize("kernels", [compiled, reference])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_derivative_is_the_numeric_one(name, kernels):
    z = np.linspace(-4.03, 4.01, ROWS * WIDTH).reshape(ROWS, WIDTH)
    b, h = np.zeros(WIDTH), 1e-6
    forward, deriving, backward = kernels_of(name, kernels)
    sides = [z - h, z + h]
    for side in sides:
        forward(side, b)
    a, delta, d = z.copy(), np.ones_like(z), np.empty_like(z)
    if deriving is None:
        forward(a, b)
    else:
        deriving(a, b, d)
    backward(a if deriving is None else d, delta, np.empty(WIDTH))
    assert_allclose(delta, (sides[1] - sides[0]) / (2 * h), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("name", compiled.BACKWARD)
def test_backward(name, odd, dtype):
    a, delta = numbers(dtype, odd=odd), numbers(dtype, odd=odd, seed=2)
    a[::4, ::2] = 0
    grads = [np.full(WIDTH, 7, dtype) for _ in range(2)]
    deltas = [delta.copy() for _ in range(2)]
    for kernels, d, grad in zip((compiled, reference), deltas, grads, strict=True):
        kernels_of(name, kernels)[2](a, d, grad)
    close(deltas[0], deltas[1], dtype)
    finite = np.isfinite(grads[1])
    assert_array_equal(np.isfinite(grads[0]), finite)
    magnitude = np.abs(deltas[1]).sum(axis=0)
    error = np.abs(grads[0] - grads[1])[finite]
    assert (error <= ROWS * np.finfo(dtype).eps * magnitude[finite]).all()


def targets(loss, dtype):
    rng = np.random.default_rng(3)
    kind = LOSSES[loss].target
    if kind == "codes":
        return rng.integers(0, WIDTH, ROWS).astype(np.int32)
    if kind == "indicator":
        return rng.integers(0, 2, (ROWS, WIDTH)).astype(np.uint8)
    if kind == "heads":
        return rng.integers(0, HEADS, (ROWS, len(HEADS))).astype(np.int32)
    if loss == "quantiles":
        return rng.normal(3.0, 3.0, (ROWS, 1)).astype(dtype)
    # No error of 0, where some losses have a kink.
    smallest = 0 if LOSSES[loss].takes == "not negative" else 0.3
    return rng.poisson(1.0, (ROWS, WIDTH)).astype(dtype) + dtype(smallest)


#: Columns of the heads of the output layer.
HEADS = (3, 1, 2, 13)
#: What losses with a parameter are handed.
PARAMETERS = {
    "huber": (0.7,),
    "quantile": (0.2,),
    "quantiles": tuple(np.arange(1, WIDTH + 1) / (WIDTH + 1)),
    "smoothed_softmax_log_loss": (0.1,),
    "smoothed_logistic_log_loss": (0.1,),
    "softmax_heads_log_loss": (0.1, *HEADS),
}
#: All losses, and one that a parameter makes simpler.
LOSS_CASES = [
    *((name, PARAMETERS.get(name, ())) for name in compiled.LOSS),
    ("softmax_heads_log_loss", (0.0, *HEADS)),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("name", "settings"), LOSS_CASES)
def test_loss(name, settings, weighted, odd, dtype):
    z = numbers(dtype, odd=False) / 8
    if odd:
        z[3, 4], z[5, 6], z[7, 8] = np.nan, np.inf, -np.inf
    b = numbers(dtype, odd=False, seed=1)[0] / 8
    y = targets(name, dtype)
    w = np.linspace(0, 2, ROWS if weighted else 0).astype(dtype)
    found = []
    for kernels in (compiled, reference):
        delta, grad = z.copy(), np.full(WIDTH, 7, dtype)
        kernel = kernel_of(name, settings, kernels)
        loss = kernel(delta, b, y, w, grad)
        found.append((delta, grad, loss))
    (mine, my_grad, my_loss), (other, other_grad, other_loss) = found
    eps = np.finfo(dtype).eps
    assert_allclose(mine, other, rtol=200 * eps, atol=50 * eps)
    assert_allclose(my_grad, other_grad, rtol=500 * eps, atol=500 * ROWS * eps)
    # A row's loss beside a probability of 1 is as uncertain as that probability.
    assert_allclose(my_loss, other_loss, rtol=1e-4 if dtype == np.float32 else 1e-11)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "settings"), LOSS_CASES)
def test_loss_gradient_is_numeric_gradient(name, settings, dtype):
    z, y = numbers(np.float64, odd=False) / 40, targets(name, np.float64)
    b, w = np.zeros(WIDTH), np.linspace(0.5, 2, ROWS)
    rng = np.random.default_rng(4)
    direction = rng.normal(size=z.shape)
    for kernels in (compiled, reference):

        def loss(at, kernels=kernels):
            room = at.copy()
            kernel = kernel_of(name, settings, kernels)
            value = kernel(room, b, y, w, np.empty(WIDTH))
            return value, room

        h = 1e-5
        slope = (loss(z + h * direction)[0] - loss(z - h * direction)[0]) / (2 * h)
        assert_allclose((loss(z)[1] * direction).sum(), slope, rtol=1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kernels", [compiled, reference])
def test_each_head_is_a_softmax(kernels, weighted, dtype):
    z, b = numbers(dtype, odd=False), numbers(dtype, odd=False, seed=1)[0]
    y = targets("softmax_heads_log_loss", dtype)
    w = np.linspace(0, 2, ROWS if weighted else 0).astype(dtype)
    for share, loss in ((0.0, "softmax_log_loss"), (0.2, "smoothed_softmax_log_loss")):
        both, grad = z.copy(), np.empty_like(b)
        settings = (share, *HEADS)
        kernel = kernel_of("softmax_heads_log_loss", settings, kernels)
        total, alone = kernel(both, b, y, w, grad), 0.0
        kernel = kernel_of(loss, (share,) if share else (), kernels)
        ends = np.cumsum(HEADS)
        for head, (start, stop) in enumerate(pairwise((0, *ends))):
            part, of_head = z[:, start:stop].copy(), np.empty(stop - start, dtype)
            codes = y[:, head].copy()
            alone += kernel(part, b[start:stop], codes, w, of_head)
            close(both[:, start:stop], part, dtype)
            close(grad[start:stop], of_head, dtype, scale=10)
        assert_allclose(total, alone, rtol=1e-4 if dtype == np.float32 else 1e-11)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("n_penalised", [0, 100, ROWS * WIDTH])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sgd", {"momentum": 0.9, "nesterovs_momentum": True}),
        ("sgd", {"momentum": 0.9, "nesterovs_momentum": False}),
        ("sgd", {"momentum": 0.0, "nesterovs_momentum": True}),
        ("adam", {"epsilon": 1e-8}),
        ("adam", {"beta_1": 0.0, "beta_2": 0.0, "epsilon": 1e-3}),
        ("adamw", {"weight_decay": 0.01}),
        ("nadam", {}),
        ("rmsprop", {"rho": 0.9}),
        ("adagrad", {}),
    ],
)
def test_steps(name, settings, n_penalised, odd, dtype):
    defaults = {"alpha": 0.01, "l1_ratio": 0.0, "epsilon": 1e-8, "average": None}
    betas = {"beta_1": 0.9, "beta_2": 0.999}
    plan = SimpleNamespace(**{**defaults, **betas, **settings})
    arrays = [numbers(dtype, odd=odd, seed=s).ravel() / 30 for s in range(4)]
    arrays[3] = np.abs(arrays[3])
    n_moments = SOLVERS[name].n_moments
    found = []
    for kernels in (compiled, reference):
        params, total, *moments = (a.copy() for a in arrays)
        moments = moments[2 - n_moments :]
        solver = SOLVERS[name](plan, kernels)
        update = solver.bind(params, total, moments, n_penalised)
        norms = []
        for rate, count in [(0.1, 1), (0.05, 2), (0.05, 1)]:
            total[:] = arrays[1]  # the step spoils it
            norms.append(update(3.0, rate, count))
        found.append((params, *moments, np.array(norms, dtype)))
    for mine, other in zip(*found, strict=True):
        close(mine, other, dtype, scale=20)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("n_penalised", [0, 100, ROWS * WIDTH])
def test_what_goes_with_any_solver(n_penalised, odd, scaled, dtype):
    params, total, second = (
        numbers(dtype, odd=odd, seed=s).ravel() / 30 for s in range(3)
    )
    second = np.abs(second)[: params.size if scaled else 0]
    moved, mean = params.copy(), total.copy()
    compiled.soft_threshold(moved, second, n_penalised, 1e-3, 1e-3)
    reach = 1e-3 / (np.sqrt(second[:n_penalised]) + dtype(1e-3)) if scaled else 1e-3
    close(moved[:n_penalised], shrunk(np, params[:n_penalised], reach), dtype, scale=20)
    assert_array_equal(moved[n_penalised:], params[n_penalised:])
    compiled.move_average(mean, params, 0.3)
    close(mean, plus_quotient(np, total, dtype(0.3), params - total, None), dtype, 20)
    squares = [
        kernels.gradient_norm(params, total, n_penalised, 0.5)
        for kernels in (compiled, reference)
    ]
    close(*np.array(squares, dtype), dtype, scale=20)
    absolute = dtype(compiled.absolute_sum(params, n_penalised))
    close(absolute, np.abs(params[:n_penalised]).sum(), dtype, scale=20)
    if not odd and not scaled:
        lasso = np.sign(params) * np.maximum(np.abs(params) - dtype(1e-3), 0)
        close(moved[:n_penalised], lasso[:n_penalised], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernels", [compiled, reference])
def test_all_finite(kernels, dtype):
    flat = np.linspace(-1, 1, 1001).astype(dtype)
    assert kernels.all_finite(flat)
    for bad in (np.nan, np.inf, -np.inf):
        for place in (0, 500, 1000):
            broken = flat.copy()
            broken[place] = bad
            assert not kernels.all_finite(broken)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernels", [compiled, reference])
def test_products_with_sparse_rows(kernels, dtype):
    X = sparse.random(50, 30, 0.2, "csr", random_state=0).astype(dtype)
    rng = np.random.default_rng(5)
    rows = rng.integers(0, 50, 17).astype(np.intp)
    W = rng.normal(size=(30, 6)).astype(dtype)
    delta = rng.normal(size=(17, 6)).astype(dtype)
    parts = (X.data, X.indices, X.indptr)
    z, grad = np.full((17, 6), 7, dtype), np.full((30, 6), 7, dtype)
    kernels.csr_dot(*parts, rows, W, z)
    kernels.csr_transposed_dot(*parts, rows, delta, grad)
    dense = X.toarray()[rows]
    close(z, dense @ W, dtype)
    close(grad, dense.T @ delta, dtype)
