"""The losses that scikit-learn's MLP has not, compiled by numba.

Each function does what its namesake in `skmlp.kernels.reference_losses` does, in
float64 but for the array's own numbers.
"""

# mypy cannot see what numba infers.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
# mypy: disable-error-code="call-arg, unreachable"

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import Any

import numpy as np

from skmlp.kernels.compiled_updates import compiled, eps_of, inner
from skmlp.kernels.pointers import line
from skmlp.kernels.vector_math import exp_value, expit_value, log1p_value

Array = np.ndarray[Any, np.dtype[Any]]


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


@compiled
def absolute_error(
    z: Array, b: Array, y: Array, w: Array, grad_b: Array, scratch: Array
) -> float:
    """Absolute error. See the reference."""
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
    z: Array, b: Array, y: Array, w: Array, grad_b: Array, scratch: Array, delta: Array
) -> float:
    """Huber's loss. See the reference."""
    bound, loss = delta[0], 0.0
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
    z: Array, b: Array, y: Array, w: Array, grad_b: Array, scratch: Array, level: Array
) -> float:
    """Pinball loss of one level. See the reference."""
    high, loss = 1.0 - level[0], 0.0
    low = -level[0]
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


@inner
def _softplus(v):
    return (0.0 if v < 0.0 else v) + log1p_value(exp_value(-abs(v)))


@compiled
def increasing_forward(z: Array, b: Array) -> None:
    """Each number the softplus of it above the last one. See the reference."""
    for i in range(z.shape[0]):
        q = float(z[i, 0] + b[0])
        z[i, 0] = q
        for j in range(1, z.shape[1]):
            q += _softplus(float(z[i, j] + b[j]))
            z[i, j] = q


@compiled
def quantiles(
    z: Array, b: Array, y: Array, w: Array, grad_b: Array, scratch: Array, levels: Array
) -> float:
    """Pinball losses of several levels, which never cross. See the reference."""
    loss = 0.0
    for i in range(z.shape[0]):
        value, above, q, t = 0.0, 0.0, 0.0, float(y[i, 0])
        for j in range(z.shape[1]):
            v = float(z[i, j] + b[j])
            q += _softplus(v) if j else v
            d = q - t
            slope = 1.0 - levels[j] if d > 0.0 else -levels[j]
            value += slope * d
            above += slope if d == d else d
        loss += value * float(w[i]) if w.size else value
        q = 0.0
        for j in range(z.shape[1]):
            v = float(z[i, j] + b[j])
            q += _softplus(v) if j else v
            d = q - t
            z[i, j] = above * expit_value(v) if j else above
            above -= 1.0 - levels[j] if d > 0.0 else -levels[j]
    _weigh(z, w, grad_b)
    return loss


@compiled
def gamma(
    z: Array, b: Array, y: Array, w: Array, grad_b: Array, scratch: Array
) -> float:
    """Half the gamma deviance. See the reference."""
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


@inner
def _safe_log(p, eps):
    """Of a probability, kept off 0 and 1; NaN stays."""
    p = eps if p < eps else p
    return log(1.0 - eps if p > 1.0 - eps else p)


@compiled
def smoothed_softmax_log_loss(
    z: Array,
    b: Array,
    y: Array,
    w: Array,
    grad_b: Array,
    scratch: Array,
    smoothing: Array,
) -> float:
    """Cross entropy with smoothed labels. See the reference."""
    eps, loss = eps_of(z), 0.0
    everywhere = smoothing[0] / z.shape[1]
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
            target = everywhere + (1.0 - smoothing[0] if j == y[i] else 0.0)
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
    scratch: Array,
    smoothing: Array,
) -> float:
    """Binary cross entropy with smoothed labels. See the reference."""
    eps, loss, half = eps_of(z), 0.0, 0.5 * smoothing[0]
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
def softmax_heads_forward(z: Array, b: Array, heads: Array) -> None:
    """Softmax of ``z + b`` over the columns of each head. See the reference."""
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
def softmax_heads_log_loss(
    z: Array,
    b: Array,
    y: Array,
    w: Array,
    grad_b: Array,
    scratch: Array,
    settings: Array,
) -> float:
    """Cross entropies of several softmaxes side by side. See the reference."""
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


LOSS: dict[str, Callable[..., float]] = {
    "absolute_error": absolute_error,
    "huber": huber,
    "quantile": quantile,
    "quantiles": quantiles,
    "gamma": gamma,
    "smoothed_softmax_log_loss": smoothed_softmax_log_loss,
    "smoothed_logistic_log_loss": smoothed_logistic_log_loss,
    "softmax_heads_log_loss": softmax_heads_log_loss,
}
