"""When to stop: the patience of a run, judged by its loss or by a score."""

from __future__ import annotations

import math

from skmlp.arrays import Array
from skmlp.optim import schedules
from skmlp.optim.solvers import SOLVERS
from skmlp.plan import Plan
from skmlp.state import RATE_TOO_SMALL, STANDSTILL, TrainState


def compare(plan: Plan, state: TrainState, loss: float, score: float) -> bool:
    """Compare an epoch with the state's best one, and count those without improvement.

    A score that is not finite never wins, and counts as no improvement. Returns whether
    the epoch's score is the best one, with early stopping.
    """
    if plan.early_stopping:
        finite = math.isfinite(score)
        worse = not finite or score < state.best + plan.tol
        better = finite and score > state.best
    else:
        worse = loss > state.best - plan.tol
        better = loss < state.best
    if better:
        state.best = score if plan.early_stopping else loss
    state.no_improvement = state.no_improvement + 1 if worse else 0
    return better and plan.early_stopping


def model_of(plan: Plan, state: TrainState) -> Array:
    """The parameters that are judged: the last ones, or their average."""
    return state.params if plan.average is None else state.moments[-1]


def at_standstill(plan: Plan, state: TrainState) -> bool:
    """Whether the patience has run out; if so, lower the rate or end the run."""
    if not state.no_improvement > plan.n_iter_no_change:
        return False
    scheduled = SOLVERS[plan.solver].scheduled
    schedule = plan.learning_rate if scheduled else "constant"
    lowered = schedules.at_standstill(schedule, state.learning_rate)
    if plan.early_stopping and not math.isfinite(state.best):
        state.status = STANDSTILL  # no score has been finite
    elif lowered is not None:
        state.learning_rate = lowered
        state.no_improvement = 0
    elif schedule == "adaptive":
        state.status = RATE_TOO_SMALL
    elif plan.early_stopping or not plan.incremental:
        state.status = STANDSTILL
    return True
