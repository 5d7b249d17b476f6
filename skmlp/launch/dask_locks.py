"""The locks of a fit's workers: one fit at a time has a worker.

Their names are the workers' addresses, as xgboost uses them. A fit asks for all of its
workers in one request, and holds them from its first gang to its end: where a worker is
lost, or has joined, the fit keeps its place and nobody comes in between.

Two fits never wait crosswise, for a fit that waits holds nothing. What it needs while
it holds locks, that of a worker that has joined, it takes if it is free at once, and
goes on without that worker otherwise. Only where all its workers are lost, it queues
again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Sequence

from skmlp.launch.base import RankFailed
from skmlp.launch.dask_client import together
from skmlp.launch.dask_crew import Crew

logger = logging.getLogger(__name__)

#: Seconds of waiting for other fits until that is logged.
TELL = 60.0


class Locks:
    """The locks of one fit. All methods run on the client's event loop."""

    def __init__(self) -> None:
        self._count = 0
        #: The workers of each request that the scheduler may know of, by its name.
        self._requests: dict[str, tuple[str, ...]] = {}
        self._held: set[str] = set()

    @property
    def asked(self) -> bool:
        """Whether the scheduler may know of a request."""
        return bool(self._requests)

    async def acquire(self, crew: Crew, limit: float) -> None:
        """Have the locks of all workers of the fit, waiting for them in one request.

        Unless it has all of them, the fit gives back those that it holds: it waits at
        the end of the queue.

        Parameters
        ----------
        crew : Crew
            Its workers.
        limit : float
            Seconds.

        Raises
        ------
        RankFailed
            They were not to be had in time, the message says who has them; or a worker
            is lost.
        """
        if self._held.issuperset(crew.workers):
            await self._tell(crew)
            return
        await self.release(crew)
        request = self._request(crew, crew.workers, limit)
        if not await crew.guard(request):
            raise RankFailed(f"{await _who(crew)}, in vain for {limit:g} s")

    async def take(self, crew: Crew, worker: str) -> bool:
        """Have the lock of one more worker, if it is free at this moment.

        Parameters
        ----------
        crew : Crew
            The workers of the fit.
        worker : str
            Another one.
        """
        return worker in self._held or await self._request(crew, [worker], 0.0)

    async def release(self, crew: Crew, worker: str | None = None) -> None:
        """Give locks back: all, or those that were asked for with a worker's."""
        for name, workers in list(self._requests.items()):
            if worker is None or worker in workers:
                # KeyError: the scheduler had given up the request by itself.
                with contextlib.suppress(RankFailed, KeyError):
                    await crew.line.scheduler("multi_lock_release", id=name)
                del self._requests[name]
                self._held.difference_update(workers)
        await self._tell(crew)

    async def _request(self, crew: Crew, workers: Sequence[str], limit: float) -> bool:
        """Ask for locks; whether they were to be had within `limit` seconds."""
        name = f"skmlp-{crew.run}-{self._count}"
        self._count += 1
        # The workers know of the request before it is made: were the driver to die
        # right after, they would take it back.
        self._requests[name] = tuple(workers)
        await self._tell(crew)
        request = crew.line.scheduler(
            "multi_lock_acquire",
            None,
            locks=list(workers),
            id=name,
            timeout=limit,
            num_locks=len(workers),
        )
        async with together(request) as (answer,):
            await asyncio.wait([answer], timeout=TELL)
            if not answer.done():
                logger.info("%s, so far for %g s", await _who(crew), TELL)
            had = bool(await answer)
        if had:
            self._held.update(workers)
        else:
            del self._requests[name]
        return had

    async def _tell(self, crew: Crew) -> None:
        """Tell the workers who they are, and what to release should we die."""
        names, members = list(self._requests), list(crew.workers)
        await crew.call_living("locks", names=names, members=members)


async def _who(crew: Crew) -> str:
    """Who waits for whom, as a sentence."""
    answers = await crew.call_living("who")
    holders: Collection[str] = {fit for a in answers for fit in a["fits"]}
    return (
        f"fit {crew.run[:8]} of {crew.line.owner} waits for the locks of "
        f"{', '.join(crew.workers)}, held by "
        f"{', '.join(sorted(holders)) or 'something else than skmlp'}"
    )
