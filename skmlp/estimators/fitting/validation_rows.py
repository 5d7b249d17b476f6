"""Validation: rows of its own, and which scorers can score them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.metrics import get_scorer, get_scorer_names
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _check_sample_weight

from skmlp.estimators import suggestions
from skmlp.estimators.fitting.inputs import HeldOut
from skmlp.estimators.targets import multioutput
from skmlp.model.layout import Array
from skmlp.optim.solvers import SOLVERS

#: Where no validation rows are given.
NONE = (None, None, None)


def check(estimator: Any, held_out: HeldOut, incremental: bool, weighted: bool) -> None:
    """Refuse what can't go together, before any data is looked at.

    `weighted` says that the training rows have weights.
    """
    X_val, y_val, sample_weight_val = held_out
    if X_val is None and y_val is not None:
        raise ValueError("y_val is provided, but X_val was not provided.")
    if X_val is not None and y_val is None:
        raise ValueError("X_val is provided, but y_val was not provided.")
    if X_val is None and sample_weight_val is not None:
        raise ValueError("sample_weight_val is provided, but X_val was not provided.")
    if incremental and estimator.early_stopping and X_val is None:
        raise ValueError("partial_fit does not support early_stopping=True")
    scorer = scorer_of(estimator)
    validates = estimator.early_stopping or X_val is not None
    if scorer is not None and validates and estimator.solver in SOLVERS:
        weighted = weighted or sample_weight_val is not None
        check_scorer(scorer, {"sample_weight": None} if weighted else {})


def check_scorer(scorer: Callable[..., Any], weights: Mapping[str, Any]) -> None:
    """TypeError if a scorer, or its metric, does not take what it will be called with.

    Parameters
    ----------
    scorer : callable
        ``scorer(estimator, X, y)``; perhaps made by `make_scorer`, whose scorers hand
        all that they are called with on to a metric.
    weights : dict
        Its arguments by name.
    """
    call = "".join(f", {name}=..." for name in weights)
    _check_call(
        f"the scorer of `scoring` is called as scorer(estimator, X, y{call})",
        *(scorer, 3, weights),
    )
    metric = getattr(scorer, "_score_func", None)
    if metric is not None:
        _check_call(
            f"the metric {getattr(metric, '__name__', metric)!r} of the scorer of "
            f"`scoring` is called as metric(y_true, y_pred{call})",
            *(metric, 2, {**getattr(scorer, "_kwargs", {}), **weights}),
        )


def _check_call(
    what: str, function: Callable[..., Any], n_arguments: int, named: Mapping[str, Any]
) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # of a callable that is not written in Python
        return
    try:
        signature.bind(*range(n_arguments), **named)
    except TypeError as error:
        why = cure = ""
        if "sample_weight" in named:
            why = "the rows have weights (sample_weight, or class_weight), so "
            cure = "; give the function that argument, or use scoring='loss'"
        elif n_arguments == 3:
            cure = "; sklearn.metrics.make_scorer makes a scorer of a metric"
        raise TypeError(
            f"{why}{what}, and it does not take that: its arguments are {signature}"
            f" ({error}){cure}"
        ) from None


def scorer_of(estimator: Any) -> Callable[..., Any] | None:
    """The estimator's scorer; None where the ranks themselves give the score."""
    scoring = estimator.scoring
    if scoring is None or (isinstance(scoring, str) and scoring == "loss"):
        return None
    try:
        scorer: Callable[..., Any] = get_scorer(scoring)
    except ValueError as error:
        names = [*get_scorer_names(), "loss"]
        suggestions.point(error, suggestions.for_option("scoring", scoring, names))
        raise
    return scorer


def scoring_of(estimator: Any) -> str:
    """What `skmlp.plan.Plan.scoring` says."""
    several = estimator._loss_name() == "quantiles"
    if isinstance(estimator.scoring, str) and estimator.scoring != "loss":
        multioutput.check_scoring(estimator)
        if several:
            raise ValueError(
                f"scoring={estimator.scoring!r}: scikit-learn's scorers compare one "
                "prediction with each target, but there are several quantiles. None "
                "and 'loss' score by the validation loss; a function "
                "scorer(estimator, X, y) may do as it likes"
            )
    if scorer_of(estimator) is not None:
        return "driver"
    # R2 would draw all of several quantiles to the mean.
    return "default" if estimator.scoring is None and not several else "loss"


@dataclass
class Validation:
    """What is needed of the validation rows in this process.

    Attributes
    ----------
    given : tuple of (X, y)
        The caller's training rows, or validation rows if there are such, with their
        targets, as they came; of None if they are on workers.
    held_out : tuple of (X, y, w) or None
        Validation rows of their own, checked and encoded; w is empty for none.
    """

    given: tuple[Any, Any] = (None, None)
    held_out: tuple[Any, Array, Array] | None = None

    @property
    def n_rows(self) -> int:
        """Validation rows of their own."""
        return 0 if self.held_out is None else self.held_out[0].shape[0]

    def rows(self, X: Any, w: Array, chosen: Any) -> tuple[Any, Any, Array | None]:
        """Rows and targets as they came, and weights or None, for a scorer.

        What is no frame, series or the like comes as an array, or sparse matrix.
        """
        given_X, y = self.given
        if self.held_out is not None:
            X, _, w = self.held_out
        given_X = given_X if _is_named(given_X) else X
        y = y.toarray() if sparse.issparse(y) else y
        if self.held_out is None:
            numbers = chosen[: len(chosen)]
            given_X, y = (_safe_indexing(rows, numbers) for rows in (given_X, y))
            w = w[numbers] if w.size else w
        return given_X, y if _is_named(y) else np.asarray(y), w if w.size else None


def _is_named(data: Any) -> bool:
    """Whether it is a frame or a series, of pandas, polars or the like."""
    return hasattr(data, "columns") or hasattr(data, "to_numpy")


def of_this_process(
    estimator: Any,
    given: Any,
    held_out: HeldOut,
    like: Any,
    shape: tuple[int, ...],
    weighted: bool,
) -> Validation:
    """Check validation rows, and bring them into the form of the training rows.

    Parameters
    ----------
    estimator : BaseMLP
        With the classes of the training rows.
    given : tuple of (X, y)
        Training rows and their targets, as they came.
    held_out : tuple of (X_val, y_val, sample_weight_val)
        The caller's.
    like : ndarray or csr matrix
        The training rows.
    shape : tuple of int
        Of one row of their encoded targets.
    weighted : bool
        Whether they have weights.

    Returns
    -------
    Validation
    """
    X_val, y_val, sample_weight_val = held_out
    if X_val is None:
        return Validation(given)
    X, encoded = estimator._check_validation(X_val, y_val)
    if encoded.shape[1:] != shape:
        raise ValueError(
            f"y_val has targets of shape {encoded.shape[1:]} for each row, but y has "
            f"{shape}"
        )
    X = X.astype(like.dtype, copy=False)
    if sparse.issparse(X):
        X = X.tocsr() if sparse.issparse(like) else X.toarray()
    elif sparse.issparse(like):
        X = sparse.csr_array(X)
    w = np.empty(0, like.dtype)
    if sample_weight_val is not None:
        w = _check_sample_weight(sample_weight_val, X)
        if w.sum(dtype=np.float64) <= 0:
            raise ValueError(
                "Sample weights must contain a number that is not 0, and the sum of "
                "sample_weight_val must be greater than zero; it is "
                f"{w.sum(dtype=np.float64):g}"
            )
    elif weighted:
        w = np.ones(X.shape[0])
    return Validation((X_val, y_val), (X, encoded, w))


def check_known(labels: Any, classes: Any) -> None:
    """ValueError if validation targets have labels that the training rows have not."""
    unknown = np.setdiff1d(labels, classes)
    if unknown.size:
        raise ValueError(f"y_val has labels that y has not: {unknown}; y has {classes}")
