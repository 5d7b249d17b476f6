"""The products of small matrices are numpy's, whatever their shapes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skmlp.kernels.compiled_products import product

DTYPES = [np.float64, np.float32]
#: Around the heights and widths of tiles, for vectors of 32 and of 64 bytes.
HEIGHTS = (1, 3, 4, 5, 8, 9, 33)
WIDTHS = (1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 31, 33, 50)
INNER = (1, 2, 7, 40)


def room(shape, dtype):
    """Memory for a result, and a border behind it that must stay as it is."""
    size = shape[0] * shape[1]
    memory = np.full(size + 64, 7, dtype)
    return memory[:size].reshape(shape), memory[size:]


def check(A, B, transposed):
    dtype = A.dtype
    expected = (A.T if transposed else A) @ B
    out, border = room(expected.shape, dtype)
    product(A, B, out, transposed)
    eps = np.finfo(dtype).eps
    assert_allclose(out, expected, rtol=100 * eps, atol=100 * eps)
    assert_array_equal(border, np.full(64, 7))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inner", INNER)
def test_products(inner, dtype):
    rng = np.random.default_rng(inner)
    for rows in HEIGHTS:
        for columns in WIDTHS:
            A = rng.normal(size=(rows, inner)).astype(dtype)
            B = rng.normal(size=(inner, columns)).astype(dtype)
            check(A, B, False)
            D = rng.normal(size=(rows, columns)).astype(dtype)
            check(A, D, True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", WIDTHS)
def test_what_is_not_finite_stays_in_its_row(columns, dtype):
    rng = np.random.default_rng(columns)
    A = rng.normal(size=(9, 5)).astype(dtype)
    B = rng.normal(size=(5, columns)).astype(dtype)
    A[3, 2], A[8, 0] = np.nan, np.inf
    out = np.empty((9, columns), dtype)
    with np.errstate(invalid="ignore"):
        product(A, B, out, False)
        expected = A @ B
    finite = np.isfinite(expected)
    assert_array_equal(np.isnan(out), np.isnan(expected))
    assert_array_equal(out[np.isinf(expected)], expected[np.isinf(expected)])
    assert_allclose(out[finite], expected[finite], rtol=1e-4, atol=1e-5)
