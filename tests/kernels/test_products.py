"""The products in compiled steps are numpy's, whatever their shapes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skmlp.kernels.products.blas import address_of_gemm, blas_product
from skmlp.kernels.products.gemm import AB, ABT, ATB, tiled_product

PRODUCTS = {"tiles": tiled_product, "blas": blas_product}
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


def multiply(product, A, B, out, kind):
    scratch = np.empty(B.size, B.dtype)
    gemm = address_of_gemm(A.dtype.name)
    PRODUCTS[product](gemm, A, B, out, kind, scratch)


def check(product, A, B, kind):
    dtype = A.dtype
    expected = (A.T if kind == ATB else A) @ (B.T if kind == ABT else B)
    out, border = room(expected.shape, dtype)
    multiply(product, A, B, out, kind)
    eps = np.finfo(dtype).eps
    assert_allclose(out, expected, rtol=100 * eps, atol=100 * eps)
    assert_array_equal(border, np.full(64, 7))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("product", PRODUCTS)
def test_products(product, inner, dtype):
    rng = np.random.default_rng(inner)
    for rows in HEIGHTS:
        for columns in WIDTHS:
            A = rng.normal(size=(rows, inner)).astype(dtype)
            B = rng.normal(size=(inner, columns)).astype(dtype)
            check(product, A, B, AB)
            check(product, A, np.ascontiguousarray(B.T), ABT)
            D = rng.normal(size=(rows, columns)).astype(dtype)
            check(product, A, D, ATB)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("product", PRODUCTS)
def test_what_is_not_finite_stays_in_its_row(product, columns, dtype):
    rng = np.random.default_rng(columns)
    A = rng.normal(size=(9, 5)).astype(dtype)
    B = rng.normal(size=(5, columns)).astype(dtype)
    A[3, 2], A[8, 0] = np.nan, np.inf
    out = np.empty((9, columns), dtype)
    with np.errstate(invalid="ignore"):
        multiply(product, A, B, out, AB)
        expected = A @ B
    finite = np.isfinite(expected)
    assert_array_equal(np.isnan(out), np.isnan(expected))
    assert_array_equal(out[np.isinf(expected)], expected[np.isinf(expected)])
    assert_allclose(out[finite], expected[finite], rtol=1e-4, atol=1e-5)
