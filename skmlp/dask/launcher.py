"""The groups of one fit on a Dask cluster: workers come and go, the shards stay.

A lost worker's shards go to workers that are not in the fit yet, or to those that are
left; their rows are computed once more, from the user's collection. A shard that
changes hands is computed apart from the others, so the bits stay as they were.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from skmlp.dask.errors import DataLost, WorkerLost
from skmlp.dask.ingest.load_rows import TRIES
from skmlp.dask.ingest.loaded_rows import LoadedRows
from skmlp.dask.locks import LockTimeout
from skmlp.dask.rank_group import DaskGroup
from skmlp.dask.worker_group import CALL_LIMIT_S, Limits
from skmlp.dask.workers import able_workers, look_at
from skmlp.training.protocol import Build, Launcher, RankFailed, RankGroup

logger = logging.getLogger(__name__)

#: Seconds for a worker that the fit could do without to take it up.
JOIN_LIMIT_S = 5.0
#: Seconds between two looks at whether a worker has joined.
LOOK_FOR_MORE_S = 1.0


class DaskLauncher(Launcher):
    """Starts a fit's groups on the workers that are there.

    Parameters
    ----------
    build, plan
        See `skmlp.dask.rank_group.DaskGroup`.
    data : LoadedRows
        The rows. Who made them closes them.
    limits : Limits, optional
        How long to wait for what.
    """

    def __init__(
        self, build: Build, plan: Any, data: LoadedRows, limits: Limits
    ) -> None:
        self._build = build
        self._plan = plan
        self._data = data
        self._limits = limits
        self._looked = time.monotonic()
        #: Workers that could not take up the fit when they were asked to, with the
        #: server ids of these processes.
        self._unfit: dict[str, str] = {}
        #: Whether workers that have joined can take part: they are being asked.
        self._looks: dict[str, asyncio.Task[bool]] = {}

    def start(self, generation: int) -> RankGroup:
        """Start a group on the workers that hold the rows; see `Launcher.start`."""
        return DaskGroup(
            self._build,
            self._plan,
            self._data,
            generation=generation,
            limits=self._limits,
            keeps_locks=True,
        )

    def recover(self, failure: RankFailed) -> None:
        """Bring the rows of lost workers to others; see `Launcher.recover`."""
        data = self._data
        if isinstance(failure, LockTimeout):
            raise failure
        for _ in range(TRIES):
            if not data.group.rpc.open:
                raise failure
            try:
                data.group.rpc.run(self._move())
            except WorkerLost as error:
                logger.info("one more while rows were moved: %s", error)
            except DataLost as error:
                raise DataLost(
                    "the rows that were lost with it can't be computed again, as is "
                    f"the case with scattered data ({error})"
                ) from error
            else:
                return
        raise failure

    def could_grow(self) -> bool:
        """Whether a shard is free for a worker that has joined."""
        data = self._data
        if data.shards.n_ranks == data.shards.n_shards:
            return False
        now = time.monotonic()
        if now < self._looked + LOOK_FOR_MORE_S:
            return False
        self._looked = now
        try:
            return data.group.rpc.run(self._find_free())
        except RankFailed:
            # If the scheduler is gone, the next order says so.
            return False

    def grow(self) -> None:
        """Give shards of workers that hold several to those that have joined."""
        self._data.group.rpc.run(self._move())

    # -- on the client's event loop ----------------------------------------------------

    async def _find_free(self) -> bool:
        """Take the locks of workers that could join; whether there are some.

        Where other fits have them, or they have no free thread, or they take long to
        import skmlp, this one goes on as it is.
        """
        data = self._data
        rpc = data.group.rpc
        n_free = data.shards.n_shards - data.shards.n_ranks
        spare = await self._spare([*data.group.workers])
        n_tasks = await rpc.scheduler("processing", workers=spare)
        threads = await rpc.scheduler("ncores", workers=spare)
        free = [w for w in spare if len(n_tasks.get(w, ())) < threads.get(w, 0)]
        loop = asyncio.get_running_loop()
        news = {
            worker: loop.create_task(self._look_at(worker))
            for worker in free
            if worker not in self._looks
        }
        self._looks |= news
        if news:
            await asyncio.wait(news.values(), timeout=JOIN_LIMIT_S)
        found = 0
        for worker in [w for w in spare if w in self._looks and self._looks[w].done()]:
            if found < n_free and self._looks.pop(worker).result():
                found += await data.locks.take(data.group, worker)
        return found > 0

    async def _look_at(self, worker: str) -> bool:
        """Whether a worker can take part; if not, it is not asked again."""
        rpc = self._data.group.rpc
        try:
            (server_id,) = await rpc.server_ids([worker], CALL_LIMIT_S)
            wrong = await look_at(rpc, [worker])
        except RankFailed as error:
            logger.info("one more while others are looked for: %s", error)
            return False
        if wrong:
            logger.info("%s does not take part: it %s", worker, wrong[worker])
            self._unfit[worker] = server_id
        return not wrong

    async def _spare(self, members: Sequence[str]) -> list[str]:
        """The workers that are not in the fit and could be."""
        group = self._data.group
        present = await group.rpc.scheduler("ncores_running")
        known = (await group.rpc.scheduler("identity"))["workers"]
        return [
            worker
            for worker in sorted(present)
            if worker not in members
            and not self._data.demands.lacks(worker, known.get(worker, {}))
            and not await self._is_one_of(worker, self._unfit | group.lost)
        ]

    async def _is_one_of(self, worker: str, shunned: Mapping[str, str]) -> bool:
        """Whether a worker is one of those, and no other process at its address."""
        if worker not in shunned:
            return False
        try:
            (server_id,) = await self._data.group.rpc.server_ids([worker], CALL_LIMIT_S)
        except WorkerLost:
            return True
        return server_id == shunned[worker]

    async def _move(self) -> None:
        """Give all shards to workers that live."""
        data = self._data
        await self._dismiss()
        left = await data.settled()
        for worker in set(data.group.workers) - set(left):
            data.forget(worker)
        n_free = data.shards.n_shards - len(left)
        joined = await self._join(await self._spare([*left]), n_free, needed=not left)
        held = shared_out(data.shards.n_shards, left, joined)
        await data.move(held)

    async def _dismiss(self) -> None:
        """Have the scheduler let go of workers that don't answer.

        As it does by itself after its ``worker-ttl``: what only they have is computed
        again, instead of being waited for.
        """
        data = self._data
        rpc = data.group.rpc
        for worker in await rpc.alive(data.group.silent):
            logger.warning("%s does not answer: it is taken off the cluster", worker)
            stamp = f"skmlp-{uuid.uuid4()}"
            await rpc.scheduler("unregister", address=worker, stimulus_id=stamp)
        # Who comes to such an address later is another process.
        data.group.silent.clear()

    async def _join(
        self, candidates: Sequence[str], most: int, *, needed: bool
    ) -> list[str]:
        """Begin the fit on workers that are new to it; return those that take part.

        Without `needed`, a worker that is busy, or unlike the others, or another fit's,
        is left alone.
        """
        data = self._data
        if needed and not candidates:
            candidates = (await able_workers(data.group.rpc, data.demands)).workers
        joined: list[str] = []
        for worker in candidates:
            if len(joined) == most:
                break
            if not needed and not await data.locks.take(data.group, worker):
                continue
            try:
                if needed and not joined:
                    await data.lease([worker])
                else:
                    await data.lease([worker], JOIN_LIMIT_S)
            except (RankFailed, ValueError) as error:
                logger.info("%s does not take part: %s", worker, error)
                self._unfit[worker] = data.group.ids.get(worker, "")
                data.forget(worker)
                if not needed:
                    await data.locks.release(data.group, worker)
            else:
                joined.append(worker)
        if needed and not joined:
            raise RankFailed("no Dask worker is left that could go on with the fit")
        return joined


def shared_out(
    n_shards: int, held: dict[str, list[int]], joined: Sequence[str]
) -> dict[str, list[int]]:
    """Give each shard to a worker: as few as possible change hands.

    `held` are the workers of before, with the shards whose rows they have; `joined`
    have none yet. Returns the workers with their shards, at least one each.
    """
    shares = {worker: list(own) for worker, own in held.items()}
    shares |= {worker: [] for worker in joined}
    known = {shard for own in held.values() for shard in own}
    for shard in range(n_shards):
        if shard not in known:
            # Of several with equally few, the first.
            min(shares.values(), key=len).append(shard)
    for own in shares.values():
        richest = max(shares.values(), key=len)
        if not own and len(richest) > 1:
            own.append(richest.pop())
    return {worker: sorted(own) for worker, own in shares.items() if own}
