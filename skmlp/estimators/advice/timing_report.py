"""What the ranks of a fit spent their time on; how often others took their place."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from skmlp.config import get_config
from skmlp.estimators import summary
from skmlp.exceptions import CommunicationWarning
from skmlp.launch import policy
from skmlp.plan import Plan
from skmlp.state import Record
from skmlp.training.supervisor import Supervisor

#: What services listen to: all that ``verbose=2`` prints, at level INFO.
logger = logging.getLogger("skmlp")

#: Seconds of communicating below which nobody minds how large its share is.
WORTH_A_WORD = 5.0
#: The part of a fit's time that fewer workers may cost to be called about as good.
MARGIN = 0.1


def teller(verbose: Any) -> Callable[..., None]:
    """Make a function that logs a line, and prints it if `verbose`.

    It takes what to print with ``verbose=1`` (or True), and what to add with 2.
    """
    level = int(verbose)

    def tell(text: str, more: str = "") -> None:
        # scikit-learn prints the same at each level.
        told = text + more if level == 2 else text
        if level and told:
            print(told)
        logger.info("%s", text + more)

    return tell if level or logger.isEnabledFor(logging.INFO) else _nothing


def _nothing(text: str, more: str = "") -> None:
    """Tell nothing."""


def shares(records: Sequence[Record]) -> tuple[float, float, float]:
    """Parts of the ranks' time that went into computing, waiting and communicating.

    They add up to 1; the records must have some time in them.
    """
    total = sum(record.seconds * len(record.computing) for record in records)
    waiting = sum(sum(record.waiting) for record in records) / total
    communicating = (
        sum(record.communicating * len(record.computing) for record in records) / total
    )
    return 1 - waiting - communicating, waiting, communicating


def tell_iterations(records: Sequence[Record]) -> None:
    """Log the iterations of L-BFGS; those that are printed are SciPy's own lines."""
    for i, record in enumerate(records, 1):
        logger.info("Iteration %d, loss = %.8f, %.3g s", i, record.loss, record.seconds)


def cure(n_ranks: int, shared: tuple[float, float, float], plan: Plan) -> str:
    """Which batch or how many workers would suit a fit better, from its `shares`.

    By the model of docs/scaling.rst: more workers divide what is computed, and leave
    what a step communicates as it is; a larger batch multiplies what is computed.
    """
    computing, _, communicating = shared
    rows = plan.batch_size * communicating / max(computing, 1e-6)
    # With k workers, computing takes n_ranks / k times as long.
    k = math.ceil(n_ranks * computing / (computing + MARGIN))
    text = f"n_jobs={k}, which Dask collections follow, would do nearly as well"
    if n_ranks * computing <= 1:
        text = "one worker alone would be faster (n_jobs=1; Dask collections follow it)"
    if plan.batch_size >= plan.n_rows:
        return text
    larger = "the largest batch_size there can be would not bring that to a half"
    if rows < plan.n_rows:
        larger = f"batch_size={float(f'{rows:.2g}'):.0f} would bring that to a half"
    return f"{larger}; {text}"


def tell_shares(verbose: Any, records: Sequence[Record], plan: Plan) -> None:
    """Tell the shares; where communication took more than half, what would help.

    A `CommunicationWarning` says it, and ``verbose=2``. There is no warning for a fit
    that communicates for moments only, nor where the user has said by
    ``config_context(ranks="as_asked")`` that the number of ranks is no question.
    """
    shared = [r for r in records if len(r.computing) > 1 and r.seconds > 0]
    if not shared:
        return
    computing, waiting, communicating = parts = shares(shared)
    n_ranks = len(shared[-1].computing)
    advice = cure(n_ranks, parts, plan) if communicating > 0.5 else ""
    teller(verbose)(
        f"The ranks spent {computing:.0%} of their time computing, {waiting:.0%} "
        f"waiting for the busiest one, {communicating:.0%} communicating.",
        advice and f" A cure: {advice}.",
    )
    seconds = sum(record.communicating for record in shared)
    as_asked = get_config()["ranks"] == "as_asked"
    if advice and seconds > WORTH_A_WORD and not as_asked:
        warnings.warn(
            f"the {n_ranks} ranks spent {communicating:.0%} of their time "
            f"communicating: {advice}",
            CommunicationWarning,
            stacklevel=2,
        )


def tell_fewer(verbose: Any, n_taken: int, n_asked: int, batch_rows: int) -> None:
    """Tell that fewer ranks train than were asked for; of one, `end` says why."""
    if 1 < n_taken < n_asked:
        teller(verbose)(
            f"Training on {n_taken} of {n_asked} ranks: with this network and "
            f"{batch_rows} rows a step, more would not be faster."
        )


def tell_missing(verbose: Any, n_ranks: int, n_asked: int | None) -> None:
    """Print and warn that the cluster has fewer workers than were asked for.

    `n_asked` is None where all were.
    """
    if n_asked is None or n_ranks >= n_asked:
        return
    text = (
        f"{n_asked} Dask workers were asked for, and {n_ranks} can take part now, with "
        "larger parts of each minibatch. More are taken in as they come"
    )
    teller(verbose)(f"{text}.")
    warnings.warn(text, UserWarning, stacklevel=2)


def end(
    estimator: Any,
    supervisor: Supervisor,
    plan: Plan,
    records: Sequence[Record],
    *,
    verbose: Any,
    n_jobs: int | None,
) -> None:
    """Tell where the ranks were and why; keep it, and the restarts, as attributes."""
    estimator._trained_where = (supervisor.where, supervisor.n_ranks)
    estimator.restarts_ = [
        {"epoch": restart.epoch, "reason": restart.reason}
        for restart in supervisor.restarts
    ]
    tell_shares(verbose, records, plan)
    tell = teller(verbose)
    if tell is not _nothing:
        tell("", f"{summary.training_of(estimator)}: {_why(estimator, plan, n_jobs)}")


def _why(estimator: Any, plan: Plan, n_jobs: int | None) -> str:
    """Why a fit was where it was."""
    where, n_ranks = estimator._trained_where
    asked = policy.choose(n_jobs)
    if where == "dask" and asked.kind != "dask":
        return "the rows are on these workers"
    if asked.kind == "process":
        return f"n_jobs={n_jobs!r} and joblib's backend ask for no other process"
    if n_ranks > 1:
        return f"n_jobs={n_jobs!r} asks for workers"
    rows = f"{plan.batch_size} rows a step"
    return f"with this network and {rows}, sharing the work would not be faster"
