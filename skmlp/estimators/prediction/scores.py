"""Scores of rows in this process, in blocks: predictions of all are never in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from sklearn.utils import check_array, check_consistent_length
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from skmlp.data.checks import NOTHING_KNOWN
from skmlp.data.frames import as_values, is_frame
from skmlp.data.targets import encode
from skmlp.estimators.fitting.inputs import check_weights
from skmlp.estimators.targets import multioutput, real_targets
from skmlp.model import metrics
from skmlp.model.layout import Array
from skmlp.model.predict import row_blocks


def in_blocks(estimator: Any, X: Any, y: Any, sample_weight: Any) -> float | None:
    """The score of a model with several outputs, where a block's sums are enough.

    Parameters
    ----------
    estimator : BaseMLP
        Fitted.
    X, y, sample_weight : array-like
        See `ScoreMixin.score`.

    Returns
    -------
    float or None
        None: scikit-learn's own score is to be taken.
    """
    check_is_fitted(estimator)
    real = not hasattr(estimator, "classes_")
    y = _numbers(estimator, y) if real else _labels(estimator, y)
    if y is None:
        return None
    check_consistent_length(X, y, sample_weight)
    w = np.empty(0)
    if sample_weight is not None:
        w = check_weights(_check_sample_weight(sample_weight, y, dtype=np.float64))
    loss, heads = estimator._loss_name(), multioutput.widths(estimator)
    masked, n_columns = real_targets.masked(estimator), y.shape[1]
    sums, spreads = np.zeros(2 * n_columns), np.zeros(n_columns if real else 0)
    parts = np.zeros(metrics.n_parts(loss, n_columns))

    def block(rows: Any) -> tuple[Array, Array]:
        of_y = y[rows].toarray() if sparse.issparse(y) else y[rows]
        return of_y, w[rows] if w.size else w

    if real:
        for rows in row_blocks(len(y), n_columns):
            metrics.mean_parts(*block(rows), sums, masked)
    means = metrics.means(sums)

    def add(raw: Array, rows: Any) -> None:
        of_y, of_w = block(rows)
        if real:
            metrics.spread_parts(of_y, of_w, means, spreads, masked)
        metrics.score_parts(loss, raw, of_y, of_w, parts, heads, masked)

    estimator._forward(X, finish=add)
    if real and np.isnan(spreads).all():
        raise ValueError(f"{NOTHING_KNOWN[:-1]}, or has no weight.")
    return metrics.score(loss, parts, spreads, masked)


def _labels(estimator: Any, y: Any) -> Any:
    """Encoded labels of several columns; None if these are no such."""
    if not multioutput.widths(estimator):
        return _indicators(estimator, y)
    if is_frame(y):
        y = as_values(y)
    y = check_array(y, dtype=None, ensure_2d=False, input_name="y")
    if y.ndim != 2:
        y = y.reshape(-1, 1)
    multioutput.check_number(estimator, y.shape[1])
    columns = zip(estimator.classes_, multioutput.columns_of(y), strict=True)
    return np.column_stack(
        [encode("heads", [known], column[:, None], None) for known, column in columns]
    )


def _indicators(estimator: Any, y: Any) -> Any:
    """Multilabel targets as they are; None if scikit-learn should look at them."""
    if not estimator._label_binarizer.y_type_.startswith("multilabel"):
        return None
    y = y.tocsr() if sparse.issparse(y) else np.asarray(y)
    if y.ndim != 2 or y.shape[1] != estimator.n_outputs_ or y.dtype == object:
        return None
    blocks = row_blocks(*y.shape)
    return None if any(multioutput.several(y[rows]) for rows in blocks) else y


def _numbers(estimator: Any, y: Any) -> Array | None:
    """Real targets of several outputs, or with gaps; None for scikit-learn's score."""
    masked = real_targets.masked(estimator)
    if estimator.n_outputs_ == 1 and not masked:
        return None
    y = real_targets.plain_table(y, masked)
    if np.isnan(y).all():
        raise ValueError(NOTHING_KNOWN)
    if y.shape[1] != estimator.n_outputs_:
        raise ValueError(
            "y_true and y_pred have different number of output "
            f"({y.shape[1]}!={estimator.n_outputs_})"
        )
    gaps = masked and np.isnan(y).any()
    return y if gaps or (y.shape[1] > 1 and len(y) > 1) else None
