"""What the ranks of a fit spent their time on; how often others took their place."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from skmlp.config import get_config
from skmlp.exceptions import CommunicationWarning
from skmlp.state import Record
from skmlp.training.supervisor import Supervisor

#: Seconds of communicating below which nobody minds how large its share is.
WORTH_A_WORD = 5.0


def shares(records: Sequence[Record]) -> tuple[float, float, float]:
    """Parts of the ranks' time that went into computing, waiting and communicating.

    Parameters
    ----------
    records : list of Record
        With some time in them.

    Returns
    -------
    tuple of float
        They add up to 1.
    """
    total = sum(record.seconds * len(record.computing) for record in records)
    waiting = sum(sum(record.waiting) for record in records) / total
    communicating = (
        sum(record.communicating * len(record.computing) for record in records) / total
    )
    return 1 - waiting - communicating, waiting, communicating


def tell(records: Sequence[Record], *, show: bool) -> None:
    """Print the shares, if `show`, and warn where communication took more than half.

    Parameters
    ----------
    records : list of Record
        Of the fit.
    show : bool
        Whether to print.

    Warns
    -----
    CommunicationWarning
        Not in a fit that communicates for moments only, nor where the user has said by
        ``config_context(ranks="as_asked")`` that the number of ranks is no question.
    """
    shared = [r for r in records if len(r.computing) > 1 and r.seconds > 0]
    if not shared:
        return
    computing, waiting, communicating = shares(shared)
    if show:
        print(
            f"The ranks spent {computing:.0%} of their time computing, {waiting:.0%} "
            f"waiting for the busiest one, {communicating:.0%} communicating."
        )
    seconds = sum(record.communicating for record in shared)
    as_asked = get_config()["ranks"] == "as_asked"
    if communicating > 0.5 and seconds > WORTH_A_WORD and not as_asked:
        n_ranks = len(shared[-1].computing)
        warnings.warn(
            f"the {n_ranks} ranks spent {communicating:.0%} of their time "
            "communicating: fewer would be faster. Use a larger batch_size, so that "
            f"there is more to compute between two exchanges, or fewer workers: n_jobs "
            f"below {n_ranks}, which Dask collections follow, too",
            CommunicationWarning,
            stacklevel=2,
        )


def tell_fewer(estimator: Any, n_taken: int, n_asked: int, batch_rows: int) -> None:
    """Print that fewer ranks train than were asked for, if `verbose`."""
    if n_taken < n_asked and estimator.verbose:
        print(
            f"Training on {n_taken} of {n_asked} ranks: with this network and "
            f"{batch_rows} rows a step, more would not be faster."
        )


def tell_missing(estimator: Any, n_ranks: int, n_asked: int | None) -> None:
    """Print and warn that the cluster has fewer workers than were asked for.

    `n_asked` is None where all were.
    """
    if n_asked is None or n_ranks >= n_asked:
        return
    text = (
        f"{n_asked} Dask workers were asked for, and {n_ranks} can take part now, with "
        "larger parts of each minibatch. More are taken in as they come"
    )
    if estimator.verbose:
        print(f"{text}.")
    warnings.warn(text, UserWarning, stacklevel=2)


def ranks(estimator: Any, supervisor: Supervisor) -> Any:
    """Keep where the last ranks were, and the restarts; return the estimator."""
    estimator._trained_where = (supervisor.where, supervisor.n_ranks)
    estimator.restarts_ = [
        {"epoch": restart.epoch, "reason": restart.reason}
        for restart in supervisor.restarts
    ]
    return estimator
