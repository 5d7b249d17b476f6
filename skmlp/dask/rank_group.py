"""The group of a fit on the workers of a Dask cluster.

A group has the locks of its workers (`skmlp.dask.locks`), so that two never stand
in each other's way on workers of one thread. Each rank is one long task, pinned to its
worker, which takes none of its threads once it has begun. Orders go to the workers'
event loops (`skmlp.dask.worker.service.Host`), and all waiting there is raced against
the loss of a worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import dask
from distributed import Future
from distributed.protocol.pickle import dumps

from skmlp.comm.handshake import Secret
from skmlp.dask.errors import WorkerLost
from skmlp.dask.graph import rank_key, submit_to_each
from skmlp.dask.ingest.choose_and_load import adopt
from skmlp.dask.ingest.load import AdoptedData
from skmlp.dask.ports import is_encrypted, ports_setting
from skmlp.dask.rpc import results, together
from skmlp.dask.worker.rank import Duty, Packed, pack, unpack
from skmlp.dask.worker.tasks import serve_rank
from skmlp.dask.worker_group import CALL, Limits
from skmlp.training.protocol import GRACE_S, Build, Message, RankFailed, RankGroup

__all__ = ["DaskGroup", "Limits", "adopt"]

logger = logging.getLogger(__name__)

#: Seconds for the lead to hand over what it has, after its time for the epoch.
ANSWER_S = 3.0


class DaskGroup(RankGroup):
    """The ranks of a fit on Dask workers; see `skmlp.training.protocol.RankGroup`.

    Parameters
    ----------
    build : callable
        ``build(plan, comm, rows)`` makes a rank's servant; ``rows`` is a dict with the
        `skmlp.data.partitions.LocalRows` of each shard that the rank holds. It must be
        known to the workers, as a function of a module that they can import.
    plan : object
        Handed to `build`.
    data : AdoptedData
        The rows; they say which worker is which rank. They outlive the group.
    generation : int
        The count of the fit's groups before this one.
    blas_threads : int, optional
        BLAS threads of each rank; by default as many as the workers have threads.
    limits : Limits, optional
        How long to wait for what.
    keeps_locks : bool, default=False
        Whether the workers stay locked after the group's end, until that of the data:
        there may be another group.

    Raises
    ------
    RankFailed
        A worker was lost, or something was waited for too long; the message names it.
    Exception
        What `build` raised.
    """

    where = "dask"

    def __init__(
        self,
        build: Build,
        plan: Any,
        data: AdoptedData,
        *,
        generation: int = 0,
        blas_threads: int | None = None,
        limits: Limits | None = None,
        keeps_locks: bool = False,
    ) -> None:
        self.shards = data.shards
        self._data = data
        self._group = data.group
        self._rpc = data.group.rpc
        self._generation = generation
        self._limits = Limits() if limits is None else limits
        self._locks = data.locks
        self._keeps_locks = keeps_locks
        self._tasks: list[Future[Any]] = []
        self._closed = False
        self._over = ""
        try:
            self._rpc.run(self._start(build, plan, blas_threads))
        except BaseException:
            self.close()
            raise

    def request(self, message: Message) -> Message:
        """Hand `message` to all ranks; see `RankGroup.request`."""
        if self._closed or self._over:
            raise RuntimeError(self._over or "this group has been closed")
        # Unless it comes back, this was the last order.
        self._over = "this group has failed, or was interrupted"
        answers = self._rpc.run(self._ask(message))
        self._over = ""
        return unpack(answers[0]["answer"])

    def finish_epoch(self) -> Message | None:
        """End the service at the end of the epoch, if that is near; see the base.

        Not of a group that has failed: its ranks have stopped anywhere.
        """
        answer = None
        if not self._closed and self._rpc.open:
            with contextlib.suppress(RankFailed):
                answer = self._rpc.run(self._pause())
        self.close()
        return answer

    def close(self) -> None:
        """End the ranks and leave their workers; see `RankGroup.close`.

        A rank in a long computation of its own may not end in time; it does as soon as
        that is over, and a warning names it.
        """
        if self._closed:
            return
        self._closed = True
        try:
            if self._rpc.open:
                self._rpc.run(self._end())
        finally:
            for task in self._tasks:
                task.release()
            self._tasks = []

    # -- on the client's event loop: start ---------------------------------------------

    async def _start(self, build: Build, plan: Any, blas_threads: int | None) -> None:
        await self._locks.acquire(self._group, self._limits.lock)
        answers = await self._call_all("listen", CALL, ports=ports_setting())
        addresses = tuple(
            (host, port) for host, port in (a["address"] for a in answers)
        )
        # Where any part of the cluster is encrypted, all ranks talk TLS.
        client = self._rpc.client
        encrypted = is_encrypted(client.security, client.scheduler.address)
        encrypted |= any(answer["encrypted"] for answer in answers)
        duty = Duty(
            run=self._group.run,
            shards=self.shards,
            addresses=addresses,
            secret=Secret.new(),
            encrypted=encrypted,
            build=build,
            plan=plan,
            stats=self._data.stats,
            blas_threads=blas_threads or self._data.threads,
            meet_limit=self._limits.start,
            step_limit=self._limits.step,
        )
        await self._call_all("duty", duty=dumps(duty))
        run, generation = self._group.run, self._generation
        calls = {}
        for rank, worker in enumerate(self._group.workers):
            key = rank_key(run, generation, rank)
            calls[worker] = key, serve_rank, (run, generation, self._group.ids[worker])
        held = dask.get_annotations().get("resources", {})
        self._tasks = submit_to_each(self._rpc.client, calls, resources=held)
        ready = map(self._ready, range(self.shards.n_ranks))
        start = self._limits.start
        await self._group.call_all(self._generation, self._limits, ready, start)

    async def _ready(self, rank: int) -> Packed:
        """Wait until a rank's servant is built."""
        call = self._group.call(rank, "ready", generation=self._generation)
        # The task may end before its rank begins: on a worker that was started again.
        end = results(self._rpc.client, [self._tasks[rank]])
        async with together(call, end) as (ready, ended):
            await asyncio.wait([ready, ended], return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                (text,) = ended.result()
                await asyncio.wait([ready], timeout=self._limits.settle)
                if not ready.done():
                    raise WorkerLost(
                        self._group.workers[rank], f"ended its rank at once: {text}"
                    )
            answer: Packed = ready.result()
            return answer

    # -- orders ------------------------------------------------------------------------

    async def _ask(self, message: Message) -> list[Packed]:
        return await self._call_all("ask", order=pack(message))

    async def _pause(self) -> Message | None:
        """Have the lead stop after its epoch, and the others with it."""
        facts = {"run": self._group.run, "generation": self._generation}
        # Not through the group, for which a late answer means a lost worker.
        told = await self._rpc.call(
            self._group.workers[0], "pause", GRACE_S + ANSWER_S, limit=GRACE_S, **facts
        )
        answer = told.get("answer")
        return None if answer is None else unpack(answer)

    async def _call_all(
        self, verb: str, limit: float | None = None, /, **facts: Any
    ) -> list[Packed]:
        """Call all ranks; wait for all, or raise the first cause of a failure."""
        facts["generation"] = self._generation
        calls = [
            self._group.call(rank, verb, limit, **facts)
            for rank in range(self.shards.n_ranks)
        ]
        return await self._group.call_all(self._generation, self._limits, calls)

    # -- the end -----------------------------------------------------------------------

    async def _end(self) -> None:
        """Leave nothing of the group on the cluster, as far as it can be reached."""
        limit = self._limits.end
        answers = await self._group.call_living(
            "end", limit + CALL, generation=self._generation, patience=limit
        )
        for answer in answers:
            if answer.get("late"):
                logger.warning(
                    "%s did not end within %g s; it will, at its next look at the "
                    "other ranks",
                    answer["late"],
                    limit,
                )
        if not self._keeps_locks:
            await self._locks.release(self._group)
