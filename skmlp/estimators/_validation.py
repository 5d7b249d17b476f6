"""Validation: rows of its own, and scores by any scorer."""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from sklearn.metrics import get_scorer
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _check_sample_weight

from skmlp.estimators import _heads, _real_targets
from skmlp.launch.base import Message
from skmlp.shard_work import PREDICT
from skmlp.stopping import model_of

#: Where no validation rows are given.
NONE = (None, None, None)


def check(estimator, held_out, incremental, weighted):
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
    weighted = weighted or sample_weight_val is not None
    validates = estimator.early_stopping or X_val is not None
    if scorer is not None and weighted and validates:
        check_takes_weights(scorer)


def check_takes_weights(scorer):
    """TypeError if a scorer would be called with an argument that it does not take."""
    try:
        signature = inspect.signature(scorer)
    except ValueError:  # of a callable that is not written in Python
        return
    try:
        signature.bind("estimator", "X", "y", sample_weight=None)
    except TypeError:
        raise TypeError(
            "the rows have weights (sample_weight, or class_weight), so the scorer of "
            "`scoring` is called as scorer(estimator, X, y, sample_weight=...), and it "
            f"does not take that: its arguments are {signature}"
        ) from None


def scorer_of(estimator):
    """The estimator's scorer; None where the ranks themselves give the score."""
    scoring = estimator.scoring
    if scoring is None or (isinstance(scoring, str) and scoring == "loss"):
        return None
    return get_scorer(scoring)


def scoring_of(estimator):
    """What `skmlp.plan.Plan.scoring` says."""
    several = estimator._loss_name() == "quantiles"
    if isinstance(estimator.scoring, str) and estimator.scoring != "loss":
        _heads.check_scoring(estimator)
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
    y : array-like or None
        The caller's targets of the training rows; None if they are on workers.
    held_out : tuple of (X, y, w) or None
        Validation rows of their own, checked and encoded; w is empty for none.
    held_out_y : array-like or None
        Their targets as they came.
    """

    y: object = None
    held_out: tuple | None = None
    held_out_y: object = None

    @property
    def n_rows(self):
        """Validation rows of their own."""
        return 0 if self.held_out is None else self.held_out[0].shape[0]

    def rows(self, X, w, chosen):
        """Rows, targets as they came, and weights or None, for a scorer."""
        if self.held_out is not None:
            X, y, w = self.held_out[0], self.held_out_y, self.held_out[2]
        elif chosen is None:
            return None
        else:
            numbers = chosen[: len(chosen)]
            X, y = X[numbers], _safe_indexing(self.y, numbers)
            w = w[numbers] if w.size else w
        return X, np.asarray(y), w if w.size else None


def of_this_process(estimator, y, held_out, like, shape, weighted):
    """Check validation rows, and bring them into the form of the training rows.

    Parameters
    ----------
    estimator : BaseMLP
        With the classes of the training rows.
    y : array-like
        Targets of the training rows, as they came.
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
        return Validation(y)
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
    return Validation(y, (X, encoded, w), y_val)


def check_known(labels, classes):
    """ValueError if validation targets have labels that the training rows have not."""
    unknown = np.setdiff1d(labels, classes)
    if unknown.size:
        raise ValueError(f"y_val has labels that y has not: {unknown}; y has {classes}")


# -- scores by a scorer, between the rounds --------------------------------------------


def judge(estimator, plan, validation, X, w, start):
    """What gives a state's score where the rows are here; None if no scorer does."""
    scorer = scorer_of(estimator)
    if scorer is None or not plan.n_validation:
        return None
    X, y, w = validation.rows(X, w, start.validation)
    if plan.masked:
        y = _real_targets.table(y)

    def score(state):
        model = _model_of(estimator, plan, state)
        if not plan.masked:
            return _score(scorer, model, X, y, w)

        def known(rows, output):
            return _with_output(model, output), _safe_indexing(X, rows)

        return _score_known(scorer, estimator, model, X, y, w, known)

    return score


def judge_there(estimator, plan, supervisor):
    """As `judge`, where the validation rows are on workers and stay there.

    The ranks send what they predict for these rows, with the targets.
    """
    scorer = scorer_of(estimator)
    if scorer is None or not plan.n_validation:
        return None

    def score(state):
        def order(fresh):
            # A gang that has come in the place of another one knows no model yet.
            arrays = state.to_arrays() if fresh else ()
            return Message(PREDICT, (np.zeros(1, np.int64), *arrays))

        (flat,) = supervisor.ask(order).arrays
        table = flat.reshape(plan.n_validation, -1)
        n_outputs = plan.units[-1]
        raw, y = table[:, :n_outputs], table[:, n_outputs:-1]
        w = table[:, -1] if plan.weighted else None

        def there(raw):
            model = _model_of(estimator, plan, state)
            rows = RowsElsewhere(len(raw), plan.units[0])
            model._forward = lambda X, n_layers=None: rows.predicted(X, raw)
            return model, rows

        def known(rows, output):
            columns = slice(None) if output is None else [output]
            model, X = there(raw[rows][:, columns])
            model.n_outputs_ = 1 if output is not None else n_outputs
            return model, X

        model, rows = there(raw)
        if not plan.masked:
            return _score(scorer, model, rows, estimator._decode(y), w)
        if plan.loss == "quantiles":
            y = y[:, :1]
        return _score_known(scorer, estimator, model, rows, y, w, known)

    return score


def _score(scorer, model, X, y, w):
    weights = {} if w is None else {"sample_weight": w}
    return float(scorer(model, X, y, **weights))


def _score_known(scorer, estimator, model, X, y, w, known):
    """Score each output by itself, over its known targets; their mean.

    Where no target is missing, the scorer gets all of them at once.

    Parameters
    ----------
    scorer, estimator
        Who scores, and what is trained.
    model : BaseMLP
        Fitted.
    X : array-like
        Rows.
    y : ndarray of shape (rows, n_targets)
        Their targets, NaN where they are missing.
    w : ndarray of shape (rows,) or None
        Weights.
    known : callable
        ``known(rows, output)``: a model of this output (None for all), and some rows.
    """
    if not np.isnan(y).any():
        return _score(scorer, model, X, estimator._decode(y), w)
    scores = []
    for output, column in enumerate(y.T):
        rows = np.flatnonzero(~np.isnan(column))
        if rows.size:
            alone = known(rows, output if y.shape[1] > 1 else None)
            its_w = None if w is None else w[rows]
            scores.append(_score(scorer, *alone, column[rows], its_w))
    return float(np.mean(scores))


def _with_output(model, output):
    """A model of one of the outputs; of all if None."""
    if output is None:
        return model
    alone = copy.copy(model)
    alone.coefs_ = [*model.coefs_[:-1], model.coefs_[-1][:, [output]]]
    alone.intercepts_ = [*model.intercepts_[:-1], model.intercepts_[-1][[output]]]
    alone.n_outputs_ = 1
    return alone


def _model_of(estimator, plan, state):
    """A fitted copy of the estimator, with the parameters of a state."""
    model = copy.copy(estimator)
    views = plan.layout.views(model_of(plan, state))
    model.coefs_ = [W for W, _ in views]
    model.intercepts_ = [b for _, b in views]
    model.n_layers_ = len(plan.units)
    model.n_outputs_ = plan.units[-1]
    model.out_activation_ = plan.loss_entry.output
    return model


class RowsElsewhere:
    """Stands for validation rows that are on workers, where a scorer is given them.

    It can be predicted as it is; what wants to see the rows gets an error.
    """

    def __init__(self, n_rows, n_features):
        self.shape = (n_rows, n_features)

    def __len__(self):
        return self.shape[0]

    def predicted(self, X, raw):
        """What was predicted, if it is for these rows."""
        if X is not self:
            raise ValueError(
                "on Dask arrays a scorer can predict the validation rows as a whole "
                "only; they are on the workers"
            )
        return raw

    def __array__(self, dtype=None, copy=None):
        raise ValueError(
            "the validation rows of Dask arrays are on the workers: a scorer can use "
            "the predictions and the targets, but not X"
        )
