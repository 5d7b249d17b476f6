"""Callbacks of a fit: scikit-learn's protocol around the rounds of the supervisor.

Each epoch, or iteration of L-BFGS, is a task below that of the fit. Everything happens
in the driver, wherever the ranks are; so with callbacks a round is one epoch long.
"""

from __future__ import annotations

import copy
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import sklearn
from sklearn.base import BaseEstimator

from skmlp import persistence
from skmlp.estimators import kept
from skmlp.estimators.callbacks import (
    EPOCH,
    FIT,
    ITERATION,
    Callback,
    Training,
    check_callbacks,
)
from skmlp.estimators.checkpoint import Checkpoint, check_same_fit, record_of
from skmlp.estimators.fitting import fitted_attributes
from skmlp.optim.solvers import SOLVERS
from skmlp.plan import Plan
from skmlp.state import ALL_EPOCHS, OUT_OF_TIME, RUNNING, Record, TrainState
from skmlp.training.lbfgs import Minimum
from skmlp.training.supervisor import Outcome, Supervisor

try:
    from sklearn import callback
except ImportError:  # scikit-learn 1.7 and 1.8
    callback = None
CallbackSupportMixin = getattr(callback, "CallbackSupportMixin", None)


@dataclass(eq=False)
class _PlainContext:
    """A task, for the callbacks of this package where scikit-learn has none."""

    callbacks: Sequence[Any]
    task_name: str
    root_uuid: Any

    def subcontext(self, task_name: str) -> _PlainContext:
        return _PlainContext(self.callbacks, task_name, self.root_uuid)

    def call_on_fit_task_begin(self, *, estimator: Any, **unused: Any) -> None:
        for callback in self.callbacks:
            callback.on_fit_task_begin(estimator, self)

    def call_on_fit_task_end(self, *, estimator: Any, **unused: Any) -> bool:
        stops = [c.on_fit_task_end(estimator, self) for c in self.callbacks]
        return any(stops)


class _PlainSupport(BaseEstimator):
    """`set_callbacks` where scikit-learn has no callbacks yet."""

    def set_callbacks(self, *callbacks: Any) -> Self:
        """Set the callbacks of `fit`."""
        for callback in callbacks:
            if not isinstance(callback, Callback):
                raise RuntimeError(
                    "callbacks that are no skmlp.Callback need scikit-learn 1.9 or "
                    f"newer; {sklearn.__version__} is installed"
                )
        if callbacks:
            self._skl_callbacks = list(callbacks)
        elif hasattr(self, "_skl_callbacks"):
            del self._skl_callbacks
        return self

    def __sklearn_clone__(self) -> Any:
        made = super().__sklearn_clone__()
        if "_skl_callbacks" in vars(self):
            made._skl_callbacks = self._skl_callbacks
        return made


class _HandsNothingOn:
    """What meta-estimators inherit where scikit-learn hands no callbacks on."""


_Support: Any = CallbackSupportMixin or _PlainSupport


class CallbackSupport(_Support):
    """`set_callbacks` that says what a callback lacks."""

    def set_callbacks(self, *callbacks: Any) -> Self:
        """Set the callbacks of `fit`.

        Parameters
        ----------
        *callbacks : Callback or other callback instances
            They follow scikit-learn's protocol. Without any, those that were set
            before are taken away.

        Returns
        -------
        self : estimator
            The estimator.

        Raises
        ------
        TypeError
            One of them lacks a method; the message names it.
        RuntimeError
            One of them is no `skmlp.Callback`, and needs scikit-learn 1.9.
        """
        check_callbacks(callbacks)
        super().set_callbacks(*callbacks)
        return self


MetaCallbackSupport: Any = CallbackSupportMixin or _HandsNothingOn


@contextmanager
def watched(estimator: Any, X: Any, y: Any, sample_weight: Any) -> Iterator[None]:
    """Let an estimator's callbacks watch the fit in this block.

    Outside of what undoes a fit that failed: the callbacks are to be torn down even so.
    """
    callbacks = getattr(estimator, "_skl_callbacks", [])
    if not callbacks and not hasattr(estimator, "_parent_callback_ctx"):
        yield
        return
    estimator._training = Training()
    try:
        with _context(estimator, callbacks) as context:
            watch = Watch(estimator, context, X, y, sample_weight)
            context.call_on_fit_task_begin(estimator=estimator, **watch.data)
            if callbacks:
                watch.load(callbacks)
                estimator._watch = watch
            yield
            watch.fitted = True
            context.call_on_fit_task_end(
                estimator=estimator, **watch.data, reconstruction_attributes={}
            )
    finally:
        vars(estimator).pop("_watch", None)
        vars(estimator).pop("_training", None)


@contextmanager
def _context(estimator: Any, callbacks: Sequence[Any]) -> Iterator[Any]:
    """Make the context of the fit's task; tear the callbacks down at the end."""
    if CallbackSupportMixin is not None:
        # scikit-learn's `_fit_context` tears down.
        yield estimator._init_callback_context(
            task_name=FIT, max_subtasks=int(estimator.max_iter)
        )
        return
    context, ready = _PlainContext(callbacks, FIT, uuid.uuid4()), []
    try:
        for callback in callbacks:
            ready.append(callback)
            callback.setup(estimator, context)
        yield context
    finally:
        for callback in ready:
            callback.teardown(estimator, context)


@contextmanager
def handed_on(outer: Any, inner: Any, X: Any, y: Any) -> Iterator[None]:
    """Let the callbacks of an estimator watch the fit of the one inside it."""
    if CallbackSupportMixin is None or not hasattr(inner, "set_callbacks"):
        yield
        return
    context = outer._init_callback_context(task_name=FIT, max_subtasks=1)
    context.call_on_fit_task_begin(estimator=outer, X=X, y=y)
    task = context.subcontext(task_name="fit-network")
    with task.propagate_callback_context(inner):
        task.call_on_fit_task_begin(estimator=outer, X=X, y=y)
        yield
        task.call_on_fit_task_end(estimator=outer, X=X, y=y)
    context.call_on_fit_task_end(estimator=outer, X=X, y=y)


def of(estimator: Any, plan: Plan, start: Any, supervisor: Supervisor) -> Watch | None:
    """The `Watch` of this fit, ready for its rounds; None if nobody watches."""
    watch: Watch | None = vars(estimator).get("_watch")
    if watch is not None:
        watch.open(plan, start, supervisor)
    return watch


class Watch:
    """Tells the callbacks of each round; the supervisor's `Watch`.

    `context` is that of the fit's task, the rest what `fit` was given.
    """

    def __init__(
        self, estimator: Any, context: Any, X: Any, y: Any, sample_weight: Any
    ) -> None:
        self._estimator = estimator
        self._context = context
        self.data: dict[str, Any] = {"X": X, "y": y, "metadata": None}
        if sample_weight is not None:
            self.data["metadata"] = {"sample_weight": sample_weight}
        self._task: Any = None
        #: Whether the estimator itself has been fitted.
        self.fitted = False
        #: What the checkpoint holds that the fit goes on from.
        self.found: dict[str, Any] | None = None
        #: Where that fit's random state stood before its first draw.
        self.drawn_from = None

    def open(self, plan: Plan, start: Any, supervisor: Supervisor) -> None:
        """Take up a run."""
        self._plan, self._start, self._supervisor = plan, start, supervisor
        self._name = EPOCH if plan.solver in SOLVERS else ITERATION
        self._training = self._estimator._training
        self._training.plan = plan

    def begin(self, now: Outcome | Minimum) -> None:
        """Open the task of the next epoch, unless one is open."""
        if self._task is not None:
            return
        self._tell(now)
        self._task = self._context.subcontext(task_name=self._name)
        self._task.call_on_fit_task_begin(
            estimator=self._estimator,
            **self.data,
            reconstruction_attributes=lambda: self._fitted(now),
        )

    def end(self, now: Outcome | Minimum) -> bool:
        """Close the task of the epoch that has ended; True if the fit is to stop."""
        self._tell(now)
        task, self._task = self._task, None
        return bool(
            task.call_on_fit_task_end(
                estimator=self._estimator,
                **self.data,
                reconstruction_attributes=lambda: self._fitted(now),
            )
        )

    def close(self, now: Outcome | Minimum) -> None:
        """End a task that came to nothing; the callbacks get no model of it."""
        self._tell(now)
        task, self._task = self._task, None
        if task is not None:
            task.call_on_fit_task_end(estimator=self._estimator)

    def _tell(self, now: Outcome | Minimum) -> None:
        """Bring the estimator's `Training` up to date."""
        training = self._training
        if isinstance(now, Outcome):
            training.state, training.records = now.state, now.records
            training.losses = [record.loss for record in now.records]
        else:
            training.losses = now.losses
        training.n_ranks = self._supervisor.n_ranks
        training.n_restarts = len(self._supervisor.restarts)

    def _fitted(self, now: Outcome | Minimum) -> dict[str, Any]:
        """The attributes that the fit would leave if it stopped now."""
        return dict(vars(self._model(_apart(now))))

    def _model(self, now: Outcome | Minimum) -> Any:
        """A copy of the estimator, fitted as far as the run has come."""
        model = copy.copy(self._estimator)
        if "history_" in vars(model):
            # A copy, as a pickle, has lost the times.
            model.history_ = self._estimator.history_.copy()
        if self.fitted:
            return model
        if isinstance(now, Outcome):
            fitted_attributes.attributes(model, self._plan, self._start, now)
        else:
            fitted_attributes.attributes_of_minimum(model, self._plan, self._start, now)
        return model

    def checkpoint(self) -> dict[str, Any]:
        """What a checkpoint file holds: the fitted model and the training's state."""
        training = self._training
        now = Outcome(training.state, training.records)
        # The moments hang in both, and are written once.
        return {
            "estimator": kept.tree_of(self._model(now)),
            "training": record_of(training),
            "drawn_from": self._start.drawn_from,
        }

    # -- going on from a checkpoint ----------------------------------------------------

    def load(self, callbacks: Sequence[Any]) -> None:
        """Read the file that a callback says to go on from."""
        for callback in callbacks:
            if isinstance(callback, Checkpoint) and callback.resume:
                self._file = callback.path
                if os.path.exists(callback.path):
                    _, _, content = persistence.read(callback.path, "checkpoint")
                    self.found = {"step_parts": 1, **content["training"]}
                    self.drawn_from = content["drawn_from"]

    def resumed(self, state: TrainState) -> tuple[TrainState, list[Record]]:
        """Where the run begins: the state of the file, if any, and its epochs."""
        if self.found is None:
            return state, []
        plan = self._plan
        check_same_fit(self.found, plan, self._file)
        state = TrainState.from_arrays(tuple(self.found["state"]))
        records = [Record(**record) for record in self.found["records"]]
        early = state.status == ALL_EPOCHS and state.epoch < plan.max_iter
        if early or state.status == OUT_OF_TIME:
            state.status = RUNNING
        elif state.status == RUNNING and state.epoch >= plan.max_iter:
            state.status = ALL_EPOCHS
        return state, records


def _apart(now: Outcome | Minimum) -> Outcome | Minimum:
    """An outcome whose arrays the next epoch does not write to."""
    if not isinstance(now, Outcome):
        return now
    return Outcome(now.state.copy(), list(now.records))


def drawn_from(estimator: Any) -> Any:
    """Where the random state of the fit that is gone on with stood, or None."""
    watch = vars(estimator).get("_watch")
    return None if watch is None else watch.drawn_from


def layout(estimator: Any) -> dict[str, Any] | None:
    """What the checkpoint of the fit that is gone on with says of its plan, or None.

    With the same shards and parts of a step the bits are the same, whoever holds them.
    """
    watch = vars(estimator).get("_watch")
    return None if watch is None else watch.found
