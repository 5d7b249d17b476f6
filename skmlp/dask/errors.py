"""What a fit may lose on a Dask cluster."""

from __future__ import annotations

from typing import Any

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
        super().__init__(f"Dask worker {address} {reason}")
        self.address = address

    def __reduce__(self) -> tuple[Any, ...]:
        return _lost, (type(self), self.address, str(self))


class DataLost(RankFailed):
    """Something that Dask held for the fit is gone."""


class WorkerSilent(WorkerLost):
    """A Dask worker does not answer, though the scheduler still knows it."""


def _lost(kind: type[WorkerLost], address: str, text: str) -> WorkerLost:
    """Make a `WorkerLost` again from its pickle."""
    error = kind(address, "")
    error.args = (text,)
    return error


def gone(address: str, pickled: bytes) -> WorkerLost:
    """What the scheduler's exception, when it called a worker, means."""
    error = loads(pickled)
    # That the connection is closed is what "gone" means.
    why = "" if isinstance(error, OSError) else f": {error!r}"
    return WorkerLost(address, f"is gone{why}")
