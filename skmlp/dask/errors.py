"""What a fit may lose on a Dask cluster."""

from __future__ import annotations

from distributed.protocol.pickle import loads

from skmlp.training.protocol import RankFailed


class WorkerLost(RankFailed):
    """A Dask worker is gone, or does not answer.

    Attributes
    ----------
    address : str
        Its address.
    """

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.address = address

    def __str__(self) -> str:
        return f"Dask worker {self.address} {self.args[1]}"


class DataLost(RankFailed):
    """Something that Dask held for the fit is gone."""


class WorkerSilent(WorkerLost):
    """A Dask worker does not answer, though the scheduler still knows it."""


def gone(address: str, pickled: bytes) -> WorkerLost:
    """What the scheduler's exception, when it called a worker, means."""
    error = loads(pickled)
    # That the connection is closed is what "gone" means.
    why = "" if isinstance(error, OSError) else f": {error!r}"
    return WorkerLost(address, f"is gone{why}")
