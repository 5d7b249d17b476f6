"""L-BFGS: SciPy runs here, in the driver; the ranks answer with loss and gradient."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy
from scipy import optimize

from skmlp.arrays import Array
from skmlp.plan import Plan
from skmlp.state import Record
from skmlp.threads import blas_limit
from skmlp.training.protocol import Message
from skmlp.training.rank import EVALUATE
from skmlp.training.supervisor import Supervisor, Watch


@dataclass
class Minimum:
    """How an L-BFGS run ended.

    `params`, float64, is the last accepted point, and `loss` what is reported there.
    `result` is SciPy's, None after Ctrl-C, or if a callback or the deadline ended the
    run. `losses` and `records` have an entry for each finished iteration.
    """

    params: Array
    loss: float
    result: Any
    losses: list[float]
    records: list[Record] = field(default_factory=list)
    stopped: bool = False
    out_of_time: bool = False


def _record(loss: float, times: list[Array]) -> Record:
    """The record of an iteration, from the times of its evaluations by one group."""
    unknown = math.nan
    if not times:  # SciPy knew the point from an earlier evaluation
        return Record(loss, unknown, unknown, 0, unknown, 0.0)
    of_one_gang = [row for row in times if row.size == times[-1].size]
    seconds, *computing = np.sum(of_one_gang, axis=0).tolist()
    return Record(loss, unknown, unknown, 0, unknown, seconds, tuple(computing))


class _Stopped(Exception):
    """A callback, or the deadline, has ended the run."""


def minimize(
    supervisor: Supervisor,
    plan: Plan,
    params: Array,
    max_fun: int,
    *,
    show: bool,
    watch: Watch | None = None,
    deadline: float | None = None,
    unit: float = 1.0,
) -> Minimum:
    """Run SciPy's L-BFGS-B here, from `params`; the ranks give loss and gradient.

    It minimises the loss whose gradient it gets: for several outputs the sum over the
    outputs, also where the reported loss is their mean. SciPy takes the loss `unit` for
    1: both of its tolerances are absolute for smaller ones. `show` lets it print.

    References
    ----------
    Byrd, Lu, Nocedal and Zhu, "A limited memory algorithm for bound constrained
    optimization", SIAM J. Scientific Computing 16, 1995.
    """
    n_weights = plan.layout.n_weights
    # What has neither penalty nor gradient is moved by no step.
    frozen = [part for layer in plan.frozen for part in plan.layout.slices()[layer]]
    reported: dict[float, float] = {}
    times: list[Array] = []
    dtype = np.dtype(plan.dtype)

    def evaluate(x: Array) -> tuple[float, Array]:
        if watch is not None:
            watch.begin(last)
        order = Message(EVALUATE, (x.astype(dtype, copy=False),))
        sums, gradient = supervisor.request(lambda fresh: order).arrays
        weights = x[:n_weights]
        gradient = gradient.astype(np.float64)
        if frozen:
            weights = weights.copy()
        for part in frozen:
            weights[part] = gradient[part] = 0.0
        gradient[:n_weights] += plan.alpha * weights
        total, divisor = (float(part) for part in sums[:2])
        times.append(sums[2:])
        gradient /= divisor * unit
        penalty = 0.5 * plan.alpha * float(np.dot(weights, weights))
        value = (total + penalty) / (divisor * unit)
        reported[value] = (total * plan.loss_scale + penalty) / divisor
        return value, gradient

    # The points that SciPy accepts are all that is left after Ctrl-C.
    last = Minimum(params.astype(np.float64), np.nan, None, [])

    def accepted(intermediate_result: Any) -> None:
        last.params = np.array(intermediate_result.x)
        last.loss = reported[float(intermediate_result.fun)]
        last.losses.append(last.loss)
        last.records.append(_record(last.loss, times))
        times.clear()
        supervisor.epoch = len(last.losses)
        reported.clear()
        reported[float(intermediate_result.fun)] = last.loss
        if watch is not None and watch.end(last):
            raise _Stopped
        if deadline is not None and time.monotonic() >= deadline:
            last.out_of_time = True
            raise _Stopped

    options: dict[str, Any] = {
        "maxfun": max_fun,
        "maxiter": plan.max_iter,
        "gtol": plan.tol,
    }
    if tuple(int(part) for part in scipy.__version__.split(".")[:2]) < (1, 15):
        options["iprint"] = 1 if show else -1
    try:
        # Else the threads of scipy's BLAS and of numpy's, which evaluates, take each
        # other's cores: twice the time.
        with np.errstate(all="ignore"), blas_limit(1, of_scipy=True):
            result = optimize.minimize(
                evaluate,
                last.params,
                method="L-BFGS-B",
                jac=True,
                options=options,
                callback=accepted,
            )
    except KeyboardInterrupt:
        supervisor.finish_epoch()
        result = None
    except _Stopped:
        last.stopped = not last.out_of_time
        result = None
    if watch is not None:
        watch.close(last)
    if result is None:
        return last
    loss = reported.get(float(result.fun), float(result.fun) * unit)
    return Minimum(result.x, loss, result, last.losses, last.records)
