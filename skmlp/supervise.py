"""The driver's side of a fit: it asks the gang for rounds and keeps the state."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy
from scipy import optimize

from skmlp.launch.base import Gang, Message
from skmlp.plan import Plan
from skmlp.shard_work import EVALUATE, TRAIN
from skmlp.state import RUNNING, Record, TrainState

Array = np.ndarray[Any, np.dtype[Any]]
Observe = Callable[[list[Record]], None]

#: A round is an epoch or about so long, whichever is longer.
ROUND_SECONDS = 1.0


@dataclass
class Outcome:
    """How a stochastic run ended.

    Attributes
    ----------
    state : TrainState
        After the last finished epoch.
    records : list of Record
        All epochs of the run.
    interrupted : bool
        Ctrl-C ended it.
    """

    state: TrainState
    records: list[Record] = field(default_factory=list)
    interrupted: bool = False


def train(gang: Gang, plan: Plan, state: TrainState, observe: Observe) -> Outcome:
    """Run epochs until the plan's end.

    Parameters
    ----------
    gang : Gang
        Where.
    plan : Plan
        What.
    state : TrainState
        The start; its arrays are not written.
    observe : callable
        Called with the records of each round, in this thread.

    Returns
    -------
    Outcome
    """
    outcome = Outcome(state)
    arrays = state.to_arrays()
    n_epochs = 1
    try:
        while outcome.state.status == RUNNING:
            asked = Message(TRAIN, (np.array([n_epochs], dtype=np.int64), *arrays))
            arrays = ()
            began = time.perf_counter()
            _take_over(outcome, gang.ask(asked), observe)
            # The length of a round never changes a bit, so a clock may choose it.
            pace = (time.perf_counter() - began) / n_epochs
            n_epochs = int(np.clip(ROUND_SECONDS / max(pace, 1e-9), 1, 4 * n_epochs))
            n_epochs = min(n_epochs, max(plan.max_iter - outcome.state.epoch, 1))
    except KeyboardInterrupt:
        # Ranks that are still computing would write to what we read.
        gang.close()
        outcome.interrupted = True
        commit = gang.last_commit()
        if commit is not None:
            _take_over(outcome, commit, observe)
    return outcome


def _take_over(outcome: Outcome, message: Message, observe: Observe) -> None:
    """Adopt the state of an answer or of a commit, and the records that are news.

    A commit of the epoch that was answered last is taken too: the answer of a rank in
    this process shows its arrays as they are now, in the midst of the next epoch.
    """
    state = TrainState.from_arrays(message.arrays)
    news = state.epoch - outcome.state.epoch
    if news < 0:
        return
    outcome.state = state
    if news:
        outcome.records += state.records[-news:]
        observe(state.records[-news:])


@dataclass
class Minimum:
    """How an L-BFGS run ended.

    Attributes
    ----------
    params : ndarray of shape (size,)
        The last accepted point, float64.
    loss : float
        The reported loss there.
    result : scipy.optimize.OptimizeResult or None
        What SciPy says; None after Ctrl-C.
    losses : list of float
        The reported loss after each finished iteration.
    """

    params: Array
    loss: float
    result: Any
    losses: list[float]


def minimize(
    gang: Gang, plan: Plan, params: Array, max_fun: int, *, show: bool
) -> Minimum:
    """Run SciPy's L-BFGS-B here; the ranks answer with loss and gradient.

    It minimises the loss whose gradient it gets: for several outputs the sum over the
    outputs, also where the reported loss is their mean.

    Parameters
    ----------
    gang, plan
        Where and what.
    params : ndarray of shape (size,)
        The start.
    max_fun : int
        The most evaluations.
    show : bool
        Let SciPy print.

    References
    ----------
    Byrd, Lu, Nocedal and Zhu, "A limited memory algorithm for bound constrained
    optimization", SIAM J. Scientific Computing 16, 1995.
    """
    n_weights = plan.layout.n_weights
    reported: dict[float, float] = {}
    dtype = np.dtype(plan.dtype)

    def evaluate(x: Array) -> tuple[float, Array]:
        sums, gradient = gang.ask(
            Message(EVALUATE, (x.astype(dtype, copy=False),))
        ).arrays
        weights = x[:n_weights]
        gradient = gradient.astype(np.float64)
        gradient[:n_weights] += plan.alpha * weights
        total, divisor = (float(part) for part in sums)
        gradient /= divisor
        penalty = 0.5 * plan.alpha * float(np.dot(weights, weights))
        value = (total + penalty) / divisor
        reported[value] = (total * plan.loss_scale + penalty) / divisor
        return value, gradient

    # The points that SciPy accepts are all that is left after Ctrl-C.
    last = Minimum(params.astype(np.float64), np.nan, None, [])

    def accepted(intermediate_result: Any) -> None:
        last.params = np.array(intermediate_result.x)
        last.loss = reported[float(intermediate_result.fun)]
        last.losses.append(last.loss)
        reported.clear()
        reported[float(intermediate_result.fun)] = last.loss

    options: dict[str, Any] = {
        "maxfun": max_fun,
        "maxiter": plan.max_iter,
        "gtol": plan.tol,
    }
    if tuple(int(part) for part in scipy.__version__.split(".")[:2]) < (1, 15):
        options["iprint"] = 1 if show else -1
    try:
        with np.errstate(all="ignore"):
            result = optimize.minimize(
                evaluate,
                last.params,
                method="L-BFGS-B",
                jac=True,
                options=options,
                callback=accepted,
            )
    except KeyboardInterrupt:
        gang.close()
        return last
    loss = reported.get(float(result.fun), float(result.fun))
    return Minimum(result.x, loss, result, last.losses)
