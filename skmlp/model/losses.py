"""The losses, by name, each with its output activation, and those that users bring.

A new loss is one entry in `LOSSES` and its kernel in `skmlp.kernels.losses`; an object
of a user's own needs no kernel, see `kernel_of`.

The formulas are written against the array API standard: `xp` is the namespace of the
arrays. In numpy they are the fall-back without numba, and what the tests hold the
kernels against.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from skmlp.arrays import Array
from skmlp.fused import expit, softmax, times_log
from skmlp.model.special import (
    bounded,
    cast,
    concat,
    count,
    cumulative_sum,
    of_kind,
    softplus,
)

#: ``formula(xp, y, raw, settings)`` gives the loss of each number, and its derivative
#: with respect to the raw prediction; both are new arrays of the shape of `raw`. `y` is
#: as `encoded` gives it.
Formula = Callable[[Any, Any, Any, Sequence[float]], tuple[Any, Any]]
#: In the signatures of formulas.
Numbers = Sequence[float]
Pair = tuple[Any, Any]


# ---- Output activations ------------------------------------------------------------


def softmax_heads(xp: Any, raw: Any, heads: Sequence[int]) -> Any:
    """Compute the softmax of the columns of each head by itself."""
    return concat(xp, [softmax(xp, part) for part in split(raw, heads)])


def split(raw: Any, heads: Sequence[int]) -> list[Any]:
    """Cut columns into those of each head."""
    ends = np.cumsum(np.asarray(heads, int)).tolist()
    return [raw[:, end - n : end] for n, end in zip(heads, ends, strict=True)]


def increasing(xp: Any, raw: Any) -> Any:
    """Keep the first column; let each other one be its softplus above the last."""
    steps = [raw[:, :1], softplus(xp, raw[:, 1:])]
    return cumulative_sum(xp, concat(xp, steps))


#: ``output(xp, raw, heads)``; `heads` are the numbers of columns of `softmax_heads`.
OUTPUT_ACTIVATIONS: dict[str, Callable[[Any, Any, Sequence[int]], Any]] = {
    "identity": lambda xp, raw, heads: raw,
    "logistic": lambda xp, raw, heads: expit(xp, raw),
    "exp": lambda xp, raw, heads: xp.exp(raw),
    "softmax": lambda xp, raw, heads: softmax(xp, raw),
    "softmax_heads": softmax_heads,
    "increasing": lambda xp, raw, heads: increasing(xp, raw),
}


# ---- Losses of classes -------------------------------------------------------------


def encoded(loss: Loss, xp: Any, y: Any, width: int, dtype: Any, settings: Any) -> Any:
    """What the formula of a loss takes for `y`: of classes, the share of each.

    A share of each label may be spread over all classes (Szegedy et al., "Rethinking
    the Inception architecture for computer vision", CVPR 2016, section 7). `width` and
    `dtype` are those of the predictions.
    """
    if loss.target == "real":
        return y
    share, *heads = [*map(float, settings)] or [0.0]
    blocks = [(y, 2)]
    if loss.target != "indicator":
        y, widths = (y, heads) if heads else (y[:, None], [width])
        numbers = [count(xp, int(n), y)[None, :] for n in widths]
        blocks = [(y[:, k : k + 1] == n, n.shape[1]) for k, n in enumerate(numbers)]
    shares = [(cast(xp, labels, dtype), n) for labels, n in blocks]
    return concat(xp, [(1 - share) * one + share / n for one, n in shares])


def _off_ends(xp: Any, p: Any) -> Any:
    """Keep probabilities off 0 and 1, as scikit-learn does."""
    eps = float(xp.finfo(p.dtype).eps)
    return bounded(xp, p, eps, 1 - eps)


def _softmax_log_loss(xp: Any, y: Any, raw: Any, settings: Numbers) -> Pair:
    """Cross entropy of the softmax."""
    p = softmax(xp, raw)
    return -times_log(xp, y, _off_ends(xp, p)), p - y


def _logistic_log_loss(xp: Any, y: Any, raw: Any, settings: Numbers) -> Pair:
    """Binary cross entropy."""
    p = expit(xp, raw)
    inside = _off_ends(xp, p)
    values = times_log(xp, y, inside) + times_log(xp, 1 - y, 1 - inside)
    return -values, p - y


def _softmax_heads_log_loss(xp: Any, y: Any, raw: Any, settings: Numbers) -> Pair:
    """Cross entropies of several softmaxes."""
    heads = [int(n) for n in settings[1:]]
    pairs = zip(split(y, heads), split(raw, heads), strict=True)
    parts = [_softmax_log_loss(xp, *pair, ()) for pair in pairs]
    values, gradients = zip(*parts, strict=True)
    return concat(xp, values), concat(xp, gradients)


# ---- Losses of real targets --------------------------------------------------------


def _squared_error(xp: Any, y: Any, raw: Any, settings: Numbers) -> Pair:
    error = raw - y
    return 0.5 * error * error, error


def _absolute_error(xp: Any, y: Any, raw: Any, settings: Numbers) -> Pair:
    error = raw - y
    return xp.abs(error), xp.sign(error)


def _huber(xp: Any, y: Any, raw: Any, settings: Numbers) -> Pair:
    """Half the squared error up to a bound, linear from there on (Huber, 1964)."""
    error, bound = raw - y, float(settings[0])
    size = xp.abs(error)
    linear = bound * (size - 0.5 * bound)
    values = xp.where(size > bound, linear, 0.5 * error * error)
    return values, bounded(xp, error, -bound, bound)


def _pinball(xp: Any, error: Any, level: Any) -> tuple[Any, Any]:
    """Koenker and Bassett, "Regression quantiles", Econometrica 46, 1978."""
    slope = xp.where(error > 0, 1 - level, -level)
    return slope * error, xp.where(error == error, slope, error)  # NaN stays NaN


def _quantile(xp: Any, y: Any, raw: Any, settings: Numbers) -> Pair:
    error = raw - y
    level = float(settings[0]) * xp.ones_like(error)
    return _pinball(xp, error, level)


def _quantiles(xp: Any, y: Any, raw: Any, settings: Numbers) -> Pair:
    """Pinball losses of several levels, one a column; `y` has a single column."""
    error = increasing(xp, raw) - y
    levels = of_kind(xp, settings, raw)[None, :] * xp.ones_like(error)
    values, gradient = _pinball(xp, error, levels)
    # A raw number moves its own quantile and all above.
    above = xp.flip(cumulative_sum(xp, xp.flip(gradient, axis=1)), axis=1)
    slopes = [xp.ones_like(raw[:, :1]), expit(xp, raw[:, 1:])]
    return values, above * concat(xp, slopes)


def _poisson(xp: Any, y: Any, raw: Any, settings: Numbers) -> Pair:
    """Half the Poisson deviance of ``exp(raw)``."""
    p = xp.exp(raw)
    # As scipy's xlogy: 0 for a target of 0, unless the other is NaN.
    nothing = (y == 0) & (p == p)
    safe = xp.where(nothing, xp.ones_like(p), y * xp.ones_like(p))
    logs = xp.where(nothing, xp.zeros_like(p), y * xp.log(safe / p))
    return logs + (p - y), p - y


def _gamma(xp: Any, y: Any, raw: Any, settings: Numbers) -> Pair:
    """Half the gamma deviance of ``exp(raw)``."""
    ratio = y * xp.exp(-raw)
    return raw - xp.log(y) + ratio - 1, 1 - ratio


# ---- The entries -------------------------------------------------------------------


@dataclass(frozen=True)
class Loss:
    """A loss together with its output activation.

    `target` says what `y` holds: one class index a row ("codes"), a 0/1 matrix
    ("indicator"), a class index for each head ("heads"), or real numbers. With
    `mean_over_outputs` the reported loss is the mean over the outputs; the gradient is
    that of the sum in any case. `takes` are the targets that it is defined for: "any",
    "not negative" or "positive".
    """

    name: str
    formula: Formula
    output: str
    target: str
    mean_over_outputs: bool = False
    takes: str = "any"


_CODES, _INDICATOR = ("softmax", "codes"), ("logistic", "indicator")

LOSSES = {
    loss.name: loss
    for loss in (
        Loss("softmax_log_loss", _softmax_log_loss, *_CODES),
        Loss("logistic_log_loss", _logistic_log_loss, *_INDICATOR),
        Loss("smoothed_softmax_log_loss", _softmax_log_loss, *_CODES),
        Loss("smoothed_logistic_log_loss", _logistic_log_loss, *_INDICATOR),
        Loss(
            "softmax_heads_log_loss", _softmax_heads_log_loss, "softmax_heads", "heads"
        ),
        Loss("squared_error", _squared_error, "identity", "real", True),
        Loss("absolute_error", _absolute_error, "identity", "real", True),
        Loss("huber", _huber, "identity", "real", True),
        Loss("quantile", _quantile, "identity", "real", True),
        Loss("quantiles", _quantiles, "increasing", "real", True),
        Loss("poisson", _poisson, "exp", "real", takes="not negative"),
        Loss("gamma", _gamma, "exp", "real", takes="positive"),
    )
}

#: What a user's own loss must have.
METHOD = "value_and_gradient"

#: The output activations that it may name.
OUTPUTS = ("identity", "logistic", "exp")


def entry(loss: Any) -> Loss:
    """The entry of a name, or one made for a user's own object."""
    if isinstance(loss, str):
        return LOSSES[loss]
    output = getattr(loss, "out_activation", "identity")

    def formula(xp: Any, y: Any, raw: Any, settings: Sequence[float]) -> Any:
        return loss.value_and_gradient(y, raw)

    return Loss(type(loss).__name__, formula, output, "real")


def of_known(xp: Any, y: Any, values: Any) -> Any:
    """Write 0 where a target is missing: a number, or all quantiles of a row."""
    return xp.where(y == y, values, xp.zeros_like(values))


def heads_of(loss: Any, settings: Sequence[float]) -> tuple[int, ...]:
    """The number of columns of each head of the output layer; () for one block."""
    if entry(loss).target != "heads":
        return ()
    return tuple(int(width) for width in settings[1:])


def output_of(
    output: str, heads: Sequence[int], kernels: ModuleType
) -> Callable[[Array, Array], None]:
    """Return the function ``forward(z, b)`` of a key of `OUTPUT_ACTIVATIONS`."""
    if output not in kernels.FORWARD:
        value = OUTPUT_ACTIVATIONS[output]

        def in_numpy(z: Array, b: Array) -> None:
            z += b
            np.copyto(z, value(np, z, heads))

        return in_numpy
    forward: Callable[..., None] = kernels.FORWARD[output]
    if not heads:
        return forward
    widths = np.array(heads, np.int64)

    def by_head(z: Array, b: Array) -> None:
        forward(z, b, widths)

    return by_head


def kernel_of(
    loss: Any,
    settings: Sequence[float],
    kernels: ModuleType,
    masked: bool = False,
) -> Callable[..., float]:
    """Return ``kernel(z, b, y, w, grad_b)`` of a loss; see `skmlp.kernels.losses`.

    `loss` is a key of `LOSSES`, or an object with ``value_and_gradient(y,
    raw_prediction)``: both of shape (rows, n_outputs), and so are the two arrays that
    it returns, the loss of each number and its derivative by the raw prediction. With
    `masked`, real targets that are NaN are missing, and add nothing.
    """
    if isinstance(loss, str) and loss in kernels.LOSS:
        compiled, numbers = kernels.LOSS[loss], np.array(settings, np.float64)

        def kernel(z: Array, b: Array, y: Array, w: Array, grad_b: Array) -> float:
            value: float = compiled(z, b, y, w, grad_b, numbers)
            return value

        def masking(z: Array, b: Array, y: Array, w: Array, grad_b: Array) -> float:
            from skmlp.kernels.network import address_of_loss

            room = np.empty(3 * z.size + 2 * b.size, z.dtype)
            address = address_of_loss(compiled, z, y)
            value: float = kernels.loss_of_known(
                address, z, b, y, w, grad_b, numbers, room
            )
            return value

        return masking if masked else kernel
    found = entry(loss)

    def in_numpy(z: Array, b: Array, y: Array, w: Array, grad_b: Array) -> float:
        z += b
        known = encoded(found, np, y, b.size, z.dtype, settings)
        values, gradient = found.formula(np, known, z, settings)
        if masked:
            values, gradient = of_known(np, y, values), of_known(np, y, gradient)
        rows = np.asarray(values).sum(axis=1, dtype=np.float64)
        np.copyto(z, gradient, casting="same_kind")
        if w.size:
            z *= w[:, None]
            rows *= w
        np.sum(z, axis=0, out=grad_b)
        return float(rows.sum())

    return in_numpy
