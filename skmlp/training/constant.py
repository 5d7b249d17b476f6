"""The constant prediction: the best one that looks at no feature, and its loss.

It depends on sums over the training rows alone, so it is the same wherever they lie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from skmlp.arrays import Array
from skmlp.kernels import reference
from skmlp.model import metrics
from skmlp.model.losses import kernel_of
from skmlp.plan import Plan

#: Adds what some targets and weights say to a row of numbers.
Add = Callable[[Array, Array, Array], None]
#: ``total(width, add)``: so many numbers, summed over all training rows.
Total = Callable[[int, Add], Array]

#: Numbers of raw predictions that are looked at at once.
_BLOCK = 2**18
#: Raw predictions of probabilities and of exponentials end here: no 0, no infinity.
FARTHEST = 80.0
#: Halvings of the range in which a median or quantile is searched: to twelve digits.
_HALVINGS = 40


def constant(plan: Plan, total: Total) -> tuple[Array, float]:
    """Find the constant prediction, and the sum of weight times loss over all rows.

    The prediction, float64 of shape (n_outputs,), is before the output activation, as
    the bias of the output layer would be. NaN for an output without known targets.
    """
    entry = plan.loss_entry
    with np.errstate(all="ignore"):
        if entry.target != "real":
            raw = _of_classes(plan, total)
        elif plan.loss == "squared_error" or entry.output in ("exp", "logistic"):
            raw = _link(entry.output, _weights_and_means(plan, total)[1])
        else:
            return _searched(plan, total)
        loss, _ = _loss(plan, plan.loss, plan.loss_settings, raw, total)
    return raw, loss


def _link(output: str, mean: Array) -> Array:
    """The raw prediction of a mean: the inverse of an output activation."""
    if output == "identity":
        return mean
    raw = np.log(mean)
    if output == "logistic":
        raw -= np.log1p(-mean)
    return np.clip(raw, -FARTHEST, FARTHEST)


def _of_classes(plan: Plan, total: Total) -> Array:
    """The raw prediction of the classes' shares."""
    kind, n_outputs = plan.loss_entry.target, plan.units[-1]
    heads = plan.heads or (n_outputs,)
    starts = np.cumsum([0, *heads[:-1]], dtype=np.intp)
    smoothing = plan.loss_settings[0] if plan.loss_settings else 0.0

    def count(y: Array, w: Array, out: Array) -> None:
        if kind == "indicator":
            out[0] += w.sum(dtype=np.float64) if w.size else len(y)
            out[1:] += w @ y if w.size else y.sum(axis=0)
            return
        for start, codes in zip(starts, y.reshape(len(y), -1).T, strict=True):
            found = np.bincount(codes, w if w.size else None)
            out[start : start + len(found)] += found

    if kind == "indicator":
        weight, *ones = total(1 + n_outputs, count)
        shares = np.array(ones) / weight
        return _link("logistic", shares * (1 - smoothing) + smoothing / 2)
    counts = total(n_outputs, count)
    shares = counts / np.repeat(np.add.reduceat(counts, starts), heads)
    spread = np.repeat(smoothing / np.array(heads), heads)
    return _link("softmax", shares * (1 - smoothing) + spread)


def _weights_and_means(plan: Plan, total: Total) -> tuple[Array, Array]:
    """The weight of each real target, and its weighted mean."""
    n_targets = 1 if plan.loss == "quantiles" else plan.units[-1]

    def add(y: Array, w: Array, out: Array) -> None:
        metrics.mean_parts(y, w, out, plan.masked)

    parts = total(2 * n_targets, add)
    return parts[:n_targets], metrics.means(parts)


def _loss(
    plan: Plan, loss: Any, settings: tuple[float, ...], raw: Array, total: Total
) -> tuple[float, Array]:
    """The summed loss of a constant, and its derivative by each number of it."""
    kernel = kernel_of(loss, settings, reference, plan.masked)

    def add(y: Array, w: Array, out: Array) -> None:
        gradient = np.empty(raw.size)
        for rows in _blocks(len(y), raw.size):
            some = y[rows]
            z = np.zeros((len(some), raw.size))
            out[0] += kernel(z, raw, some, w[rows], gradient)
            out[1:] += gradient

    found = total(1 + raw.size, add)
    return float(found[0]), found[1:]


def _blocks(n_rows: int, width: int) -> Iterator[slice]:
    step = max(1, _BLOCK // width)
    return (slice(at, at + step) for at in range(0, n_rows, step))


def _searched(plan: Plan, total: Total) -> tuple[Array, float]:
    """The constant where the summed loss of each output is least, by halving."""
    weights, means = _weights_and_means(plan, total)

    def add(y: Array, w: Array, out: Array) -> None:
        metrics.spread_parts(y, w, means, out, plan.masked)

    deviations = np.sqrt(total(means.size, add) / weights)

    def search(loss: Any, settings: tuple[float, ...]) -> tuple[Array, float]:
        # No quantile is farther from the mean (Cantelli's inequality).
        level = settings[0] if loss == "quantile" else 0.5
        odds = level / (1 - level)
        reach = 2 * deviations * np.sqrt(max(odds, 1 / odds))
        low, high = means - reach, means + reach
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            rising = _loss(plan, loss, settings, middle, total)[1] > 0
            low, high = np.where(rising, low, middle), np.where(rising, middle, high)
        found = (low + high) / 2
        return found, _loss(plan, loss, settings, found, total)[0]

    if plan.loss != "quantiles":
        return search(plan.loss, plan.loss_settings)
    each = [search("quantile", (level,)) for level in plan.loss_settings]
    quantiles = np.concatenate([found for found, _ in each])
    gaps = np.diff(quantiles)
    # The inverse of the softplus.
    above = np.clip(gaps + np.log(-np.expm1(-gaps)), -FARTHEST, None)
    return np.append(quantiles[0], above), sum(loss for _, loss in each)
