"""Scores as sums over blocks of rows: predictions of all are never in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.utils import check_consistent_length
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from skmlp.arrays import Array
from skmlp.data.checks import NOTHING_KNOWN
from skmlp.estimators.fitting.inputs import check_weights
from skmlp.estimators.targets.target import Target
from skmlp.model import metrics
from skmlp.model.losses import entry
from skmlp.model.predict import row_blocks

NO_ROWS = "Found array with 0 sample(s) while a minimum of 1 is required."

#: What a part of the rows adds to a score: its number of rows, the sums of
#: `skmlp.model.metrics.score_parts`, and for R2 each output's weight, mean and spread.
Sums = dict[str, Any]


def in_blocks(estimator: Any, X: Any, y: Any, sample_weight: Any) -> float | None:
    """The score where a block's sums are enough; None for scikit-learn's own score."""
    check_is_fitted(estimator)
    target: Target = estimator._target
    y = target.scored(y, estimator.n_outputs_)
    if y is None:
        return None
    check_consistent_length(X, y, sample_weight)
    w = np.empty(0)
    if sample_weight is not None:
        w = check_weights(_check_sample_weight(sample_weight, y, dtype=np.float64))
    own = sums(target, estimator, X, y, w, lambda raw, y: (raw, y))
    return score(target, own)


def check_lengths(number: int, raw: Any, y: Any, w: Any) -> None:
    """ValueError unless a part has as many targets, and weights if any, as rows."""
    n_rows = raw.shape[0]
    lengths = {n_rows, len(y), len(w) if w.size else len(y)}
    if len(lengths) > 1:
        raise ValueError(
            "Found input variables with inconsistent numbers of samples: "
            f"{[n_rows, len(y)]} (partition {number})"
        )


def sums(
    target: Target,
    model: Any,
    X: Any,
    y: Any,
    w: Array,
    compared: Callable[[Array, Array], tuple[Array, Array]],
) -> Sums:
    """What some rows add to the score of a model; an empty `w` is for equal weights.

    `compared` makes predictions and encoded targets of those of a block.
    """
    n_rows = y.shape[0]
    real = entry(target.loss).target == "real"
    n_columns = y.shape[1] if real else 0
    mean, spread = np.zeros(n_columns), np.zeros(n_columns)
    weights_and_sums = np.zeros(2 * n_columns)
    parts = np.zeros(metrics.n_parts(target.loss, model.n_outputs_))

    def block(rows: slice) -> tuple[Any, Array]:
        some = y[rows]
        some = some.toarray() if sparse.issparse(some) else some
        return some, w[rows] if w.size else w

    blocks = row_blocks(n_rows, n_columns) if real else []
    for rows in blocks:
        metrics.mean_parts(*block(rows), weights_and_sums, target.masked)
    # A part without weight adds nothing to the mean of all.
    known = weights_and_sums[:n_columns] != 0
    np.copyto(mean, metrics.means(weights_and_sums), where=known)
    for rows in blocks:
        metrics.spread_parts(*block(rows), mean, spread, target.masked)

    def add(raw: Array, rows: slice) -> None:
        of_y, of_w = block(rows)
        pair = compared(raw, of_y)
        metrics.score_parts(
            target.loss, *pair, of_w, parts, target.heads, target.masked
        )

    if n_rows:
        model._forward(X, finish=add)
    weight = weights_and_sums[:n_columns]
    return {
        "rows": n_rows,
        "score": parts,
        "weight": weight,
        "mean": mean,
        "spread": spread,
    }


def added(parts: Sequence[Sums]) -> Sums:
    """The sums of all parts; spreads are those around the mean of all."""
    weights, means, spreads = (
        np.array([part[name] for part in parts])
        for name in ("weight", "mean", "spread")
    )
    total = weights.sum(axis=0)
    with np.errstate(invalid="ignore"):
        mean = (weights * means).sum(axis=0) / total
    return {
        "rows": sum(part["rows"] for part in parts),
        "score": np.sum([part["score"] for part in parts], axis=0),
        "weight": total,
        "mean": mean,
        "spread": (spreads + weights * (means - mean) ** 2).sum(axis=0),
    }


def score(target: Target, sums: Sums) -> float:
    """The score of all rows, from their sums."""
    if not sums["rows"]:
        raise ValueError(NO_ROWS)
    weight, spread = sums["weight"], sums["spread"]
    spread = np.where(weight != 0, spread, np.nan)
    if target.masked and np.isnan(spread).all():
        raise ValueError(f"{NOTHING_KNOWN[:-1]}, or has no weight.")
    return metrics.score(target.loss, sums["score"], spread, target.masked)
