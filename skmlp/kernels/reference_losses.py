"""The losses that scikit-learn's MLP has not, in numpy: the readable reference.

Arguments and result are those of `skmlp.kernels.reference.softmax_log_loss`. Losses
with a parameter take one argument more, an array of float64. These allocate what they
need.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from skmlp.kernels.special import expit

Array = np.ndarray[Any, np.dtype[Any]]


def finish(values: Array, gradient: Array, z: Array, w: Array, grad_b: Array) -> float:
    """Weigh and sum the loss of each number; write the gradient over `z`."""
    rows = values.sum(axis=1, dtype=np.float64)
    np.copyto(z, gradient, casting="same_kind")
    if w.size:
        z *= w[:, None]
        rows *= w
    z.sum(axis=0, out=grad_b)
    return float(rows.sum())


def absolute_error(
    z: Array, b: Array, y: Array, w: Array, grad_b: Array, scratch: Array
) -> float:
    """Absolute error, summed over the columns."""
    error = (z + b) - y
    return finish(np.abs(error), np.sign(error), z, w, grad_b)


def huber(
    z: Array, b: Array, y: Array, w: Array, grad_b: Array, scratch: Array, delta: Array
) -> float:
    """Half the squared error up to `delta`, linear from there on (Huber, 1964)."""
    error = (z + b) - y
    far, size, bound = np.abs(error) > delta, np.abs(error), delta[0]
    values = np.where(far, bound * (size - 0.5 * bound), 0.5 * error * error)
    return finish(values, np.clip(error, -bound, bound), z, w, grad_b)


def quantile(
    z: Array, b: Array, y: Array, w: Array, grad_b: Array, scratch: Array, level: Array
) -> float:
    """Pinball loss of one level, summed over the columns.

    Koenker and Bassett, "Regression quantiles", Econometrica 46, 1978.
    """
    return finish(*_pinball((z + b) - y, level[0]), z, w, grad_b)


def _pinball(error: Array, level: Any) -> tuple[Array, Array]:
    """The pinball loss of ``prediction - target``, and its derivative."""
    slope = np.where(error > 0, 1 - level, -level)
    values = slope * error
    return values, np.where(np.isnan(error), error, slope)


def _softplus(z: Array) -> Array:
    return np.asarray(np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z))))


def increasing_forward(z: Array, b: Array) -> None:
    """The first number as it is, each other one the softplus of it above the last."""
    z += b
    z[:, 1:] = _softplus(z[:, 1:])
    np.cumsum(z, axis=1, out=z)


def quantiles(
    z: Array, b: Array, y: Array, w: Array, grad_b: Array, scratch: Array, levels: Array
) -> float:
    """Pinball losses of several levels, each with a column of `z`; `y` has one.

    The predictions are those of `increasing_forward`: they never cross.
    """
    slopes = expit(z + b)
    slopes[:, 0] = 1
    increasing_forward(z, b)
    values, gradient = _pinball(z - y, levels)
    # A raw number moves its own quantile and all above.
    above = np.cumsum(gradient[:, ::-1], axis=1)[:, ::-1]
    return finish(values, above * slopes, z, w, grad_b)


def gamma(
    z: Array, b: Array, y: Array, w: Array, grad_b: Array, scratch: Array
) -> float:
    """Half the gamma deviance of ``exp(z + b)``, summed over the columns."""
    raw = z + b
    ratio = y * np.exp(-raw)
    values = raw - np.log(y) + ratio - 1
    return finish(values, 1 - ratio, z, w, grad_b)


def smoothed_softmax_log_loss(
    z: Array,
    b: Array,
    y: Array,
    w: Array,
    grad_b: Array,
    scratch: Array,
    smoothing: Array,
) -> float:
    """Cross entropy with a share of each label spread over all classes.

    Szegedy et al., "Rethinking the Inception architecture for computer vision", CVPR
    2016, section 7.
    """
    raw = z + b
    p = np.exp(raw - raw.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    share = smoothing[0]
    target = np.full(z.shape, share / z.shape[1])
    target[np.arange(len(z)), y] += 1 - share
    eps = np.finfo(z.dtype).eps
    values = -target * np.log(np.clip(p, eps, 1 - eps))
    return finish(values, p - target, z, w, grad_b)


def smoothed_logistic_log_loss(
    z: Array,
    b: Array,
    y: Array,
    w: Array,
    grad_b: Array,
    scratch: Array,
    smoothing: Array,
) -> float:
    """Binary cross entropy with a share of each label spread over 0 and 1."""
    share = smoothing[0]
    target = y * (1 - share) + 0.5 * share
    p = expit(z + b)
    eps = np.finfo(z.dtype).eps
    clipped = np.clip(p, eps, 1 - eps).astype(np.float64)
    values = -target * np.log(clipped) - (1 - target) * np.log(1 - clipped)
    return finish(values, p - target, z, w, grad_b)


def softmax_heads_forward(z: Array, b: Array, heads: Array) -> None:
    """Softmax of ``z + b`` over the columns of each head by itself.

    `heads` has the number of columns of each, which stand side by side.
    """
    z += b
    first = np.concatenate([[0], np.cumsum(heads)[:-1]])
    z -= np.repeat(np.maximum.reduceat(z, first, axis=1), heads, axis=1)
    np.exp(z, out=z)
    z /= np.repeat(np.add.reduceat(z, first, axis=1), heads, axis=1)


def softmax_heads_log_loss(
    z: Array,
    b: Array,
    y: Array,
    w: Array,
    grad_b: Array,
    scratch: Array,
    settings: Array,
) -> float:
    """Cross entropies of several softmaxes side by side, summed over these heads.

    `y` has a class index for each head. The settings are the share of each label that
    is spread over the classes of its head, and the number of columns of each head.
    """
    share, heads = settings[0], settings[1:].astype(np.intp)
    softmax_heads_forward(z, b, heads)
    target = np.repeat(np.full(len(heads), share) / heads, heads)
    target = np.broadcast_to(target, z.shape).astype(z.dtype)
    of_label = np.cumsum(heads) - heads + y
    np.put_along_axis(
        target, of_label, np.take_along_axis(target, of_label, 1) + (1 - share), 1
    )
    eps = np.finfo(z.dtype).eps
    values = -target * np.log(np.clip(z, eps, 1 - eps))
    return finish(values, z - target, z, w, grad_b)


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
