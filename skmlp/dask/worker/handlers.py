"""Where the calls of drivers come in on a Dask worker."""

from __future__ import annotations

import weakref
from typing import Any, Protocol

from distributed import Worker

from skmlp.dask.worker.rank import Kind, Packed

#: Name of the plugin, and of the worker's handler for the driver's calls.
NAME = "skmlp"

GONE: Packed = {"kind": Kind.GONE, "text": "this worker knows nothing of the fit"}


class Service(Protocol):
    """What answers the calls: `skmlp.dask.worker.service.Host`."""

    async def handle(self, verb: str, **facts: Any) -> Packed:
        """Answer a call of a driver."""


class Desk:
    """The handler of one worker's calls, for the `Host` that is there.

    Dask remembers each handler that it ever called, with all that it holds. So there
    is one desk for each worker, however many hosts come and go, and it holds none.

    Parameters
    ----------
    worker : Worker
        Whose.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = weakref.ref(worker)

    def _host(self) -> Service | None:
        worker = self._worker()
        return None if worker is None else host_of(worker)

    async def handle(self, verb: str, **facts: Any) -> Packed:
        """See `Host.handle`."""
        host = self._host()
        return GONE if host is None else await host.handle(verb, **facts)


_desks: weakref.WeakKeyDictionary[Worker, Desk] = weakref.WeakKeyDictionary()


def desk_of(worker: Worker) -> Desk:
    """The one desk of a worker."""
    return _desks.setdefault(worker, Desk(worker))


def host_of(worker: Worker) -> Any:
    """The host of the fits on a worker, or None."""
    host = worker.plugins.get(NAME)
    return host
