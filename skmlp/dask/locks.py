"""The locks of a fit's workers: one fit at a time has a worker.

Their names are the workers' addresses, as xgboost uses them. A fit asks for all of its
workers in one request, and holds them from its first ranks to its end: where a worker
is lost, or has joined, the fit keeps its place and no other fit comes in between.

Two fits never wait crosswise, for a fit that waits holds nothing. What it needs while
it holds locks, that of a worker that has joined, it takes if it is free at once, and
goes on without that worker otherwise. Only where all its workers are lost, it queues
again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Any

import dask
from dask.utils import parse_timedelta

from skmlp.dask.rpc import together
from skmlp.dask.worker.service import free_locks
from skmlp.dask.worker_group import CALL_LIMIT_S, WorkerGroup
from skmlp.training.protocol import RankFailed

logger = logging.getLogger(__name__)

#: Seconds of waiting for other fits until that is told.
TELL_S = 10.0
#: The key in Dask's configuration: how long to wait for other fits to leave.
TIMEOUT = "skmlp.lock-timeout"
#: Names of our requests begin so; others have ids of Dask's.
PREFIX = "skmlp's "


class LockTimeout(RankFailed):
    """Other fits, or something else, kept the locks of workers for too long."""


class Locks:
    """The locks of one fit. All methods run on the client's event loop."""

    def __init__(self) -> None:
        self._count = 0
        #: The workers of each request that the scheduler may know of, by its name.
        self.requests: dict[str, tuple[str, ...]] = {}
        self._held: set[str] = set()

    async def acquire(self, group: WorkerGroup, limit: float | None) -> None:
        """Have the locks of all workers of the fit, waiting for them in one request.

        Unless it has all of them, the fit gives back those that it holds: it waits at
        the end of the queue. LockTimeout, which says who has them, after `limit`
        seconds, by default those of Dask's setting `TIMEOUT`.
        """
        if self._held.issuperset(group.workers):
            await self._tell(group)
            return
        await self.release(group)
        if limit is None and (setting := dask.config.get(TIMEOUT, None)) is not None:
            limit = parse_timedelta(setting)
        request = self._request(group, group.workers, limit)
        if not await group.guard(request):
            raise LockTimeout(
                f"{await _who_holds(group)}, in vain for {limit:g} s. If the owner of "
                "a lock is dead, free it by its lock id: "
                "client.sync(client.scheduler.multi_lock_release, id=...)"
            )

    async def take(self, group: WorkerGroup, worker: str) -> bool:
        """Have the lock of one more worker, if it is free at this moment."""
        return worker in self._held or await self._request(group, [worker], 0.0)

    async def release(self, group: WorkerGroup, worker: str | None = None) -> None:
        """Give locks back: all, or those that were asked for with a worker's."""
        over = [n for n, of in self.requests.items() if worker in (None, *of)]
        if over:
            # Else the scheduler is gone, and its locks with it.
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(CALL_LIMIT_S):
                    await free_locks(group.rpc.client.scheduler, over)
        for name in over:
            self._held.difference_update(self.requests.pop(name))
        await self._tell(group)

    async def _request(
        self, group: WorkerGroup, workers: Sequence[str], limit: float | None
    ) -> bool:
        """Ask for locks; whether they were to be had within `limit` seconds."""
        name = f"{PREFIX}{_name(group)}, request {self._count}"
        self._count += 1
        # The workers know of the request before it is made: were the driver to die
        # right after, they would take it back.
        self.requests[name] = tuple(workers)
        await self._tell(group)
        request = group.rpc.scheduler(
            "multi_lock_acquire",
            None,
            locks=list(workers),
            id=name,
            timeout=limit,
            num_locks=len(workers),
        )
        async with together(request) as (answer,):
            await asyncio.wait([answer], timeout=TELL_S)
            if not answer.done():
                logger.warning("%s, so far for %g s", await _who_holds(group), TELL_S)
            had = bool(await answer)
        if had:
            self._held.update(workers)
        else:
            del self.requests[name]
        return had

    async def _tell(self, group: WorkerGroup) -> None:
        """Tell the workers who they are, and what to release should we die."""
        names, members = list(self.requests), list(group.workers)
        await group.call_living("locks", names=names, members=members)


def _name(group: WorkerGroup) -> str:
    """A fit, for people: its requests have this name."""
    return f"fit {group.run[:8]} of {group.rpc.client.id}"


def _holders(names: Sequence[str], dask_scheduler: Any) -> dict[str, Any]:
    """On the scheduler: which request holds each lock."""
    locks = dask_scheduler.extensions["multi_locks"].locks
    return {name: locks[name][0] for name in names if locks.get(name)}


async def _who_holds(group: WorkerGroup) -> str:
    """For whom the fit waits, as a sentence."""
    names = list(group.workers)
    try:
        holders = await group.rpc.on_scheduler(_holders, names)
    except Exception as error:
        logger.info("the holders of locks are not known", exc_info=error)
        holders = {}
    # Of several workers, it may be the first in the queue of some.
    own = f"{PREFIX}{_name(group)},"
    holders = {name: h for name, h in holders.items() if not str(h).startswith(own)}
    names, held = [*holders] or names, []
    for name, holder in holders.items():
        ours = str(holder).removeprefix(PREFIX)
        if ours == holder:
            ours, name = "something else than skmlp", f"{name} (lock id {holder!r})"
        held.append(f"{name} is held by {ours.partition(',')[0]}")
    return (
        f"{_name(group)} waits for the locks of {', '.join(names)}: "
        f"{'; '.join(held) or 'the scheduler does not say by whom they are held'}"
    )
