"""What belongs to one fit on one Dask worker."""

from __future__ import annotations

from dataclasses import dataclass, field

from skmlp.dask.worker.rank import Post
from skmlp.data.store.shard_store import ShardStore


@dataclass(frozen=True)
class Lease:
    """How a fit begins on a worker.

    Attributes
    ----------
    run : str
        Name of the fit, 32 hexadecimal digits.
    key : str
        The task's key.
    owner : str
        Whose fit it is: for people.
    address : str
        Of the worker, as the scheduler knows it: perhaps not as the worker does.
    """

    run: str
    key: str
    owner: str
    address: str


@dataclass
class Run:
    """What belongs to one fit on one worker."""

    lease: Lease
    #: Dask addresses of the group's workers, by rank.
    members: tuple[str, ...] = ()
    stores: dict[int, ShardStore] = field(default_factory=dict)
    post: Post | None = None
    #: Names of the fit's requests for the locks on its workers.
    locks: tuple[str, ...] = ()
