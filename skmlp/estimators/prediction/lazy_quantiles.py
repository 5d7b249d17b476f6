"""The score of several quantiles of Dask collections.

D2 compares with the quantiles of the targets themselves, which no sum gives. So the
targets, one number a row, and their weights come together on one worker; rows and
predictions stay where they are, and the driver gets one number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask
import numpy as np
from sklearn.metrics import d2_pinball_score, mean_pinball_loss

from skmlp.arrays import Array
from skmlp.data.checks import NOTHING_KNOWN, check_target, known_or_nan
from skmlp.data.frames import as_values
from skmlp.estimators.prediction.scores import NO_ROWS, check_lengths
from skmlp.estimators.targets.real import Real


def score(target: Real, raw: Any, y: Any, weights: Any = None) -> float:
    """The mean over the quantiles of D2; the lists are of delayed parts."""
    levels, columns = target.levels, [raw, y] + ([] if weights is None else [weights])
    parts = [
        _of_part(number, levels, target.masked, *part)
        for number, part in enumerate(zip(*columns, strict=True))
    ]
    (found,) = dask.compute(_score(parts, levels))
    return float(found)


@dask.delayed
def _of_part(
    number: int, levels: Sequence[float], masked: bool, raw: Any, y: Any, w: Any = None
) -> tuple[int, Array, Array | None, Array]:
    """Its rows, known targets, their weights or None, and the sum of each loss."""
    y = as_values(y)
    w = np.empty(0) if w is None else np.asarray(as_values(w), np.float64)
    check_lengths(number, raw, y, w)
    if masked:
        y = known_or_nan(y)
    check_target(y, masked)
    y = np.asarray(y, np.float64).reshape(-1)
    check_lengths(number, raw, y, w)
    known, n_rows = np.flatnonzero(~np.isnan(y)), len(y)
    y, w = y[known], w[known] if w.size else None
    losses, weight = np.zeros(len(levels)), len(y) if w is None else w.sum()
    if len(y) and weight:
        columns = zip(levels, np.asarray(raw)[known].T, strict=True)
        losses += [
            weight * mean_pinball_loss(y, column, sample_weight=w, alpha=level)
            for level, column in columns
        ]
    return n_rows, y, w, losses


@dask.delayed
def _score(parts: Any, levels: Sequence[float]) -> float:
    counts, targets, weights, losses = zip(*parts, strict=True)
    if not sum(counts):
        raise ValueError(NO_ROWS)
    y = np.concatenate(targets)
    if not y.size:
        raise ValueError(NOTHING_KNOWN)
    known = [w for w in weights if w is not None]
    w = np.concatenate(known) if known else None
    found = np.sum(losses, axis=0) / (y.size if w is None else w.sum())
    spreads = y.min() < y.max()
    scores = []
    for level, loss in zip(levels, found, strict=True):
        best = _loss_of_constant(y, w, level) if spreads else 0.0
        scores.append(1 - loss / best if best else float(not loss))
    return float(np.mean(scores))


def _loss_of_constant(y: Any, w: Any, level: float) -> float:
    """The loss of the targets' own quantile, as scikit-learn finds it.

    Its versions differ in how they do: it is taken from the score of a constant.
    """
    above = np.full(len(y), y.max() + 1.0)
    loss = mean_pinball_loss(y, above, sample_weight=w, alpha=level)
    share = d2_pinball_score(y, above, sample_weight=w, alpha=level)
    return float(loss / (1 - share))
