"""Scores of validation rows by any scorer, in this process, between the rounds."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics import get_scorer, get_scorer_names
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _check_feature_names

from skmlp.arrays import Array
from skmlp.estimators import array_support, suggestions
from skmlp.estimators.targets.real import table
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

Scorer = Callable[..., Any]


# -- scorers, before they are used -----------------------------------------------------


def scorer_of(scoring: Any) -> Scorer | None:
    """The scorer of `scoring`; None where the ranks themselves give the score."""
    if scoring is None or (isinstance(scoring, str) and scoring == "loss"):
        return None
    try:
        scorer: Scorer = get_scorer(scoring)
    except ValueError as error:
        names = [*get_scorer_names(), "loss"]
        suggestions.point(error, suggestions.for_option("scoring", scoring, names))
        raise
    return scorer


def check_scorer(scorer: Any, weights: Mapping[str, Any]) -> None:
    """TypeError if a scorer, or its metric, does not take what it will be called with.

    `weights` are its arguments by name. The scorers of `make_scorer` hand all that they
    are called with on to a metric.
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
    what: str, function: Scorer, n_arguments: int, named: Mapping[str, Any]
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


# -- the scores of a fit ---------------------------------------------------------------


class Look(NamedTuple):
    """A fitted model of a state, and validation rows for it.

    `y` is as it came; with masked targets a table. ``part(rows, output)`` gives a model
    of one of the outputs (None for all), and some of the rows.
    """

    model: Any
    X: Any
    y: Any
    w: Array | None
    part: Callable[[Array, int | None], tuple[Any, Any]]


@dataclass
class Judge:
    """Scores states by a scorer; `look` gives what it is to see of a state.

    `lacking` names the classes that the validation rows lack.
    """

    estimator: Any
    scoring: Any
    scorer: Scorer
    look: Callable[[TrainState], Look]
    lacking: str = ""

    def __call__(self, state: TrainState) -> float:
        """Return the score of a state."""
        return self._score(self.look(state))

    def check(self, state: TrainState) -> None:
        """ValueError before training if rows that lack a class have no score.

        So too where there is one class in all.
        """
        labels = self.estimator._target.labels
        if labels is None:
            return
        look = self.look(state)
        self.lacking = _lacking(labels, look.y, look.w)
        cause, lack = None, f"The validation rows lack {self.lacking}"
        if not self.lacking:
            if min(map(len, labels)) > 1:
                return
            lack = "The targets lack a second class"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                if np.isfinite(self._score(look)):
                    return
            except ValueError as error:
                cause = error
        raise ValueError(
            f"{lack}, so the validation rows have no finite score by scoring="
            f"{self.scoring!r}. {CURES}"
        ) from cause

    def _score(self, look: Look) -> float:
        """The score; of masked targets the mean over the outputs of the known ones.

        Where no target is missing, the scorer gets all outputs at once.
        """
        model, X, y, w, part = look
        target = self.estimator._target
        if not target.masked:
            return self._call(model, X, y, w)
        if not np.isnan(y).any():
            return self._call(model, X, target.decode(y), w)
        scores = []
        for output, column in enumerate(y.T):
            rows = np.flatnonzero(~np.isnan(column))
            if rows.size:
                alone = part(rows, output if y.shape[1] > 1 else None)
                its_w = None if w is None else w[rows]
                scores.append(self._call(*alone, column[rows], its_w))
        return float(np.mean(scores))

    def _call(self, model: Any, X: Any, y: Any, w: Array | None) -> float:
        weights = {} if w is None else {"sample_weight": w}
        return float(self.scorer(model, X, y, **weights))


def _lacking(labels: list[Array], y: Any, w: Array | None) -> str:
    """Name the classes that no row of positive weight has."""
    table = np.asarray(y).reshape(len(y), -1)
    table = table if w is None else table[w > 0]
    several = len(labels) > 1
    named = []
    for k, (known, column) in enumerate(zip(labels, table.T, strict=True)):
        found, where = {*column.tolist()}, several * f" of column {k}"
        missing = [label for label in known.tolist() if label not in found]
        named += [f"class {label!r}{where}" for label in missing]
    more = [f"{len(named) - 9} more"] if len(named) > 10 else []
    return ", ".join(named[: 9 if more else None] + more)


def judge_here(
    estimator: Any,
    scoring: Any,
    scorer: Scorer,
    plan: Plan,
    X: Any,
    y: Any,
    w: Array | None,
) -> Judge:
    """The `Judge` of validation rows in this process, as they came."""
    y = table(y) if plan.masked else y

    def look(state: TrainState) -> Look:
        model = array_support.predicting_in_numpy(_model_of(estimator, plan, state))
        # The names were compared once, where the rows were checked.
        _check_feature_names(model, X, reset=True)

        def part(rows: Array, output: int | None) -> tuple[Any, Any]:
            alone = array_support.predicting_in_numpy(_with_output(model, output))
            return alone, _safe_indexing(X, rows)

        return Look(model, X, y, w, part)

    return Judge(estimator, scoring, scorer, look)


def judge_there(
    estimator: Any, scoring: Any, scorer: Scorer, plan: Plan, supervisor: Supervisor
) -> Judge:
    """The `Judge` of validation rows on workers, which stay there.

    The ranks send what they predict for these rows, with the targets.
    """

    def look(state: TrainState) -> Look:
        def request(fresh: bool) -> Message:
            # A group that has come in the place of another one knows no model yet.
            arrays = state.to_arrays() if fresh else ()
            return Message(PREDICT, (np.zeros(1, np.int64), *arrays))

        (flat,) = supervisor.request(request).arrays
        numbers = flat.reshape(plan.n_validation, -1)
        n_outputs, target = plan.units[-1], estimator._target
        raw, y = numbers[:, :n_outputs], numbers[:, n_outputs:-1]
        w = numbers[:, -1] if plan.weighted else None

        def part(rows: Any, output: int | None) -> tuple[Any, Any]:
            some = raw[rows][:, slice(None) if output is None else [output]]
            model = _model_of(estimator, plan, state)
            model.n_outputs_ = some.shape[1]
            elsewhere = RowsElsewhere(len(some), estimator.n_features_in_)
            model._forward = lambda X, n_layers=None, finish=None: elsewhere.predicted(
                X, some, finish
            )
            return model, elsewhere

        if not plan.masked:
            y = target.decode(y)
        elif plan.loss == "quantiles":
            y = y[:, :1]
        return Look(*part(slice(None), None), y, w, part)

    return Judge(estimator, scoring, scorer, look)


def _with_output(model: Any, output: int | None) -> Any:
    """A model of one of the outputs; of all if None."""
    if output is None:
        return model
    alone = array_support.twin(model)
    alone.coefs_ = [*model.coefs_[:-1], model.coefs_[-1][:, output : output + 1]]
    of_output = model.intercepts_[-1][output : output + 1]
    alone.intercepts_ = [*model.intercepts_[:-1], of_output]
    alone.n_outputs_ = 1
    return alone


def _model_of(estimator: Any, plan: Plan, state: TrainState) -> Any:
    """A fitted copy of the estimator, with the parameters of a state."""
    model = array_support.twin(estimator)
    set_network(model, plan, model_of(plan, state))
    return model


def set_network(model: Any, plan: Plan, params: Array) -> None:
    """Set the attributes of every fitted network."""
    model.n_layers_ = len(plan.units)
    model.n_outputs_ = plan.units[-1]
    model.out_activation_ = plan.loss_entry.output
    views = plan.layout.views(params)
    array_support.put(model, "coefs_", [W for W, _ in views])
    array_support.put(model, "intercepts_", [b for _, b in views])


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
