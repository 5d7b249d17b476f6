"""Validation: rows of its own, and scores by any scorer."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from sklearn.metrics import get_scorer
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _check_feature_names, _check_sample_weight

from skmlp.estimators import _heads, _real_targets
from skmlp.launch.base import Message
from skmlp.optim.transforms import OPTIMIZERS
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
    validates = estimator.early_stopping or X_val is not None
    if scorer is not None and validates and estimator.solver in OPTIMIZERS:
        weighted = weighted or sample_weight_val is not None
        check_scorer(scorer, {"sample_weight": None} if weighted else {})


def check_scorer(scorer, weights):
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


def _check_call(what, function, n_arguments, named):
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
    given : tuple of (X, y)
        The caller's training rows, or validation rows if there are such, with their
        targets, as they came; of None if they are on workers.
    held_out : tuple of (X, y, w) or None
        Validation rows of their own, checked and encoded; w is empty for none.
    """

    given: tuple = (None, None)
    held_out: tuple | None = None

    @property
    def n_rows(self):
        """Validation rows of their own."""
        return 0 if self.held_out is None else self.held_out[0].shape[0]

    def rows(self, X, w, chosen):
        """Rows and targets as they came, and weights or None, for a scorer.

        What is no frame, series or the like comes as an array, or sparse matrix.
        """
        given_X, y = self.given
        if self.held_out is not None:
            X, _, w = self.held_out
        given_X = given_X if _is_named(given_X) else X
        if self.held_out is None:
            numbers = chosen[: len(chosen)]
            given_X, y = (_safe_indexing(rows, numbers) for rows in (given_X, y))
            w = w[numbers] if w.size else w
        return given_X, y if _is_named(y) else np.asarray(y), w if w.size else None


def _is_named(data):
    """Whether it is a frame or a series, of pandas, polars or the like."""
    return hasattr(data, "columns") or hasattr(data, "to_numpy")


def of_this_process(estimator, given, held_out, like, shape, weighted):
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
        # The names were compared once, where the rows were checked.
        _check_feature_names(model, X, reset=True)
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
            model._forward = lambda X, n_layers=None, finish=None: rows.predicted(
                X, raw, finish
            )
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
    alone = _twin(model)
    alone.coefs_ = [*model.coefs_[:-1], model.coefs_[-1][:, [output]]]
    alone.intercepts_ = [*model.intercepts_[:-1], model.intercepts_[-1][[output]]]
    alone.n_outputs_ = 1
    return alone


def _twin(estimator):
    """A copy that shares all attributes: at each epoch none of them is looked at."""
    twin = type(estimator).__new__(type(estimator))
    vars(twin).update(vars(estimator))
    return twin


def _model_of(estimator, plan, state):
    """A fitted copy of the estimator, with the parameters of a state."""
    model = _twin(estimator)
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

    def predicted(self, X, raw, finish):
        """What was predicted, if it is for these rows; see `BaseMLP._forward`."""
        if X is not self:
            raise ValueError(
                "on Dask arrays a scorer can predict the validation rows as a whole "
                "only; they are on the workers"
            )
        return raw if finish is None else finish(raw, slice(0, len(raw)))

    def __array__(self, dtype=None, copy=None):
        raise ValueError(ON_WORKERS)

    def __getitem__(self, key):
        raise ValueError(ON_WORKERS)

    def __getattr__(self, name):
        raise AttributeError(ON_WORKERS)


ON_WORKERS = (
    "the validation rows of Dask collections are on the workers: a scorer can use the "
    "predictions and the targets, but not X"
)
