"""Scores of validation rows by any scorer, in this process, between the rounds."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import is_classifier
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _check_feature_names

from skmlp.estimators.fitting import validation_rows
from skmlp.estimators.fitting.validation_rows import Validation
from skmlp.estimators.targets import class_weights, real_targets
from skmlp.model.layout import Array
from skmlp.plan import Plan
from skmlp.state import TrainState
from skmlp.training.protocol import Message
from skmlp.training.rank import PREDICT
from skmlp.training.stopping import model_of
from skmlp.training.supervisor import Supervisor

#: What to do about validation rows that give no score.
CURES = (
    "Pass rows of every class as X_val and y_val, set scoring='loss', or set a larger "
    "validation_fraction."
)


@dataclass
class Judge:
    """Scores states, by a scorer, in this process.

    Attributes
    ----------
    estimator : BaseMLP
        Whose scorer it is.
    score : callable
        Gives the score of a state.
    targets : callable
        Gives targets, as they came, and weights or None of the validation rows, asked
        with a state.
    lacking : str
        The classes that these rows lack, in words.
    """

    estimator: Any
    score: Callable[[TrainState], float]
    targets: Callable[[TrainState], tuple[Any, Array | None]]
    lacking: str = ""

    def __call__(self, state: TrainState) -> float:
        """Return the score of a state."""
        return self.score(state)

    def check(self, state: TrainState) -> None:
        """ValueError before training if rows that lack a class have no score."""
        if not is_classifier(self.estimator):
            return
        self.lacking = _lacking(self.estimator, *self.targets(state))
        cause = None
        if not self.lacking:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                if np.isfinite(self.score(state)):
                    return
            except ValueError as error:
                cause = error
        raise ValueError(
            f"The validation rows lack {self.lacking}, so they have no finite score "
            f"by scoring={self.estimator.scoring!r}. {CURES}"
        ) from cause


def _lacking(estimator: Any, y: Any, w: Array | None) -> str:
    """Name the classes that no row of positive weight has."""
    table = np.asarray(y).reshape(len(y), -1)
    table = table if w is None else table[w > 0]
    labels = class_weights.labels_of(estimator, table.shape[1])
    several = len(labels) > 1
    named = []
    for k, (known, column) in enumerate(zip(labels, table.T, strict=True)):
        found, where = {*column.tolist()}, several * f" of column {k}"
        missing = [label for label in known.tolist() if label not in found]
        named += [f"class {label!r}{where}" for label in missing]
    more = [f"{len(named) - 9} more"] if len(named) > 10 else []
    return ", ".join(named[: 9 if more else None] + more)


def judge(
    estimator: Any, plan: Plan, validation: Validation, X: Any, w: Array, start: Any
) -> Judge | None:
    """The `Judge` where the rows are here; None if no scorer is asked."""
    scorer = validation_rows.scorer_of(estimator)
    if scorer is None or not plan.n_validation:
        return None
    X, y, weights = validation.rows(X, w, start.validation)
    if plan.masked:
        y = real_targets.table(y)

    def score(state: TrainState) -> float:
        model = _model_of(estimator, plan, state)
        # The names were compared once, where the rows were checked.
        _check_feature_names(model, X, reset=True)
        if not plan.masked:
            return _score(scorer, model, X, y, weights)

        def known(rows: Any, output: int | None) -> tuple[Any, Any]:
            return _with_output(model, output), _safe_indexing(X, rows)

        return _score_known(scorer, estimator, model, X, y, weights, known)

    return Judge(estimator, score, lambda state: (y, weights))


def judge_there(estimator: Any, plan: Plan, supervisor: Supervisor) -> Judge | None:
    """As `judge`, where the validation rows are on workers and stay there.

    The ranks send what they predict for these rows, with the targets.
    """
    scorer = validation_rows.scorer_of(estimator)
    if scorer is None or not plan.n_validation:
        return None

    def look(state: TrainState) -> tuple[Array, Array, Array | None]:
        """Raw predictions, encoded targets, and weights or None."""

        def order(fresh: bool) -> Message:
            # A group that has come in the place of another one knows no model yet.
            arrays = state.to_arrays() if fresh else ()
            return Message(PREDICT, (np.zeros(1, np.int64), *arrays))

        (flat,) = supervisor.request(order).arrays
        table = flat.reshape(plan.n_validation, -1)
        n_outputs = plan.units[-1]
        raw, y = table[:, :n_outputs], table[:, n_outputs:-1]
        return raw, y, table[:, -1] if plan.weighted else None

    def targets(state: TrainState) -> tuple[Any, Array | None]:
        _, y, w = look(state)
        return estimator._decode(y), w

    def score(state: TrainState) -> float:
        raw, y, w = look(state)

        def there(raw: Array) -> tuple[Any, RowsElsewhere]:
            model = _model_of(estimator, plan, state)
            rows = RowsElsewhere(len(raw), plan.units[0])
            model._forward = lambda X, n_layers=None, finish=None: rows.predicted(
                X, raw, finish
            )
            return model, rows

        def known(rows: Any, output: int | None) -> tuple[Any, Any]:
            columns = slice(None) if output is None else [output]
            model, X = there(raw[rows][:, columns])
            model.n_outputs_ = 1 if output is not None else raw.shape[1]
            return model, X

        model, rows = there(raw)
        if not plan.masked:
            return _score(scorer, model, rows, estimator._decode(y), w)
        if plan.loss == "quantiles":
            y = y[:, :1]
        return _score_known(scorer, estimator, model, rows, y, w, known)

    return Judge(estimator, score, targets)


def _score(
    scorer: Callable[..., Any], model: Any, X: Any, y: Any, w: Array | None
) -> float:
    weights = {} if w is None else {"sample_weight": w}
    return float(scorer(model, X, y, **weights))


def _score_known(
    scorer: Callable[..., Any],
    estimator: Any,
    model: Any,
    X: Any,
    y: Any,
    w: Array | None,
    known: Callable[..., tuple[Any, Any]],
) -> float:
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


def _with_output(model: Any, output: int | None) -> Any:
    """A model of one of the outputs; of all if None."""
    if output is None:
        return model
    alone = _twin(model)
    alone.coefs_ = [*model.coefs_[:-1], model.coefs_[-1][:, [output]]]
    alone.intercepts_ = [*model.intercepts_[:-1], model.intercepts_[-1][[output]]]
    alone.n_outputs_ = 1
    return alone


def _twin(estimator: Any) -> Any:
    """A copy that shares all attributes: at each epoch none of them is looked at."""
    twin: Any = object.__new__(type(estimator))
    vars(twin).update(vars(estimator))
    return twin


def _model_of(estimator: Any, plan: Plan, state: TrainState) -> Any:
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

    def __init__(self, n_rows: int, n_features: int) -> None:
        self.shape = (n_rows, n_features)

    def __len__(self) -> int:
        return self.shape[0]

    def predicted(self, X: Any, raw: Array, finish: Any) -> Any:
        """What was predicted, if it is for these rows; see `BaseMLP._forward`."""
        if X is not self:
            raise ValueError(
                "on Dask arrays a scorer can predict the validation rows as a whole "
                "only; they are on the workers"
            )
        return raw if finish is None else finish(raw, slice(0, len(raw)))

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise ValueError(ON_WORKERS)

    def __getitem__(self, key: Any) -> Any:
        raise ValueError(ON_WORKERS)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(ON_WORKERS)


ON_WORKERS = (
    "the validation rows of Dask collections are on the workers: a scorer can use the "
    "predictions and the targets, but not X"
)
