"""Operations that a library does at once, or in place: the adapter of torch.

Each function has two forms side by side: that of torch, which saves calls and memory,
and the formula in the terms of the array API standard, for all others. What it writes
over is said in its first line.
"""

from __future__ import annotations

import sys
from typing import Any

Array = Any


class InPlace:
    """torch's namespace, for the functions below to take torch's form.

    What torch itself has as the standard says is called without a wrapper.
    """

    def __init__(self, xp: Any) -> None:
        torch: Any = sys.modules["torch"]
        self.compat, self.clip, self.astype = xp, torch.clamp, torch.Tensor.to
        names = "where", "reshape", "sum", "concat", "stack", "sqrt"
        vars(self).update({name: getattr(torch, name) for name in names})

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.compat, name)
        setattr(self, name, found)
        return found


# ---- The network -------------------------------------------------------------------


def affine(xp: Any, x: Array, W: Array, b: Array) -> Array:
    """``x W + b``."""
    if isinstance(xp, InPlace):
        return xp.addmm(b, x, W)
    return x @ W + b


def rectified(xp: Any, z: Array) -> Array:
    """Write 0 over what is below it in `z`."""
    if isinstance(xp, InPlace):
        return z.relu_()
    return xp.where(z <= 0, xp.zeros_like(z), z)


def rectified_backward(xp: Any, a: Array, delta: Array) -> Array:
    """Write 0 over `delta` where `a` is 0."""
    if isinstance(xp, InPlace):
        return delta.masked_fill_(a == 0, 0)
    return xp.where(a == 0, xp.zeros_like(delta), delta)


def expit(xp: Any, x: Array) -> Array:
    """Compute the logistic function."""
    if isinstance(xp, InPlace):
        return xp.sigmoid(x)
    return 1 / (1 + xp.exp(-x))


def softmax(xp: Any, x: Array) -> Array:
    """Compute the softmax of each row."""
    if isinstance(xp, InPlace):
        return x.softmax(1)
    e = xp.exp(x - xp.max(x, axis=1, keepdims=True))
    return e / xp.sum(e, axis=1, keepdims=True)


# ---- The solvers -------------------------------------------------------------------


def plus_product(xp: Any, x: Array, factor: Any, a: Array, b: Array) -> Array:
    """``x + factor * a * b``, over `x`."""
    if isinstance(xp, InPlace):
        return x.addcmul_(a, b, value=factor)
    return x + factor * (a * b)


def plus_quotient(xp: Any, x: Array, factor: Any, a: Array, b: Array | None) -> Array:
    """``x + factor * a / b``, over `x`; without `b`, ``x + factor * a``."""
    if isinstance(xp, InPlace):
        return x.add_(a, alpha=factor) if b is None else x.addcdiv_(a, b, value=factor)
    return x + (factor * a if b is None else factor * a / b)


def mix(xp: Any, kept: Array, new: Array, decay: float) -> Array:
    """``decay * kept + (1 - decay) * new``, over `kept`."""
    if isinstance(xp, InPlace):
        return kept.lerp_(new, 1 - decay)
    return decay * kept + (1 - decay) * new


def mix_squares(xp: Any, kept: Array, new: Array, decay: float) -> Array:
    """``decay * kept + (1 - decay) * new ** 2``, over `kept`."""
    if isinstance(xp, InPlace):
        return kept.mul_(decay).addcmul_(new, new, value=1 - decay)
    return decay * kept + (1 - decay) * (new * new)


def root(xp: Any, x: Array, epsilon: float) -> Array:
    """``sqrt(x) + epsilon``."""
    if isinstance(xp, InPlace):
        return xp.sqrt(x).add_(epsilon)
    return xp.sqrt(x) + epsilon


def shrunk(xp: Any, x: Array, reach: Any) -> Array:
    """Move numbers towards 0 by `reach`, and not beyond; NaN stays NaN."""
    moved = x - xp.sign(x) * reach
    return xp.where(xp.abs(x) <= reach, xp.zeros_like(x), moved)
