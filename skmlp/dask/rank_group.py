"""The ranks of a fit on the workers of a Dask cluster.

A group has the locks of its workers (`skmlp.dask.locks`), so that two never stand
in each other's way on workers of one thread. Each rank is one long task, pinned to its
worker, which takes none of its threads once it has begun. Requests go to the workers'
event loops (`skmlp.dask.worker.service`), and all waiting there is raced against the
loss of a worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import dask
from distributed import Future
from distributed.protocol import to_serialize
from distributed.protocol.pickle import dumps

from skmlp.comm.handshake import Secret
from skmlp.dask.errors import WorkerLost
from skmlp.dask.graph import rank_key, submit_to_each
from skmlp.dask.ingest.loaded_rows import LoadedRows
from skmlp.dask.ports import is_encrypted, ports_setting
from skmlp.dask.rpc import results, together
from skmlp.dask.worker.mailbox import Answer, DaskRankSpec, message_of
from skmlp.dask.worker.tasks import serve_rank
from skmlp.dask.worker_group import CALL_LIMIT_S, Limits
from skmlp.launch import framing
from skmlp.launch.framing import Kind
from skmlp.training.protocol import GRACE_S, Build, Message, RankFailed, RankGroup

logger = logging.getLogger(__name__)

#: Seconds for rank 0 to hand over what it has, after its time for the epoch.
ANSWER_S = 3.0


class DaskGroup(RankGroup):
    """The ranks of a fit on Dask workers; see `skmlp.training.protocol.RankGroup`.

    Parameters
    ----------
    build : callable
        ``build(plan, comm, rows)`` makes a rank's worker object; ``rows`` is a dict
        with the `skmlp.data.partitions.ShardData` of each shard that the rank holds. It
        must be known to the workers, as a function of a module that they can import.
    plan : object
        Handed to `build`.
    data : LoadedRows
        The rows; they say which worker is which rank. They outlive the group.
    generation : int
        The count of the fit's groups before this one.
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
        data: LoadedRows,
        *,
        generation: int = 0,
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
            self._rpc.run(self._start(build, plan))
        except BaseException:
            self.close()
            raise

    def request(self, message: Message) -> Message:
        """Hand `message` to all ranks; see `RankGroup.request`."""
        if self._closed or self._over:
            raise RuntimeError(self._over or "this group has been closed")
        # Unless it comes back, this was the last request.
        self._over = "this group has failed, or was interrupted"
        frame = to_serialize(framing.pack(Kind.REQUEST, message))
        answers = self._rpc.run(self._call_all("request", frame=frame))
        self._over = ""
        return message_of(answers[0]["frame"])

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

    # -- on the client's event loop ----------------------------------------------------

    async def _start(self, build: Build, plan: Any) -> None:
        run, generation, rpc = self._group.run, self._generation, self._rpc
        await self._locks.acquire(self._group, self._limits.lock)
        listening = await self._call_all("listen", CALL_LIMIT_S, ports=ports_setting())
        # Where any part of the cluster is encrypted, all ranks talk TLS.
        encrypted = is_encrypted(rpc.client.security, rpc.client.scheduler.address)
        spec = DaskRankSpec(
            run=bytes.fromhex(run),
            shards=self.shards,
            secret=Secret.new(),
            blas_threads=self._data.threads,
            limit=self._limits.start,
            step_limit=self._limits.step,
            addresses=tuple((a["host"], a["port"]) for a in listening),
            encrypted=encrypted or any(answer["encrypted"] for answer in listening),
            build=build,
            plan=plan,
            stats=self._data.stats,
        )
        await self._call_all("spec", spec=dumps(spec))
        calls = {}
        for rank, worker in enumerate(self._group.workers):
            key = rank_key(run, generation, rank)
            calls[worker] = key, serve_rank, (run, generation, self._group.ids[worker])
        held = dask.get_annotations().get("resources", {})
        self._tasks = submit_to_each(rpc.client, calls, resources=held)
        ready = map(self._ready, range(self.shards.n_ranks))
        start = self._limits.start
        await self._group.call_ranks(generation, self._limits, ready, start)

    async def _ready(self, rank: int) -> Answer:
        """Wait until a rank is ready."""
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
            answer: Answer = ready.result()
            return answer

    async def _call_all(
        self, verb: str, limit: float | None = None, /, **facts: Any
    ) -> list[Answer]:
        """Call all ranks; wait for all, or raise the first cause of a failure."""
        generation = self._generation
        calls = [
            self._group.call(rank, verb, limit, generation=generation, **facts)
            for rank in range(self.shards.n_ranks)
        ]
        return await self._group.call_ranks(generation, self._limits, calls)

    async def _pause(self) -> Message | None:
        """Have rank 0 stop after its epoch, and the others with it."""
        # Not through the group, for which a late answer means a lost worker.
        told = await self._rpc.call(
            self._group.workers[0],
            "pause",
            GRACE_S + ANSWER_S,
            run=self._group.run,
            generation=self._generation,
            limit=GRACE_S,
        )
        return message_of(told["frame"]) if "frame" in told else None

    async def _end(self) -> None:
        """Leave nothing of the group on the cluster, as far as it can be reached."""
        limit = self._limits.end
        answers = await self._group.call_living(
            "end",
            limit + CALL_LIMIT_S,
            generation=self._generation,
            patience=limit,
        )
        for rank, answer in answers.items():
            if answer.get("late"):
                logger.warning(
                    "rank %d on %s did not end within %g s; it will, at its next look "
                    "at the other ranks",
                    rank,
                    self._group.workers[rank],
                    limit,
                )
        if not self._keeps_locks:
            await self._locks.release(self._group)
