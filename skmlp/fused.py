"""Operations that a library does at once, or in place: the adapter of torch.

Each function has two forms side by side: that of torch, which saves calls and memory,
and the formula in the terms of the array API standard, for all others. What it writes
over is said in its first line.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

Array = Any


class InPlace:
    """torch's namespace, for the functions below to take torch's form.

    What torch itself has as the standard says is called without a wrapper.
    """

    def __init__(self, xp: Any, device: Any) -> None:
        torch: Any = sys.modules["torch"]
        self.compat, self.clip, self.astype = xp, torch.clamp, torch.Tensor.to
        self.sum, self.stack, self.where = torch.sum, torch.stack, torch.where
        no = {"weight_decay": 0.0, "amsgrad": False, "maximize": False}
        # Of torch's own optimizers, not public: where it is missing, the formula does.
        fused: Any = getattr(torch, "_fused_adam_", None)
        self.fused_adam = fused and partial(fused, **no)
        self.kept_above = torch.ops.aten.threshold_backward.grad_input
        # The corrections of torch's moments, of so many steps, are 1.
        self.endless = torch.tensor(float("inf"), device=device)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.compat, name)
        setattr(self, name, found)
        return found


def parts(xp: Any, x: Array, ends: Sequence[int]) -> Sequence[Array]:
    """Cut rows where each part ends, after a 0."""
    if len(ends) == 2:
        return [x]
    if isinstance(xp, InPlace):
        return [*x.tensor_split(ends[1:-1])]
    return [x[start:stop, ...] for start, stop in pairwise(ends)]


def squared(arrays: Sequence[Array]) -> Array:
    """The squared norm of some vectors together."""
    first, *others = [x @ x for x in arrays]
    return sum(others, first)


def scaled(xp: Any, x: Array, by: Any) -> Array:
    """``x * by``, over `x`."""
    return x.mul_(by) if isinstance(xp, InPlace) else x * by


# ---- The network -------------------------------------------------------------------


def affine(xp: Any, x: Array, W: Array, b: Array) -> Array:
    """``x W + b``."""
    return xp.addmm(b, x, W) if isinstance(xp, InPlace) else x @ W + b


def affine_backward(xp: Any, x: Array, delta: Array, out: Any) -> tuple[Array, Array]:
    """The gradient by `W` and `b`, over the pair `out`."""
    if isinstance(xp, InPlace):
        return xp.mm(x.T, delta, out=out[0]), xp.sum(delta, 0, out=out[1])
    return x.T @ delta, xp.sum(delta, axis=0)


def joined(xp: Any, arrays: Sequence[Array], out: Array | None) -> Array:
    """All numbers of some arrays; `out`, if they were written there."""
    if isinstance(xp, InPlace):
        return out
    arrays = [xp.reshape(array, (-1,)) for array in arrays]
    if not hasattr(arrays[0], "at"):
        return xp.concat(arrays)
    # What JAX compiles of `concat` asks of each number which part it is of.
    ends = [*accumulate(array.size for array in arrays)]
    flat = xp.zeros(ends[-1], arrays[0].dtype)
    for end, array in zip(ends, arrays, strict=True):
        flat = flat.at[end - array.size : end].set(array)
    return flat


def rectified(xp: Any, z: Array) -> Array:
    """Write 0 over what is below it in `z`."""
    if isinstance(xp, InPlace):
        return z.relu_()
    return xp.where(z <= 0, xp.zeros_like(z), z)


def rectified_backward(xp: Any, a: Array, delta: Array) -> Array:
    """Write 0 over `delta` where `a` is 0."""
    if isinstance(xp, InPlace):
        return xp.kept_above(delta, a, 0, grad_input=delta)
    return xp.where(a == 0, xp.zeros_like(delta), delta)


def expit(xp: Any, x: Array) -> Array:
    """Compute the logistic function."""
    return xp.sigmoid(x) if isinstance(xp, InPlace) else 1 / (1 + xp.exp(-x))


def softmax(xp: Any, x: Array) -> Array:
    """Compute the softmax of each row."""
    if isinstance(xp, InPlace):
        return x.softmax(1)
    e = xp.exp(x - xp.max(x, axis=1, keepdims=True))
    return e / xp.sum(e, axis=1, keepdims=True)


def times_log(xp: Any, x: Array, p: Array) -> Array:
    """``x * log(p)``, for `p` above 0."""
    return xp.xlogy(x, p) if isinstance(xp, InPlace) else x * xp.log(p)


# ---- The solvers -------------------------------------------------------------------


def plus_first(xp: Any, x: Array, factor: Any, a: Array) -> Array:
    """Add ``factor * a`` to the first numbers of `x`, over `x`."""
    n = a.shape[0]
    first = plus_quotient(xp, x[:n], factor, a)
    return x if isinstance(xp, InPlace) else xp.concat([first, x[n:]])


def plus_quotient(xp: Any, x: Array, by: Any, a: Array, b: Any = None) -> Array:
    """``x + by * a / b``, over `x`; without `b`, ``x + by * a``."""
    if isinstance(xp, InPlace):
        return x.add_(a, alpha=by) if b is None else x.addcdiv_(a, b, value=by)
    return x + (by * a if b is None else by * a / b)


def mix(xp: Any, kept: Array, new: Array, decay: float) -> Array:
    """``decay * kept + (1 - decay) * new``, over `kept`."""
    return plus_quotient(xp, scaled(xp, kept, decay), 1 - decay, new)


def adam(xp: Any, x: Array, gradient: Array, moments: Any, *numbers: float) -> Any:
    """Adam's step over `x` and both moments, of rate, decays and epsilon."""
    if isinstance(xp, InPlace) and xp.fused_adam is not None:
        lists = ([array] for array in (x, gradient, *moments))
        options = dict(zip(("lr", "beta1", "beta2", "eps"), numbers, strict=True))
        xp.fused_adam(*lists, [], [xp.endless], **options)
        return x, moments
    rate, beta_1, beta_2, epsilon = numbers
    first = mix(xp, moments[0], gradient, beta_1)
    second = mix(xp, moments[1], gradient * gradient, beta_2)
    added = plus_quotient(xp, x, -rate, first, xp.sqrt(second) + epsilon)
    return added, (first, second)


def shrunk(xp: Any, x: Array, reach: Any) -> Array:
    """Move numbers towards 0 by `reach`, and not beyond, over `x`; NaN stays NaN."""
    return plus_quotient(xp, x, -1.0, xp.clip(x, -reach, reach))
