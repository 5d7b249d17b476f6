"""The gangs of one fit on a Dask cluster: workers come and go, the shards stay.

A lost worker's shards go to workers that are not in the fit yet, or to those that are
left; their rows are computed once more, from the user's collection. A shard that
changes hands is computed apart from the others, so the bits stay as they were.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence
from typing import Any

from distributed import Client

from skmlp.launch.base import Build, Gang, Launcher, RankFailed
from skmlp.launch.dask_client import Line
from skmlp.launch.dask_crew import Limits
from skmlp.launch.dask_data import AdoptedData, adopt
from skmlp.launch.dask_gang import DaskGang
from skmlp.launch.dask_lost import DataLost, WorkerLost
from skmlp.launch.dask_members import present_workers

logger = logging.getLogger(__name__)

#: Tries to bring the rows to the workers that are left, while more of them are lost.
TRIES = 10
#: Seconds for a worker that the fit could do without to take it up.
JOIN = 5.0
#: Seconds between two looks at whether a worker has joined.
LOOK_FOR_MORE = 1.0


class DaskLauncher(Launcher):
    """Starts a fit's gangs on the workers that are there.

    Parameters
    ----------
    build, plan
        See `skmlp.launch.dask_gang.DaskGang`.
    data : AdoptedData
        The rows. Who made them closes them.
    limits : Limits, optional
        How long to wait for what.
    """

    def __init__(
        self, build: Build, plan: Any, data: AdoptedData, limits: Limits | None = None
    ) -> None:
        self._build = build
        self._plan = plan
        self._data = data
        self._limits = Limits() if limits is None else limits
        self._looked = time.monotonic()
        #: Workers that could not take up the fit when they were asked to.
        self._unfit: set[str] = set()

    def start(self, generation: int) -> Gang:
        """Start a gang on the workers that hold the rows; see `Launcher.start`."""
        return DaskGang(
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
        for _ in range(TRIES):
            if not data.crew.line.open:
                raise failure
            try:
                data.crew.line.run(self._move())
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
        if now < self._looked + LOOK_FOR_MORE:
            return False
        self._looked = now
        try:
            return data.crew.line.run(self._find_free())
        except RankFailed:
            # If the scheduler is gone, the next order says so.
            return False

    def grow(self) -> None:
        """Give shards of workers that hold several to those that have joined."""
        self._data.crew.line.run(self._move())

    # -- on the client's event loop ----------------------------------------------------

    async def _find_free(self) -> bool:
        """Take the locks of workers that could join; whether there are some.

        Where other fits have them, this one goes on as it is.
        """
        data = self._data
        n_free = data.shards.n_shards - data.shards.n_ranks
        found = 0
        for worker in await self._spare([*data.crew.workers]):
            if found == n_free:
                break
            found += await data.locks.take(data.crew, worker)
        return found > 0

    async def _spare(self, members: Sequence[str]) -> list[str]:
        """The workers that are not in the fit and could be."""
        line = self._data.crew.line
        running = await line.scheduler("ncores_running")
        allowed = self._data.allowed
        known = {*members, *self._unfit, *self._data.crew.lost}
        return [
            worker
            for worker in sorted(running)
            if worker not in known and (allowed is None or worker in allowed)
        ]

    async def _move(self) -> None:
        """Give all shards to workers that live."""
        data = self._data
        await self._dismiss()
        left = await data.settled()
        for worker in set(data.crew.workers) - set(left):
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
        line = data.crew.line
        for worker in await line.alive(data.crew.lost):
            logger.warning("%s does not answer: it is taken off the cluster", worker)
            stamp = f"skmlp-{uuid.uuid4()}"
            await line.scheduler("unregister", address=worker, stimulus_id=stamp)

    async def _join(
        self, candidates: Sequence[str], most: int, *, needed: bool
    ) -> list[str]:
        """Begin the fit on workers that are new to it; return those that take part.

        Without `needed`, a worker that is busy, or unlike the others, or another fit's,
        is left alone.
        """
        data = self._data
        if needed and not candidates:
            candidates = await present_workers(data.crew.line, data.allowed)
        joined: list[str] = []
        for worker in candidates:
            if len(joined) == most:
                break
            if not needed and not await data.locks.take(data.crew, worker):
                continue
            try:
                if needed and not joined:
                    await data.anchor([worker])
                else:
                    await data.anchor([worker], JOIN)
            except (RankFailed, ValueError) as error:
                logger.info("%s does not take part: %s", worker, error)
                self._unfit.add(worker)
                data.forget(worker)
                if not needed:
                    await data.locks.release(data.crew, worker)
            else:
                joined.append(worker)
        if needed and not joined:
            raise RankFailed("no Dask worker is left that could go on with the fit")
        return joined


def shared_out(
    n_shards: int, held: dict[str, list[int]], joined: Sequence[str]
) -> dict[str, list[int]]:
    """Give each shard to a worker: as few as possible change hands.

    Parameters
    ----------
    n_shards : int
        The number of shards.
    held : dict from str to list of int
        The workers of before, with the shards whose rows they have.
    joined : sequence of str
        Those that have none yet.

    Returns
    -------
    dict from str to list of int
        The workers with their shards, at least one each.
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


def adopt_all(
    client: Client,
    X: Any,
    y: Any,
    w: Any = None,
    *,
    n_shards: int | None = None,
    labels: bool = False,
    masked: bool = False,
    held_out: tuple[Any, Any, Any] | None = None,
) -> AdoptedData:
    """`adopt`, once more if a worker is lost meanwhile; for the arguments see there."""
    line = Line(client)
    if n_shards is None:
        # Fixed now: who is lost on the way changes no bit of the model.
        n_shards = len(line.run(present_workers(line, None)))
    first: WorkerLost | None = None
    for _ in range(TRIES):
        try:
            return adopt(
                client,
                X,
                y,
                w,
                n_shards=n_shards,
                labels=labels,
                masked=masked,
                held_out=held_out,
            )
        except WorkerLost as error:
            logger.warning("the rows are brought to the workers again: %s", error)
            first = first or error
    assert first is not None
    raise first
