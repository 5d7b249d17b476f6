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
from typing import Any

import numpy as np

from skmlp.kernels.activations import logistic_forward
from skmlp.kernels.jit import compiled, inner
from skmlp.kernels.math import exp_value, expit_value, log1p_value
from skmlp.kernels.pointers import line

Array = np.ndarray[Any, np.dtype[Any]]

# -- output activations ----------------------------------------------------------------


@compiled
def exp_forward(z: Array, b: Array) -> None:
    """``exp(z + b)``."""
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            z[i, j] = exp_value(z[i, j] + b[j])


@compiled
def softmax_forward(z: Array, b: Array) -> None:
    """Softmax of ``z + b`` over the columns."""
    one = z.dtype.type(1)
    for i in range(z.shape[0]):
        top = z[i, 0] + b[0]
        for j in range(z.shape[1]):
            v = z[i, j] + b[j]
            z[i, j] = v
            top = v if v > top else top
        for j in range(z.shape[1]):
            z[i, j] -= top
    # In one line: a row is too short to fill the vectors.
    flat: Array = line(z, 0, z.size)
    for k in range(flat.size):
        flat[k] = exp_value(flat[k])
    for i in range(z.shape[0]):
        total = z.dtype.type(0)
        for j in range(z.shape[1]):
            total += z[i, j]
        scale = one / total
        for j in range(z.shape[1]):
            z[i, j] *= scale


@compiled
def softmax_heads_forward(z: Array, b: Array, heads: Array) -> None:
    """Softmax of ``z + b`` over the columns of each head."""
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


@inner
def _safe_log(p, eps):
    """Of a probability, kept off 0 and 1; NaN stays."""
    p = eps if p < eps else p
    return log(1.0 - eps if p > 1.0 - eps else p)


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


@compiled
def smoothed_softmax_log_loss(
    z: Array,
    b: Array,
    y: Array,
    w: Array,
    grad_b: Array,
    settings: Array,
) -> float:
    """Cross entropy with smoothed labels."""
    eps, loss = eps_of(z), 0.0
    everywhere = settings[0] / z.shape[1]
    for i in range(z.shape[0]):
        top = z[i, 0] + b[0]
        for j in range(z.shape[1]):
            v = z[i, j] + b[j]
            z[i, j] = v
            top = v if v > top else top
        total = 0.0
        for j in range(z.shape[1]):
            e = exp_value(z[i, j] - top)
            z[i, j] = e
            total += float(e)
        value = 0.0
        for j in range(z.shape[1]):
            p = float(z[i, j]) / total
            target = everywhere + (1.0 - settings[0] if j == y[i] else 0.0)
            value -= target * _safe_log(p, eps)
            z[i, j] = p - target
        loss += value * float(w[i]) if w.size else value
    _weigh(z, w, grad_b)
    return loss


@compiled
def smoothed_logistic_log_loss(
    z: Array,
    b: Array,
    y: Array,
    w: Array,
    grad_b: Array,
    settings: Array,
) -> float:
    """Binary cross entropy with smoothed labels."""
    eps, loss, half = eps_of(z), 0.0, 0.5 * settings[0]
    for i in range(z.shape[0]):
        value = 0.0
        for j in range(z.shape[1]):
            p = float(expit_value(z[i, j] + b[j]))
            target = 1.0 - half if y[i, j] else half
            value -= target * _safe_log(p, eps) + (1.0 - target) * log(
                1.0 - min(max(p, eps), 1.0 - eps) if p == p else p
            )
            z[i, j] = p - target
        loss += value * float(w[i]) if w.size else value
    _weigh(z, w, grad_b)
    return loss


@compiled
def softmax_heads_log_loss(
    z: Array,
    b: Array,
    y: Array,
    w: Array,
    grad_b: Array,
    settings: Array,
) -> float:
    """Cross entropies of several softmaxes side by side."""
    share, heads = settings[0], settings[1:].astype(np.intp)
    softmax_heads_forward(z, b, heads)
    eps, loss, one = eps_of(z), 0.0, z.dtype.type(1)
    for i in range(z.shape[0]):
        value, start = 0.0, 0
        for h in range(heads.size):
            stop, label = start + heads[h], start + y[i, h]
            if share == 0.0:
                value -= _safe_log(float(z[i, label]), eps)
                z[i, label] -= one
            else:
                for j in range(start, stop):
                    p, target = float(z[i, j]), share / heads[h]
                    target += 1.0 - share if j == label else 0.0
                    value -= target * _safe_log(p, eps)
                    z[i, j] = p - target
            start = stop
        loss += value * float(w[i]) if w.size else value
    _weigh(z, w, grad_b)
    return loss


# -- losses of real targets ------------------------------------------------------------


@compiled
def squared_error(
    z: Array, b: Array, y: Array, w: Array, grad_b: Array, settings: Array
) -> float:
    """Half the squared error."""
    grad_b[:] = 0
    loss = 0.0
    for i in range(z.shape[0]):
        value = 0.0
        for j in range(z.shape[1]):
            d = z[i, j] + b[j] - y[i, j]
            value += float(d) * float(d)
            z[i, j] = d
        if w.size:
            value *= float(w[i])
            for j in range(z.shape[1]):
                z[i, j] *= w[i]
        loss += value
        for j in range(z.shape[1]):
            grad_b[j] += z[i, j]
    return 0.5 * loss


@compiled
def poisson(
    z: Array, b: Array, y: Array, w: Array, grad_b: Array, settings: Array
) -> float:
    """Half the Poisson deviance."""
    exp_forward(z, b)
    grad_b[:] = 0
    loss = 0.0
    for i in range(z.shape[0]):
        value = 0.0
        for j in range(z.shape[1]):
            p, t = float(z[i, j]), float(y[i, j])
            value += p - t
            # As scipy's xlogy: 0 for a target of 0, unless the other is NaN.
            if t != 0.0 or p != p:
                value += t * log(t / p)
            z[i, j] -= y[i, j]
        if w.size:
            value *= float(w[i])
            for j in range(z.shape[1]):
                z[i, j] *= w[i]
        loss += value
        for j in range(z.shape[1]):
            grad_b[j] += z[i, j]
    return loss


@compiled
def absolute_error(
    z: Array, b: Array, y: Array, w: Array, grad_b: Array, settings: Array
) -> float:
    """Absolute error."""
    loss = 0.0
    for i in range(z.shape[0]):
        value = 0.0
        for j in range(z.shape[1]):
            d = float(z[i, j] + b[j] - y[i, j])
            value += abs(d)
            # 0 stays 0 and NaN stays NaN.
            g = 1.0 if d > 0.0 else d
            z[i, j] = -1.0 if d < 0.0 else g
        loss += value * float(w[i]) if w.size else value
    _weigh(z, w, grad_b)
    return loss


@compiled
def huber(
    z: Array, b: Array, y: Array, w: Array, grad_b: Array, settings: Array
) -> float:
    """Half the squared error up to a bound, linear from there on."""
    bound, loss = settings[0], 0.0
    for i in range(z.shape[0]):
        value = 0.0
        for j in range(z.shape[1]):
            d = float(z[i, j] + b[j] - y[i, j])
            a = abs(d)
            if a > bound:
                value += bound * (a - 0.5 * bound)
                z[i, j] = bound if d > 0.0 else -bound
            else:
                value += 0.5 * d * d
                z[i, j] = d
        loss += value * float(w[i]) if w.size else value
    _weigh(z, w, grad_b)
    return loss


@compiled
def quantile(
    z: Array, b: Array, y: Array, w: Array, grad_b: Array, settings: Array
) -> float:
    """Pinball loss of one level."""
    high, low, loss = 1.0 - settings[0], -settings[0], 0.0
    for i in range(z.shape[0]):
        value = 0.0
        for j in range(z.shape[1]):
            d = float(z[i, j] + b[j] - y[i, j])
            slope = high if d > 0.0 else low
            value += slope * d
            z[i, j] = slope if d == d else d
        loss += value * float(w[i]) if w.size else value
    _weigh(z, w, grad_b)
    return loss


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


@compiled
def gamma(
    z: Array, b: Array, y: Array, w: Array, grad_b: Array, settings: Array
) -> float:
    """Half the gamma deviance."""
    loss = 0.0
    for i in range(z.shape[0]):
        value = 0.0
        for j in range(z.shape[1]):
            v, t = float(z[i, j] + b[j]), float(y[i, j])
            ratio = t * exp_value(-v)
            value += v - log(t) + ratio - 1.0
            z[i, j] = 1.0 - ratio
        loss += value * float(w[i]) if w.size else value
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
    "smoothed_logistic_log_loss": smoothed_logistic_log_loss,
    "softmax_heads_log_loss": softmax_heads_log_loss,
    "squared_error": squared_error,
    "absolute_error": absolute_error,
    "huber": huber,
    "quantile": quantile,
    "quantiles": quantiles,
    "poisson": poisson,
    "gamma": gamma,
}
