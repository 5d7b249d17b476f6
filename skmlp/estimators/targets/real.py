"""Real targets: their checks, those that are missing, and scores of the known ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.metrics import d2_pinball_score
from sklearn.utils import assert_all_finite, check_array, check_consistent_length
from sklearn.utils.validation import (
    _check_sample_weight,
    column_or_1d,
    validate_data,
)

from skmlp.arrays import Array, dtype_of
from skmlp.data.checks import HOW_TO_MASK, NOTHING_KNOWN
from skmlp.data.partitions import PartStats
from skmlp.data.targets import encode
from skmlp.estimators.advice.quality import check_scale
from skmlp.estimators.fitting.fast_checks import checked_pair, float_dtypes
from skmlp.estimators.targets.target import Target
from skmlp.model.losses import entry

_X = {
    "accept_sparse": ["csr", "csc"],
    "order": "C",
}
_Y = {
    "dtype": (np.float64, np.float32),
    "ensure_2d": False,
    "ensure_all_finite": "allow-nan",
}


class Real(Target):
    """Real values; with `masked`, NaN are targets that are not known.

    `levels` are those of quantiles; several of them predict one and the same target.
    """

    def __init__(
        self, loss: Any, huber_delta: float, levels: Sequence[Any], masked: bool
    ) -> None:
        self.loss, self.masked, self.levels = loss, masked, tuple(levels)
        self.several = isinstance(loss, str) and loss == "quantile" and len(levels) > 1
        if self.several:
            self.loss = "quantiles"
        if isinstance(loss, str) and loss == "huber":
            self.settings = (float(huber_delta),)
        elif isinstance(loss, str) and loss == "quantile":
            self.settings = tuple(float(level) for level in levels)

    def n_outputs(self, n_columns: int) -> int:
        """Those of the targets, or one for each quantile."""
        if not self.several:
            return n_columns
        if n_columns > 1:
            raise ValueError(
                "several quantiles are predicted of one target, but y has "
                f"{n_columns} columns: fit a model for each, or give one quantile"
            )
        return len(self.levels)

    def check(
        self, estimator: Any, X: Any, y: Any, *, reset: bool
    ) -> tuple[Any, Array]:
        """Validate rows and targets; return them, with y encoded."""
        if sparse.issparse(y):
            # In scikit-learn's words, of its other regressors.
            raise TypeError(
                "Sparse data was passed for y, but dense data is required. Use "
                "'.toarray()' to convert to a dense numpy array."
            )
        if self.masked:
            of_X = {**_X, "dtype": float_dtypes(X)}
            X, y = validate_data(
                estimator, X, y, validate_separately=(of_X, _Y), reset=reset
            )
            check_consistent_length(X, y)
            if reset:
                check_scale(estimator, X)
            smallest = np.fmin.reduce(y, axis=None, initial=np.inf)
        else:
            given = y
            try:
                X, y = checked_pair(estimator, X, y, reset=reset, y_numeric=True)
                # Objects become numbers after scikit-learn's check of them.
                if y.dtype.kind == "f" and y is not given:
                    assert_all_finite(y, input_name="y")
            except ValueError as error:
                if "y contains NaN" not in str(error):
                    raise
                raise ValueError(f"{error} {HOW_TO_MASK}") from None
            if y.dtype.kind not in "fiub":
                dtype = y.dtype
                raise ValueError(f"y must hold real numbers, but its dtype is {dtype}")
            smallest = y.min()
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        self._check_smallest(smallest)
        return X, encode("real", None, y, dtype_of(X))

    def check_validation(self, estimator: Any, X: Any, y: Any) -> tuple[Any, Array]:
        """As `check`."""
        return self.check(estimator, X, y, reset=False)

    def check_stats(self, stats: PartStats) -> None:
        """Refuse what the loss is not defined for."""
        self._check_smallest(stats.y_min)

    def _check_smallest(self, smallest: float) -> None:
        """ValueError if no target is known, or the loss is not defined for one."""
        if smallest == np.inf:
            raise ValueError(NOTHING_KNOWN)
        takes = entry(self.loss).takes
        if takes == "not negative" and smallest < 0:
            raise ValueError(
                f"loss={self.loss!r} takes targets that are zero or greater, but the "
                f"smallest is {smallest:g}"
            )
        if takes == "positive" and smallest <= 0:
            raise ValueError(
                f"loss={self.loss!r} takes targets greater than zero, but the "
                f"smallest is {smallest:g}"
            )

    def decode(self, y: Array) -> Any:
        """Values of one target, also of several quantiles, in one dimension."""
        return y[:, 0] if y.shape[1] == 1 or self.several else y

    def check_scoring(self, scoring: str) -> None:
        """Refuse several quantiles."""
        if self.several:
            raise ValueError(
                f"scoring={scoring!r}: scikit-learn's scorers compare one "
                "prediction with each target, but there are several quantiles. None "
                "and 'loss' score by the validation loss; a function "
                "scorer(estimator, X, y) may do as it likes"
            )

    def scored(self, y: Any, n_outputs: int) -> Array | None:
        """Targets of several outputs, or with gaps."""
        if n_outputs == 1 and not self.masked:
            return None
        y = plain_table(y, self.masked)
        if np.isnan(y).all():
            raise ValueError(NOTHING_KNOWN)
        if y.shape[1] != n_outputs:
            raise ValueError(
                "y_true and y_pred have different number of output "
                f"({y.shape[1]}!={n_outputs})"
            )
        gaps = self.masked and np.isnan(y).any()
        return y if gaps or (y.shape[1] > 1 and len(y) > 1) else None

    def compared(self, raw: Array, y: Array) -> tuple[Array, Array]:
        """Both as they are."""
        return raw, y

    def score_quantiles(self, y: Any, predictions: Array, sample_weight: Any) -> float:
        """The mean over the quantiles of D2, of targets that are known."""
        if self.masked:
            check_consistent_length(y, predictions, sample_weight)
            y = plain_table(y, masked=True)[:, 0]
            rows = np.flatnonzero(~np.isnan(y))
            if not rows.size:
                raise ValueError(NOTHING_KNOWN)
            if sample_weight is not None:
                w = _check_sample_weight(sample_weight, y, dtype=np.float64)
                sample_weight = w[rows]
            y, predictions = y[rows], predictions[rows]
        return d2_of_quantiles(self.levels, y, predictions, sample_weight)


def as_levels(quantile: Any) -> tuple[Any, ...]:
    """The levels of the parameter `quantile`, as a tuple; one for a number."""
    several = isinstance(quantile, (list, tuple, np.ndarray))
    return tuple(quantile) if several else (quantile,)


def table(y: Any) -> Array:
    """Targets of which some may be missing, as floats of shape (rows, n_targets)."""
    return encode("real", None, check_array(y, **_Y, input_name="y"), np.float64)


def plain_table(y: Any, masked: bool) -> Array:
    """Targets as `table` has them, float32 as it is; if `masked`, NaN may be there."""
    settings = {**_Y, "ensure_all_finite": "allow-nan" if masked else True}
    table: Array = check_array(y, **settings, input_name="y")
    return table.reshape(-1, 1) if table.ndim == 1 else table


def d2_of_quantiles(
    levels: Sequence[float], y: Any, predictions: Array, sample_weight: Any
) -> float:
    """The mean over the quantiles of D2, the share of the pinball loss explained."""
    y = np.asarray(y).reshape(-1)
    scores = [
        d2_pinball_score(y, column, sample_weight=sample_weight, alpha=level)
        for column, level in zip(predictions.T, levels, strict=True)
    ]
    return float(np.mean(scores))
