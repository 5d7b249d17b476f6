"""From the end of a run to fitted attributes, warnings and printed lines."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.optimize import _check_optimize_result

from skmlp.config import get_config
from skmlp.estimators.advice import early_stopping, quality, timing_report
from skmlp.estimators.fitting.initial_state import Start
from skmlp.estimators.fitting.judge import Judge, set_network
from skmlp.estimators.fitting.resume import Resume, fingerprint, resume_of
from skmlp.optim.schedules import SMALLEST_ADAPTIVE
from skmlp.optim.solvers import SOLVERS
from skmlp.plan import Plan
from skmlp.rng_state import set_twister_state, twister_state
from skmlp.state import ALL_EPOCHS, DIVERGED, OUT_OF_TIME, Record, TrainState
from skmlp.training.lbfgs import Minimum
from skmlp.training.supervisor import Outcome

INTERRUPTED = "Training interrupted by user."


#: Attributes of the validation rows, and where an epoch's record has them.
_VALIDATION = {
    "validation_scores_": "score",
    "validation_loss_curve_": "validation_loss",
}

#: Lists with an entry for each epoch, of all calls.
CURVES = ("loss_curve_", "history_", *_VALIDATION)


def printer(plan: Plan, epoch: int, verbose: Any) -> Callable[[Sequence[Record]], None]:
    """Make a function that tells of epochs, as scikit-learn words them.

    `epoch` is the number of those that were told of before.
    """
    adaptive = SOLVERS[plan.solver].scheduled and plan.learning_rate == "adaptive"
    what = "Validation score" if plan.early_stopping else "Training loss"
    patience = int(plan.n_iter_no_change) if np.isfinite(plan.n_iter_no_change) else 0
    standstill = (
        f"{what} did not improve more than tol={plan.tol:f} "
        f"for {patience} consecutive epochs."
    )
    tell = timing_report.teller(verbose)

    def show(records: Sequence[Record]) -> None:
        nonlocal epoch
        for record in records:
            epoch += 1
            line = f"Iteration {epoch}, loss = {record.loss:.8f}"
            tell(line, f", {record.seconds:.3g} s")
            if plan.n_validation:
                tell(f"Validation score: {record.score:f}")
            if not record.standstill:
                continue
            if not adaptive:
                tell(standstill + " Stopping.")
            elif record.learning_rate <= SMALLEST_ADAPTIVE:
                tell(standstill + " Learning rate too small. Stopping.")
            else:
                tell(f"{standstill} Setting learning rate to {record.next_rate:f}")

    return show


def _times(record: Record) -> dict[str, Any]:
    """What the history tells of the time that an epoch or iteration took."""
    return {
        "seconds": record.seconds,
        "computing": list(record.computing),
        "waiting": list(record.waiting),
        "communicating": record.communicating,
    }


def _extend(estimator: Any, before: Mapping[str, Any], name: str, values: Any) -> None:
    """Add an entry for each epoch to the list of earlier calls, if there are such.

    In place, so that a call costs the same whatever was before; see
    `skmlp.estimators.base.unchanged_on_error`. At most ``history_length`` are kept.
    """
    known = before.get(name)
    if type(known) is not list:
        known = list(known or ())
    known.extend(values)
    length = get_config()["history_length"]
    # A new list: after an error the old one is there again.
    setattr(estimator, name, known if len(known) <= length else known[-length:])


def without_times(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Records with NaN for all times, which differ from fit to fit."""
    unknown = {"seconds": np.nan, "communicating": np.nan}
    return [
        {
            name: [np.nan] * len(value)
            if name in ("computing", "waiting")
            else unknown.get(name, value)
            for name, value in record.items()
        }
        for record in history
    ]


def _forget(estimator: Any, *names: str) -> None:
    for name in names:
        vars(estimator).pop(name, None)


def minimum(estimator: Any, plan: Plan, start: Start, found: Minimum) -> Any:
    """Adopt the end of an L-BFGS run."""
    attributes_of_minimum(estimator, plan, start, found)
    if found.result is not None:
        estimator.loss_ = found.loss
        estimator.n_iter_ = _check_optimize_result("lbfgs", found.result, plan.max_iter)
    elif found.out_of_time:
        warnings.warn(
            f"lbfgs: max_time was reached after {len(found.losses)} iterations and "
            "the optimization hasn't converged yet.",
            ConvergenceWarning,
            stacklevel=2,
        )
    elif not found.stopped:
        warnings.warn(INTERRUPTED, stacklevel=2)
    return estimator


def attributes_of_minimum(
    estimator: Any, plan: Plan, start: Start, found: Minimum
) -> None:
    """Set what an L-BFGS run has found so far."""
    if not np.isfinite(found.params).all():
        raise ValueError(quality.NOT_FINITE)
    set_network(estimator, plan, found.params.astype(plan.dtype))
    split = resume_of(estimator).get("split")
    _forget(estimator, "_row_order", "_resume")
    if start.first:
        estimator.t_ = 0
        _forget(
            estimator,
            "loss_curve_",
            "best_loss_",
            *_VALIDATION,
            "best_validation_score_",
            "best_epoch_",
            "_no_improvement_count",
        )
    elif split is not None:
        estimator._resume = Resume(split=split)
    told = [
        {"epoch": i, "loss": record.loss, **_times(record)}
        for i, record in enumerate(found.records, 1)
    ]
    _extend(estimator, {}, "history_", told)
    estimator.n_iter_ = len(found.losses)
    if found.losses:
        estimator.loss_ = found.loss


def outcome(
    estimator: Any, plan: Plan, start: Start, end: Outcome, judge: Judge | None = None
) -> Any:
    """Adopt the end of a stochastic run; `judge` has scored it, if not the ranks."""
    attributes(estimator, plan, start, end)
    early_stopping.check(plan, end, judge)
    _keep_order(estimator, plan, start, end.state)
    _tell(plan, end.state, end.interrupted)
    early_stopping.tell(estimator, plan, end)
    return estimator


def attributes(estimator: Any, plan: Plan, start: Start, end: Outcome) -> None:
    """Set what a stochastic run has brought so far."""
    state, records = end.state, end.records
    diverged = state.status == DIVERGED
    if diverged and not (plan.early_stopping and np.isfinite(state.best)):
        raise ValueError(quality.diverged(records[-1].loss))
    before = {} if start.first else vars(estimator)
    params = state.params if plan.average is None else state.moments[-1].copy()
    last = params
    if plan.early_stopping and np.isfinite(state.best):
        params = state.best_params
    resume = _resume_after(estimator, plan, state)
    set_network(estimator, plan, params)
    if start.goes_on and not plan.incremental and not diverged:
        resume["last_params"] = last, fingerprint(estimator)
    estimator._resume = resume
    estimator.n_iter_ = state.epoch
    estimator.t_ = state.samples_seen
    estimator._no_improvement_count = state.no_improvement
    losses = [record.loss for record in records]
    _extend(estimator, before, "loss_curve_", losses)
    if losses:
        estimator.loss_ = losses[-1]
    for name, field in _VALIDATION.items():
        if plan.n_validation:
            values = [getattr(record, field) for record in records]
            _extend(estimator, before, name, values)
        else:
            setattr(estimator, name, None)
    history = before.get("history_")
    epoch = history[-1]["epoch"] if history else 0
    estimator.best_loss_ = None if plan.early_stopping else state.best
    _set_best(estimator, before, plan, end, epoch)
    told = [
        {
            "epoch": epoch + i,
            "loss": record.loss,
            "validation_score": record.score if plan.n_validation else None,
            "validation_loss": record.validation_loss if plan.n_validation else None,
            "learning_rate": record.learning_rate,
            "gradient_norm": record.gradient_norm,
            **_times(record),
        }
        for i, record in enumerate(records, 1)
    ]
    _extend(estimator, before, "history_", told)


def _set_best(
    estimator: Any, before: Mapping[str, Any], plan: Plan, end: Outcome, epoch: int
) -> None:
    """Set the best validation score, and its epoch; `epoch` is the last one before."""
    best, at = before.get("best_validation_score_"), before.get("best_epoch_")
    # A call of `partial_fit` that stops early starts from nothing.
    if best is None or (plan.incremental and plan.early_stopping):
        best = -np.inf
    for i, record in enumerate(end.records, epoch + 1):
        if record.score > best:
            best, at = record.score, i
    if plan.early_stopping:
        best = end.state.best
    scored = plan.n_validation > 0
    estimator.best_validation_score_ = best if scored and np.isfinite(best) else None
    estimator.best_epoch_ = at if scored else None


def _resume_after(estimator: Any, plan: Plan, state: TrainState) -> Resume:
    """What a call after this one goes on with."""
    resume = Resume(
        solver=plan.solver,
        moments=list(state.moments),
        step=state.step,
        schedule_epoch=plan.first_epoch + state.epoch,
        learning_rate=state.learning_rate,
        learning_rate_init=plan.learning_rate_init,
        dropout_key=plan.dropout_key,
    )
    known = resume_of(estimator).get("split")
    if plan.split is not None:
        resume["split"] = plan.split.n_rows, plan.split.rng
    elif known is not None:
        resume["split"] = known
    if plan.average is not None:
        resume["raw_params"] = state.params
    return resume


def _keep_order(estimator: Any, plan: Plan, start: Start, state: TrainState) -> None:
    """Advance the caller's random state; note where the order of the rows stands."""
    _forget(estimator, "_row_order")
    if plan.order_rng is None or state.rng is None:
        return
    # Nobody sees a random state that was made from a seed. Where somebody else has
    # drawn from the same one meanwhile, as concurrent fits on numpy's global one do,
    # setting it would make their draws come twice.
    rng = start.rng
    if rng is not None and (start.shuffles or twister_state(rng) == plan.order_rng):
        set_twister_state(rng, state.rng)
    if start.goes_on:
        resume_of(estimator)["order"] = {
            "n_rows": plan.n_rows,
            "order_rng": plan.order_rng,
            "shuffles": state.shuffles,
            "rng": state.rng,
        }
        if start.known_order is not None:
            estimator._row_order = start.known_order


def _tell(plan: Plan, state: TrainState, interrupted: bool) -> None:
    """Warn of an end that is no convergence."""
    kind: type[Warning] = ConvergenceWarning
    if interrupted:
        text, kind = INTERRUPTED, UserWarning
    elif state.status == DIVERGED:
        text = (
            f"Training diverged in epoch {state.epoch}: the loss or a weight is not "
            "finite, or the loss is over a million times that of a constant "
            "prediction. The weights of the best validation score are kept."
        )
    elif state.status == OUT_OF_TIME:
        text = (
            f"Stochastic Optimizer: max_time was reached after {state.epoch} epochs "
            "and the optimization hasn't converged yet."
        )
    elif state.status == ALL_EPOCHS and not plan.incremental:
        text = (
            f"Stochastic Optimizer: Maximum iterations ({plan.max_iter}) reached and "
            "the optimization hasn't converged yet."
        )
    else:
        return
    warnings.warn(text, kind, stacklevel=2)
