"""Losses of which some targets are missing: they add nothing, the others the same."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skmlp.kernels import compiled, reference
from skmlp.model.losses import LOSSES, kernel_of
from tests.kernels.test_twins import DTYPES, PARAMETERS, ROWS, WIDTH, numbers, targets


@pytest.fixture(autouse=True)
def _overflow_is_expected():
    with np.errstate(all="ignore"):
        yield


def loss_of(kernels, name, masked=False):
    return kernel_of(name, PARAMETERS.get(name, ()), kernels, masked)


#: Those whose targets may be missing, as NaN.
REAL = [name for name in LOSSES if LOSSES[name].target == "real"]


def gaps(y, share):
    """Targets of which so many, about, are missing; with 1 all."""
    missing = np.random.default_rng(6).random(y.shape) < share
    missing[4] = share > 0  # a row without any
    return np.where(missing, y.dtype.type(np.nan), y)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("name", REAL)
def test_missing_targets_add_nothing(name, share, weighted, dtype):
    """Neither to the loss nor to any gradient; the others what they add alone."""
    z = numbers(dtype, odd=False) / 8
    b = numbers(dtype, odd=False, seed=1)[0] / 8
    every, w = targets(name, dtype), np.linspace(0, 2, ROWS * weighted).astype(dtype)
    y = gaps(every, share)
    if share:  # a prediction of theirs that overflows does no harm
        z[4] = 1e30
    known = np.broadcast_to(~np.isnan(y), z.shape)
    expected, total = np.zeros_like(z), 0.0
    for i in range(ROWS):
        step = WIDTH // y.shape[1]
        for j in np.flatnonzero(~np.isnan(y[i])):
            at = slice(j * step, (j + 1) * step)
            room, grad = z[i : i + 1, at].copy(), np.empty(step, dtype)
            total += loss_of(reference, name)(
                *(room, b[at], every[i : i + 1, j : j + 1], w[i : i + weighted]),
                grad,
            )
            expected[i, at] = room[0]
    eps = np.finfo(dtype).eps
    for kernels in (compiled, reference):
        delta, grad = z.copy(), np.full(WIDTH, 7, dtype)
        masked = loss_of(kernels, name, masked=True)
        for _ in range(2):  # its room is used again
            delta[:] = z
            loss = masked(delta, b, y, w, grad)
        assert (delta[~known] == 0).all()
        assert_allclose(delta, expected, rtol=200 * eps, atol=50 * eps)
        assert_allclose(grad, delta.sum(axis=0), rtol=500 * eps, atol=500 * ROWS * eps)
        assert_allclose(loss, total, rtol=1e-4 if dtype == np.float32 else 1e-11)
        if share == 0.0:
            alone, its_grad = z.copy(), np.empty(WIDTH, dtype)
            plain = loss_of(kernels, name)
            assert plain(alone, b, y, w, its_grad) == loss
            assert_array_equal(alone, delta)
            assert_array_equal(its_grad, grad)


@pytest.mark.parametrize("name", REAL)
def test_the_gradient_is_the_numeric_one(name):
    z, y = numbers(np.float64, odd=False) / 40, gaps(targets(name, np.float64), 0.4)
    b, w = np.zeros(WIDTH), np.linspace(0.5, 2, ROWS)
    direction = np.random.default_rng(4).normal(size=z.shape)
    for kernels in (compiled, reference):

        def loss(at, kernels=kernels):
            room, kernel = at.copy(), loss_of(kernels, name, masked=True)
            value = kernel(room, b, y, w, np.empty(WIDTH))
            return value, room

        h = 1e-5
        slope = (loss(z + h * direction)[0] - loss(z - h * direction)[0]) / (2 * h)
        assert_allclose((loss(z)[1] * direction).sum(), slope, rtol=1e-7)
