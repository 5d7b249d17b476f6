"""Losses, each fused with its output activation and its gradient.

A loss kernel is handed the last layer's products `z` without bias, the bias `b`, the
targets `y`, the rows' weights `w` of shape (rows,) or (0,), room `grad_b` for the
gradient by the bias, and the loss's `settings`. It writes the gradient by the raw
predictions, times the row's weight, over `z`, and returns the sum of weight times loss.
The formulas are those of `skmlp.model.losses`.
"""

# mypy cannot see what numba infers.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
# mypy: disable-error-code="call-arg, unreachable"

from __future__ import annotations

from collections.abc import Callable
from math import log

import numpy as np

from skmlp.arrays import Array
from skmlp.kernels.activations import logistic_forward
from skmlp.kernels.jit import compiled, inner, named
from skmlp.kernels.math import exp_value, expit_value, log1p_value
from skmlp.kernels.pointers import line

# -- output activations ----------------------------------------------------------------


@compiled
def exp_forward(z: Array, b: Array) -> None:
    """``exp(z + b)``."""
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            z[i, j] = exp_value(z[i, j] + b[j])


@inner
def _softmax(z, b, heads):
    """Write the softmax of ``z + b`` over the columns of each head to `z`."""
    one = z.dtype.type(1)
    for i in range(z.shape[0]):
        start = 0
        for head in heads:
            stop = start + head
            top = z[i, start] + b[start]
            for j in range(start, stop):
                v = z[i, j] + b[j]
                z[i, j] = v
                top = v if v > top else top
            for j in range(start, stop):
                z[i, j] -= top
            start = stop
    # In one line: a row is too short to fill the vectors.
    flat: Array = line(z, 0, z.size)
    for k in range(flat.size):
        flat[k] = exp_value(flat[k])
    for i in range(z.shape[0]):
        start = 0
        for head in heads:
            stop = start + head
            total = z.dtype.type(0)
            for j in range(start, stop):
                total += z[i, j]
            scale = one / total
            for j in range(start, stop):
                z[i, j] *= scale
            start = stop


@compiled
def softmax_forward(z: Array, b: Array) -> None:
    """Softmax of ``z + b`` over the columns."""
    _softmax(z, b, (z.shape[1],))


@compiled
def softmax_heads_forward(z: Array, b: Array, heads: Array) -> None:
    """Softmax of ``z + b`` over the columns of each head."""
    _softmax(z, b, heads)


@inner
def _softplus(v):
    return (0.0 if v < 0.0 else v) + log1p_value(exp_value(-abs(v)))


@compiled
def increasing_forward(z: Array, b: Array) -> None:
    """Each number the softplus of it above the last one."""
    for i in range(z.shape[0]):
        q = float(z[i, 0] + b[0])
        z[i, 0] = q
        for j in range(1, z.shape[1]):
            q += _softplus(float(z[i, j] + b[j]))
            z[i, j] = q


# -- what losses share -----------------------------------------------------------------


@inner
def eps_of(table: Array) -> float:
    """What numpy's ``finfo(table.dtype).eps`` is, which takes long to compile."""
    return 2.0**-23 if table.itemsize == 4 else 2.0**-52


@inner
def _weigh(z: Array, w: Array, grad_b: Array) -> None:
    """Weigh the rows of the gradient and sum them for the bias."""
    grad_b[:] = 0
    for i in range(z.shape[0]):
        if w.size:
            for j in range(z.shape[1]):
                z[i, j] *= w[i]
        for j in range(z.shape[1]):
            grad_b[j] += z[i, j]


def _of_numbers(both: Callable[..., tuple[float, float]]) -> Callable[..., float]:
    """Make the kernel of a loss of each number: ``both(z, v, t, settings)``.

    It is given a raw prediction and its target, and returns loss and derivative.
    """

    def loss(
        z: Array, b: Array, y: Array, w: Array, grad_b: Array, settings: Array
    ) -> float:
        total = 0.0
        for i in range(z.shape[0]):
            value = 0.0
            for j in range(z.shape[1]):
                of_number, z[i, j] = both(z, z[i, j] + b[j], y[i, j], settings)
                value += of_number
            total += value * float(w[i]) if w.size else value
        _weigh(z, w, grad_b)
        return total

    kernel: Callable[..., float] = compiled(named(loss, both))
    return kernel


# -- losses of classes -----------------------------------------------------------------


#: Probabilities, none below eps, that can be multiplied without underflow.
_FACTORS = 16


@inner
def _clip(p, eps):
    """Keep a probability off 0 and 1; NaN stays."""
    p = eps if p < eps else p
    return 1 - eps if p > 1 - eps else p


@inner
def _with_factor(loss, likelihood, factors, p):
    """One more probability: many of them share a logarithm, that of their product."""
    if factors == _FACTORS:
        return loss - log(likelihood), p, 1
    return loss, likelihood * p, factors + 1


@compiled
def softmax_log_loss(
    z: Array, b: Array, y: Array, w: Array, grad_b: Array, settings: Array
) -> float:
    """Cross entropy of the softmax."""
    softmax_forward(z, b)
    eps = eps_of(z)
    one = z.dtype.type(1)
    grad_b[:] = 0
    loss = 0.0
    likelihood, factors = 1.0, 0
    for i in range(z.shape[0]):
        p = _clip(float(z[i, y[i]]), eps)
        z[i, y[i]] -= one
        if w.size:
            loss -= log(p) * float(w[i])
            for j in range(z.shape[1]):
                z[i, j] *= w[i]
        else:
            loss, likelihood, factors = _with_factor(loss, likelihood, factors, p)
        for j in range(z.shape[1]):
            grad_b[j] += z[i, j]
    return loss - log(likelihood)


@compiled
def logistic_log_loss(
    z: Array, b: Array, y: Array, w: Array, grad_b: Array, settings: Array
) -> float:
    """Binary cross entropy of the logistic function."""
    eps = eps_of(z)
    logistic_forward(z, b)
    one, zero = z.dtype.type(1), z.dtype.type(0)
    grad_b[:] = 0
    loss = 0.0
    likelihood, factors = 1.0, 0
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            p = _clip(float(z[i, j]), eps)
            p = p if y[i, j] else 1.0 - p
            z[i, j] -= one if y[i, j] else zero
            if w.size:
                loss -= log(p) * float(w[i])
                z[i, j] *= w[i]
            else:
                loss, likelihood, factors = _with_factor(loss, likelihood, factors, p)
            grad_b[j] += z[i, j]
    return loss - log(likelihood)


@inner
def _smoothed(z, i, start, stop, label, share, eps):
    """Compute the loss of a row's head, of which the softmax is known."""
    value, width = 0.0, stop - start
    for j in range(start, stop):
        p, target = float(z[i, j]), share / width
        target += 1.0 - share if j == label else 0.0
        value -= target * log(_clip(p, eps)) if target else 0.0
        z[i, j] = p - target
    return value


@compiled
def smoothed_softmax_log_loss(
    z: Array, b: Array, y: Array, w: Array, grad_b: Array, settings: Array
) -> float:
    """Cross entropy with smoothed labels."""
    softmax_forward(z, b)
    eps, loss = eps_of(z), 0.0
    for i in range(z.shape[0]):
        value = _smoothed(z, i, 0, z.shape[1], y[i], settings[0], eps)
        loss += value * float(w[i]) if w.size else value
    _weigh(z, w, grad_b)
    return loss


@compiled
def softmax_heads_log_loss(
    z: Array, b: Array, y: Array, w: Array, grad_b: Array, settings: Array
) -> float:
    """Cross entropies of several softmaxes side by side."""
    heads = settings[1:].astype(np.int64)
    softmax_heads_forward(z, b, heads)
    eps, loss = eps_of(z), 0.0
    for i in range(z.shape[0]):
        value, start = 0.0, 0
        for h in range(heads.size):
            stop, label = start + heads[h], start + y[i, h]
            value += _smoothed(z, i, start, stop, label, settings[0], eps)
            start = stop
        loss += value * float(w[i]) if w.size else value
    _weigh(z, w, grad_b)
    return loss


@inner
def _smoothed_logistic(z, v, t, settings):
    half, p, eps = 0.5 * settings[0], float(expit_value(v)), eps_of(z)
    target = 1.0 - half if t else half
    q = _clip(p, eps)
    return -target * log(q) - (1.0 - target) * log(1.0 - q), p - target


# -- losses of real targets ------------------------------------------------------------


@inner
def _squared_error(z, v, t, settings):
    d = v - t
    return 0.5 * float(d) * float(d), d


@inner
def _absolute_error(z, v, t, settings):
    d = float(v - t)
    # 0 stays 0 and NaN stays NaN.
    slope = 1.0 if d > 0.0 else d
    return abs(d), -1.0 if d < 0.0 else slope


@inner
def _huber(z, v, t, settings):
    d, bound = float(v - t), settings[0]
    a, side = abs(d), bound if d > 0.0 else -bound
    if a > bound:
        return bound * (a - 0.5 * bound), side
    return 0.5 * d * d, d


@inner
def _quantile(z, v, t, settings):
    d = float(v - t)
    slope = 1.0 - settings[0] if d > 0.0 else -settings[0]
    return slope * d, slope if d == d else d


@inner
def _poisson(z, v, t, settings):
    p, t = float(exp_value(v)), float(t)
    value = p - t
    # As scipy's xlogy: 0 for a target of 0, unless the other is NaN.
    if t != 0.0 or p != p:
        value += t * log(t / p)
    return value, p - t


@inner
def _gamma(z, v, t, settings):
    v, t = float(v), float(t)
    ratio = t * exp_value(-v)
    return v - log(t) + ratio - 1.0, 1.0 - ratio


@compiled
def quantiles(
    z: Array, b: Array, y: Array, w: Array, grad_b: Array, settings: Array
) -> float:
    """Pinball losses of several levels, which never cross."""
    loss = 0.0
    for i in range(z.shape[0]):
        value, above, q, t = 0.0, 0.0, 0.0, float(y[i, 0])
        for j in range(z.shape[1]):
            v = float(z[i, j] + b[j])
            q += _softplus(v) if j else v
            d = q - t
            slope = 1.0 - settings[j] if d > 0.0 else -settings[j]
            value += slope * d
            above += slope if d == d else d
        loss += value * float(w[i]) if w.size else value
        q = 0.0
        for j in range(z.shape[1]):
            v = float(z[i, j] + b[j])
            q += _softplus(v) if j else v
            d = q - t
            z[i, j] = above * expit_value(v) if j else above
            above -= 1.0 - settings[j] if d > 0.0 else -settings[j]
    _weigh(z, w, grad_b)
    return loss


OUTPUT: dict[str, Callable[..., None]] = {
    "exp": exp_forward,
    "softmax": softmax_forward,
    "softmax_heads": softmax_heads_forward,
    "increasing": increasing_forward,
}
LOSS: dict[str, Callable[..., float]] = {
    "softmax_log_loss": softmax_log_loss,
    "logistic_log_loss": logistic_log_loss,
    "smoothed_softmax_log_loss": smoothed_softmax_log_loss,
    "smoothed_logistic_log_loss": _of_numbers(_smoothed_logistic),
    "softmax_heads_log_loss": softmax_heads_log_loss,
    "squared_error": _of_numbers(_squared_error),
    "absolute_error": _of_numbers(_absolute_error),
    "huber": _of_numbers(_huber),
    "quantile": _of_numbers(_quantile),
    "quantiles": quantiles,
    "poisson": _of_numbers(_poisson),
    "gamma": _of_numbers(_gamma),
}
