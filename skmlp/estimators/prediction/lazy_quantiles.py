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
    levels, masked = target.levels, target.masked
    targets = [
        _known(number, masked, *part)
        for number, part in enumerate(
            zip(raw, y, *([] if weights is None else [weights]), strict=True)
        )
    ]
    losses = [
        _losses_of(part, known, levels)
        for part, known in zip(raw, targets, strict=True)
    ]
    (found,) = dask.compute(_score(targets, losses, levels))
    return float(found)


@dask.delayed
def _known(
    number: int, masked: bool, raw: Any, y: Any, w: Any = None
) -> tuple[Array, Array, Array | None, int]:
    """Which targets of a part are known, these, and their weights or None."""
    y = as_values(y)
    w = np.empty(0) if w is None else np.asarray(as_values(w), np.float64)
    check_lengths(number, raw, y, w)
    if masked:
        y = known_or_nan(y)
    check_target(y, masked)
    y = np.asarray(y, np.float64).reshape(-1)
    check_lengths(number, raw, y, w)
    known = np.flatnonzero(~np.isnan(y))
    return known, y[known], w[known] if w.size else None, len(y)


@dask.delayed
def _losses_of(raw: Any, target: Any, levels: Sequence[float]) -> Array:
    """The sum of the weighted pinball losses of a part, for each level."""
    known, y, w, _ = target
    if not y.size:
        return np.zeros(len(levels))
    weight = y.size if w is None else w.sum()
    if not weight:
        return np.zeros(len(levels))
    columns = np.asarray(raw)[known].T
    losses = [
        mean_pinball_loss(y, column, sample_weight=w, alpha=level)
        for level, column in zip(levels, columns, strict=True)
    ]
    return np.asarray(weight * np.array(losses))


@dask.delayed
def _score(targets: Any, losses: Any, levels: Sequence[float]) -> float:
    if not sum(n_rows for *_, n_rows in targets):
        raise ValueError(NO_ROWS)
    y = np.concatenate([part for _, part, _, _ in targets])
    if not y.size:
        raise ValueError(NOTHING_KNOWN)
    parts = [w for _, part, w, _ in targets if part.size]
    w = None if parts[0] is None else np.concatenate(parts)
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
