"""Scores as sums over rows: each shard adds up its part, the parts are summed, and only
then divided. A score of means of means would be another number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from skmlp.arrays import AnyArray, Array, arrays_of, fetch
from skmlp.model.losses import entry, split
from skmlp.model.special import cast


def n_parts(loss: Any, n_outputs: int) -> int:
    """How many numbers the parts of a score take."""
    return 2 if entry(loss).target != "real" else 2 + n_outputs


def labels_of(xp: Any, prediction: AnyArray, heads: Sequence[int]) -> AnyArray:
    """The likeliest class of each head, (rows, n_heads), from probabilities."""
    blocks = split(prediction, heads)
    return xp.stack([xp.argmax(block, axis=1) for block in blocks], axis=1)


def decided(xp: Any, target: str, prediction: AnyArray, heads: Sequence[int]) -> Any:
    """The predicted class, or classes, of each row, in the form of encoded targets.

    `target` is that of a loss, and no real one.
    """
    if target == "codes":
        return xp.argmax(prediction, axis=1)
    if target == "heads":
        return labels_of(xp, prediction, heads)
    return prediction > 0.5


def weight_of(y: Array, w: Array, masked: bool = False) -> float:
    """Weight of some rows; of a row with missing targets the share that is known."""
    weight = w.sum(dtype=np.float64) if w.size else float(len(y))
    if masked:
        # Taken off: where nothing is missing, the sum keeps its bits.
        missing = np.isnan(y).sum(axis=1, dtype=np.float64)
        weight -= (w @ missing if w.size else missing.sum()) / y.shape[1]
    return float(weight)


def score_parts(
    loss: Any,
    prediction: AnyArray,
    y: Any,
    w: Array,
    out: Array,
    heads: Sequence[int] = (),
    masked: bool = False,
) -> None:
    """Add the parts of some rows' score to `out`; `prediction` is after the output
    activation.

    For classes: weight of the right rows, weight of all; a row is right with all of its
    labels. For real targets: weight of all, count of predictions that are not finite,
    and for each output the weighted sum of squared errors.
    """
    kind, arrays = entry(loss).target, arrays_of(prediction)
    weight = w.sum(dtype=np.float64) if w.size else float(len(y))
    xp: Any = np
    wide: Any = np.float64
    w_there: AnyArray = w
    if arrays is not None:
        xp, wide = arrays.xp, arrays.float_dtypes()[0]
        y, w_there = arrays.send(y), arrays.send(w)

    def summed(values: AnyArray) -> Any:
        values = cast(xp, values, wide)
        if w.size:
            return fetch(cast(xp, w_there, wide) @ values)
        return fetch(xp.sum(values, axis=0))

    if kind == "real":
        error = y - prediction
        if masked:
            error = xp.where(y == y, error, xp.zeros_like(error[:1, ...]))
        error = cast(xp, error, wide)
        error *= error
        out[0] += weight
        out[1] += float(xp.sum(cast(xp, ~xp.isfinite(prediction), wide)))
        out[2:] += summed(error)
        return
    y = y != 0 if kind == "indicator" else y
    right = decided(xp, kind, prediction, heads) == y
    out[0] += summed(right if kind == "codes" else xp.all(right, axis=1))
    out[1] += weight


def mean_parts(y: Array, w: Array, out: Array, masked: bool = False) -> None:
    """Add each output's weight in some rows, then its weighted sum of targets, to
    `out`.
    """
    weights, sums = out.reshape(2, -1)
    y = y.astype(np.float64, copy=False)
    if masked:
        known = (~np.isnan(y)).astype(np.float64)
        weights += (w @ known) if w.size else known.sum(axis=0)
        y = np.where(known, y, 0)
    else:
        weights += w.sum(dtype=np.float64) if w.size else float(len(y))
    sums += (w @ y) if w.size else y.sum(axis=0)


def means(parts: Array) -> Array:
    """The mean of each output, from `mean_parts` of all rows; NaN without weight."""
    weights, sums = parts.reshape(2, -1)
    if weights.all():
        return np.asarray(sums / weights)
    with np.errstate(invalid="ignore"):
        return np.asarray(sums / weights)


def spread_parts(
    y: Array, w: Array, mean: Array, out: Array, masked: bool = False
) -> None:
    """Add the weighted squared distances from `mean` to `out`: R2's denominator.

    It takes a second pass over the rows: in one pass it would cancel.
    """
    squares = (y.astype(np.float64, copy=False) - mean) ** 2
    if masked:
        # Of an output without known targets, whose mean is NaN, NaN remains.
        squares[np.isnan(y) & ~np.isnan(mean)] = 0
    out += (w @ squares) if w.size else squares.sum(axis=0)


def score(loss: Any, parts: Array, spreads: Array, masked: bool = False) -> float:
    """The score: accuracy for classes (of a row as a whole), R2 for real targets.

    `parts` and `spreads` are summed over all rows. An output without known targets,
    whose spread is NaN, does not count where `masked`. NaN where a prediction was not
    finite.
    """
    if entry(loss).target != "real":
        return float(parts[0] / parts[1])
    if parts[1]:
        return float("nan")
    errors = parts[2:]
    # As sklearn.metrics.r2_score: an output without spread counts 1 if it is met
    # exactly, else 0.
    scores = np.ones(len(errors))
    spreading, wrong = spreads != 0, errors != 0
    both = spreading & wrong
    scores[both] = 1.0 - errors[both] / spreads[both]
    scores[wrong & ~spreading] = 0.0
    if masked:
        scores = scores[~np.isnan(spreads)]
    return float(scores.mean())
