"""The rows of a fit on the workers of a Dask cluster.

Every part is converted once, into the store of one worker; only `PartStats` come back.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Coroutine, Mapping, Sequence
from typing import Any

import numpy as np
from distributed import Future
from distributed.protocol.pickle import dumps

from skmlp.comm.base import Shards
from skmlp.dask.demands import ANYWHERE
from skmlp.dask.errors import WorkerLost
from skmlp.dask.graph import lease_key, submit_to_each
from skmlp.dask.ingest.array_source import ArraySource
from skmlp.dask.ingest.collection_source import CollectionSource
from skmlp.dask.ingest.collections import no_rows
from skmlp.dask.locks import Locks
from skmlp.dask.rpc import ClusterRPC
from skmlp.dask.worker.mailbox import Answer
from skmlp.dask.worker.tasks import begin_lease
from skmlp.dask.worker_group import WorkerGroup
from skmlp.dask.workers import refuse_differences, told_by
from skmlp.data.assignment import join_ranges
from skmlp.data.partitions import PartStats, merge, training_dtype
from skmlp.training.protocol import RankFailed

#: Seconds until each worker has found a thread for a task of moments.
FREE_THREAD_S = 600.0

#: What brings rows to the workers.
RowSource = CollectionSource | ArraySource


class LoadedRows:
    """The rows of a fit on the workers, from `begin` until `close`.

    Attributes
    ----------
    group : WorkerGroup
        The workers.
    shards : Shards
        Which rank holds which shard.
    stats : PartStats
        Of all rows together.
    dtype : dtype
        The training dtype.
    threads : int
        Threads of the worker that has the fewest; the ranks use as many for BLAS, so
        that a shard which changes hands is computed alike.
    sources : sequence of CollectionSource or ArraySource
        What brings the rows, once more if they are lost with their worker: those for
        training, and validation rows of their own, which come after them.
    held_out_stats : PartStats
        Of the validation rows.
    """

    def __init__(
        self,
        rpc: ClusterRPC,
        sources: Sequence[RowSource],
        workers: Sequence[str],
        n_shards: int,
    ) -> None:
        self.group = WorkerGroup(rpc, uuid.uuid4().hex, workers)
        #: Of the workers: a fit's groups, one after the other, keep them.
        self.locks = Locks()
        n_ranks = len(workers)
        self.shards = Shards(tuple(k * n_ranks // n_shards for k in range(n_shards)))
        self.threads = 1
        self.sources = sources
        self.weighted = any(source.weighted for source in sources)
        self.stats = self.held_out_stats = PartStats(0, sources[0].features)
        self.dtype = training_dtype(sources[0].dtype)
        #: Of each worker that takes part, in bytes; 0 for none.
        self.memory_limits: dict[str, int] = {}
        #: What the workers must do for.
        self.demands = ANYWHERE
        #: What keeps workers of an adaptive cluster.
        self.stays: Sequence[Future[None]] = ()
        #: For the stores.
        self.targets = {"labels": False, "masked": False}
        self._facts: Mapping[str, object] | None = None
        #: The worker that has all rows of each shard.
        self._homes: dict[int, str] = {}
        #: Held as long as the fit: the workers take their end for the fit's end.
        self._leases: dict[str, Future[Any]] = {}

    # -- on the client's event loop ----------------------------------------------------

    async def lease(self, workers: Sequence[str], limit: float = FREE_THREAD_S) -> None:
        """Begin the fit on workers where it has not begun yet.

        ValueError unless they are equal in what the bits depend on; RankFailed if one
        is gone, can't run skmlp, or has no free thread within `limit` seconds.
        """
        run, rpc = self.group.run, self.group.rpc
        stamp = uuid.uuid4().hex[:8]
        ids = await rpc.server_ids(workers, limit)
        self.group.ids.update(zip(workers, ids, strict=True))
        calls = {}
        for number, (worker, server_id) in enumerate(zip(workers, ids, strict=True)):
            key = lease_key(run, stamp, number)
            calls[worker] = key, begin_lease, (run, key, worker, server_id)
        leases = dict(zip(workers, submit_to_each(rpc.client, calls), strict=True))
        self._leases |= leases
        answers = await rpc.guard(told_by(rpc, leases, limit), run, leases)
        for worker, answer in answers.items():
            if isinstance(answer, str):
                raise RankFailed(f"Dask worker {worker} {answer}")
            if not answer:
                raise WorkerLost(worker, "has been started again")
            self.group.lost.pop(worker, None)
            self.group.silent.discard(worker)
        told = list(answers.values())
        facts = [worker["facts"] for worker in told]
        limits = [worker["memory_limit"] for worker in told]
        self.memory_limits.update(zip(workers, limits, strict=True))
        if self._facts is None:
            self._facts = facts[0]
            self.threads = min(worker["threads"] for worker in told)
            refuse_differences(workers, facts)
        else:
            refuse_differences(["the fit", *workers], [self._facts, *facts])

    async def share_out(
        self, held: Sequence[Sequence[tuple[Collection[str], int]]]
    ) -> None:
        """Give each shard its rows; for `held` see `CollectionSource.holders`."""
        homes, first = self._wanted(), 0
        for source, lying in zip(self.sources, held, strict=True):
            source.first = first
            await self.group.guard(source.share_out(self.group, lying, homes))
            first += sum(span.rows for own in source.spans for span in own)
            if not first:
                raise ValueError(no_rows((0, source.features)))

    def _wanted(self) -> list[str]:
        """The worker that each shard belongs on."""
        return [self.group.workers[rank] for rank in self.shards.holders]

    async def bring(self) -> list[PartStats | None]:
        """Bring the rows of those shards to their workers that are not there yet.

        Returns what is known of the training rows and of the validation rows that were
        brought; ValueError if something is wrong with them.
        """
        group, homes = self.group, self._wanted()
        news = [k for k, home in enumerate(homes) if self._homes.get(k) != home]
        # A worker that gave a shard away has it no more, even if it does not arrive.
        for shard in news:
            self._homes.pop(shard, None)
        await group.guard(self._hold(news, homes))
        told: list[PartStats | None] = []
        for source in self.sources:
            told.append(await group.guard(source.bring(group, news, homes)))
            stats, what = told[-1], "validation rows: " * (len(told) - 1)
            if stats is not None and not stats.problem:
                stats = merge([one for one in told if one is not None])
            if stats is not None and stats.problem:
                raise ValueError(what + stats.problem)
        self._homes = dict(enumerate(homes))
        return told

    async def _hold(self, news: Collection[int], homes: Sequence[str]) -> None:
        """Make room for some shards on their workers."""
        layout = {
            "features": self.sources[0].features,
            "dtype": self.dtype.str,
            "weighted": self.weighted,
            **self.targets,
        }
        ranges = {
            shard: join_ranges(
                [
                    span._replace(start=source.first + span.start)
                    for source in self.sources
                    for span in source.spans[shard]
                ]
            )
            for shard in news
        }

        def hold(rank: int, worker: str) -> Coroutine[Any, Any, Answer]:
            own = self.shards.held_by(rank)
            return self.group.call(
                rank,
                "hold",
                shards=[(k, ranges[k]) for k in own if k in ranges],
                layout=layout,
                keep=own,
                released=sum(
                    n_bytes
                    for source in self.sources
                    for n_bytes, home in zip(source.held_bytes, homes, strict=True)
                    if home == worker
                ),
            )

        await self.group.each(map(hold, range(self.shards.n_ranks), self.group.workers))

    async def settled(self) -> dict[str, list[int]]:
        """The workers that live and have rows of the fit, with their shards."""
        group = self.group
        left: dict[str, list[int]] = {}
        for rank in await group.call_living("ping"):
            left[group.workers[rank]] = []
        for shard, home in self._homes.items():
            if home in left:
                left[home].append(shard)
        return {worker: left[worker] for worker in group.workers if left.get(worker)}

    async def move(self, held: Mapping[str, Sequence[int]]) -> None:
        """Give each worker its shards, and bring it the rows that it lacks."""
        holders = {
            shard: rank for rank, own in enumerate(held.values()) for shard in own
        }
        self.group = WorkerGroup(self.group.rpc, self.group.run, list(held), self.group)
        self.shards = Shards(tuple(holders[shard] for shard in sorted(holders)))
        await self.bring()

    def forget(self, worker: str) -> None:
        """Ask nothing more of a worker, and have no rows there."""
        self._homes = {k: home for k, home in self._homes.items() if home != worker}
        lease = self._leases.pop(worker, None)
        if lease is not None:
            lease.release()

    async def _last_label(self) -> list[bytes]:
        stats = dumps(self.stats)
        calls = [
            self.group.call(rank, "labels", shard=shard, stats=stats)
            for shard, rank in enumerate(self.shards.holders)
        ]
        return [answer["bits"] for answer in await self.group.each(calls)]

    async def _end(self) -> None:
        await self.locks.release(self.group)
        await self.group.call_living("drop")

    # -- in the driver's thread --------------------------------------------------------

    def begin(self, held: Sequence[Sequence[tuple[Collection[str], int]]]) -> None:
        """Begin on all workers, and bring the rows; for `held` see `share_out`."""
        workers, run = self.group.workers, self.group.rpc.run
        try:
            run(self.lease(workers))
            run(self.share_out(held))
            stats, *held_out = run(self.bring())
            self.stats = stats or self.stats
            self.held_out_stats = next(iter(held_out), None) or self.held_out_stats
        except BaseException:
            self.close()
            raise

    def last_label(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Whether each row has the last label, of several: a bit a row comes here."""
        found = np.zeros(self.stats.rows, bool)
        bits = self.group.rpc.run(self.group.guard(self._last_label()))
        for spans, packed in zip(self.sources[0].spans, bits, strict=True):
            at = 0
            rows = np.unpackbits(np.frombuffer(packed, np.uint8)).view(bool)
            for _, start, n in spans:
                found[start : start + n] = rows[at : at + n]
                at += n
        return found

    def close(self) -> None:
        """Let go of the rows. A second call does nothing."""
        for source in self.sources:
            source.release()
        leases, self._leases = list(self._leases.values()), {}
        if not leases and not self.locks.requests:
            return
        try:
            if self.group.rpc.open:
                self.group.rpc.run(self._end())
        finally:
            for future in (*leases, *self.stays):
                future.release()
            self.stays = ()

    def __enter__(self) -> LoadedRows:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
