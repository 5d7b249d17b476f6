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
    a, s = xp.abs(x), x * x
    near = x * _polynomial(s, *_NEAR[0]) / _polynomial(s, *_NEAR[1])
    # Beyond 6 the rest is below the last bit of 1.
    c = bounded(xp, a, 0.0, 6.0)
    rest = xp.exp(-s) * _polynomial(c, *_FAR[0]) / _polynomial(c, *_FAR[1])
    return xp.where(a < 1, near, xp.sign(x) * (1 - rest))


# Of the Cephes library (Moshier, 1989): numerator and denominator, by falling powers.
_NEAR = (
    (9.604973739870516, 90.02601972038427, 2232.005345946843, 7003.325141128051,
     55592.30130103949),
    (1.0, 33.56171416475031, 521.3579497801527, 4594.323829709801, 22629.000061389095,
     49267.39426086359),
)  # fmt: skip
_FAR = (
    (2.461969814735305e-10, 0.5641895648310689, 7.463210564422699, 48.63719709856814,
     196.5208329560771, 526.4451949954773, 934.5285271719576, 1027.5518868951572,
     557.5353353693993),
    (1.0, 13.228195115474499, 86.70721408859897, 354.9377788878199, 975.7085017432055,
     1823.9091668790973, 2246.3376081871097, 1656.6630919416134, 557.5353408177728),
)  # fmt: skip


def _polynomial(x: Array, first: float, *others: float) -> Array:
    value = first
    for number in others:
        value = value * x + number
    return value


def softplus(xp: Any, x: Array) -> Array:
    """Compute ``log(1 + exp(x))`` without overflow."""
    return xp.where(x < 0, xp.zeros_like(x), x) + xp.log1p(xp.exp(-xp.abs(x)))


def concat(xp: Any, arrays: Sequence[Array], axis: int = 1) -> Array:
    """Put columns side by side; numpy has the standard's name since version 2."""
    join = getattr(xp, "concat", None) or xp.concatenate
    return join(arrays, axis=axis)


def of_kind(xp: Any, numbers: Any, x: Array) -> Array:
    """Make an array of numbers with the dtype and the device of `x`."""
    return xp.asarray(numbers, dtype=x.dtype, **_device(xp, x))


def count(xp: Any, n: int, x: Array) -> Array:
    """Count from 0, with the dtype and on the device of `x`."""
    return xp.arange(n, dtype=x.dtype, **_device(xp, x))


def cast(xp: Any, x: Array, dtype: Any) -> Array:
    """Convert to a dtype; numpy has the standard's name since version 2.1."""
    return x.astype(dtype) if hasattr(x, "astype") else xp.astype(x, dtype)


def _device(xp: Any, x: Array) -> dict[str, Any]:
    """Where to make an array; numpy and arrays within a compiled step don't say."""
    device = None if xp.__name__.endswith("numpy") else getattr(x, "device", None)
    return {} if device is None else {"device": device}


def cumulative_sum(xp: Any, x: Array) -> Array:
    """Add up the columns; numpy has the standard's name since version 2.1."""
    add = getattr(xp, "cumulative_sum", None) or xp.cumsum
    return add(x, axis=1)


def bounded(xp: Any, x: Array, low: float, high: float) -> Array:
    """Keep numbers between two bounds; NaN stays."""
    return xp.clip(x, low, high)
