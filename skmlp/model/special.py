"""Functions that the array API standard lacks, and others in its terms.

`xp` is the namespace of the arrays: numpy, or another one of the standard.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Array = Any


def erf(xp: Any, x: Array) -> Array:
    """Compute the error function."""
    if hasattr(xp, "erf"):
        return xp.erf(x)
    # The import takes a fifth of a second; the compiled kernels do without.
    from scipy import special

    return special.erf(x)


def expit(xp: Any, x: Array) -> Array:
    """Compute the logistic function."""
    return 1 / (1 + xp.exp(-x))


def softplus(xp: Any, x: Array) -> Array:
    """Compute ``log(1 + exp(x))`` without overflow."""
    return xp.where(x < 0, xp.zeros_like(x), x) + xp.log1p(xp.exp(-xp.abs(x)))


def softmax(xp: Any, x: Array) -> Array:
    """Compute the softmax of each row."""
    e = xp.exp(x - xp.max(x, axis=1, keepdims=True))
    return e / xp.sum(e, axis=1, keepdims=True)


def concat(xp: Any, arrays: Sequence[Array]) -> Array:
    """Put columns side by side; numpy has the standard's name since version 2."""
    join = getattr(xp, "concat", None) or xp.concatenate
    return join(arrays, axis=1)


def cumulative_sum(xp: Any, x: Array) -> Array:
    """Add up the columns; numpy has the standard's name since version 2.1."""
    add = getattr(xp, "cumulative_sum", None) or xp.cumsum
    return add(x, axis=1)


def bounded(xp: Any, x: Array, low: float, high: float) -> Array:
    """Keep numbers between two bounds; NaN stays."""
    x = xp.where(x < low, low * xp.ones_like(x), x)
    return xp.where(x > high, high * xp.ones_like(x), x)
