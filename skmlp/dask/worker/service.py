"""What skmlp keeps on a Dask worker; the tasks are in `skmlp.dask.worker.tasks`.

One `Host` per worker holds the rows and ranks of all fits; it comes with the first
fit's lease and goes with the last one. The *lease* is a small task whose result the
driver holds: when the driver's client closes or dies, Dask releases the result, and the
host takes that as the end of the fit: nothing of it stays on the worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from distributed import Worker
from distributed.comm import get_address_host
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.protocol.pickle import loads

from skmlp.dask.ports import is_encrypted, listener_of
from skmlp.dask.worker.fit_state import Lease, Run
from skmlp.dask.worker.handlers import GONE, NAME, desk_of
from skmlp.dask.worker.rank import Kind, Packed, Post, describe
from skmlp.data.assignment import Span
from skmlp.data.store import file_rows
from skmlp.data.store.shard_store import ShardStore

logger = logging.getLogger(__name__)


#: This part of the memory limit stays free below that at which Dask pauses a worker.
SPARE = 0.1

#: Seconds between two looks at whether the fit of an lease that was moved is over.
MOVED_S = 1.0

#: Seconds for a rank whose driver is gone to leave before its worker's lock is free.
RANK_LIMIT = 10.0


class Host(WorkerPlugin):  # type: ignore[misc]  # an untyped base
    """The fits of one worker, and the handler of the drivers' calls.

    All methods run on the worker's event loop, but for `run` and `post`, which the
    tasks call as well.
    """

    name = NAME

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def setup(self, worker: Worker) -> None:
        """Take up the drivers' calls."""
        self._worker = worker
        worker.handlers[NAME] = desk_of(worker).handle

    async def teardown(self, worker: Worker) -> None:
        """End all fits here: the worker closes, or the last fit is over."""
        for run in list(self._runs):
            self._drop(run, "the worker is closing")
        worker.handlers.pop(NAME, None)

    def transition(self, key: Any, start: str, finish: str, **kwargs: Any) -> None:
        """Watch the leases."""
        if finish != "released":
            return
        for run in [r for r in self._runs.values() if r.lease.key == key]:
            task = asyncio.get_running_loop().create_task(self._look_after(run))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _look_after(self, run: Run) -> None:
        """End a fit whose lease is here no more, once it is nowhere else either.

        Dask may move it, as by ``Client.rebalance``.
        """
        name = run.lease.run
        while await self._is_wanted(run.lease.key) and self._runs.get(name) is run:
            await asyncio.sleep(MOVED_S)
        if self._runs.get(name) is run:
            self._drop(name, "the fit's Dask client is gone")
            if run.locks:
                await self._release(run)

    async def _is_wanted(self, key: Any) -> bool:
        """Whether the scheduler knows of somebody who holds a result."""
        try:
            states = await self._worker.scheduler.get_task_status(keys=[key])
        except OSError:  # the worker ends with its scheduler
            return False
        return states.get(key) not in (None, "released", "forgotten")

    async def _release(self, run: Run) -> None:
        """Give the locks of a driver that is gone back to the scheduler."""
        scheduler = self._worker.scheduler
        try:
            if run.post is not None:
                await run.post.wait_ended(RANK_LIMIT)
            # One of the workers does it, or all but the first would fail.
            alive = await scheduler.ncores(workers=list(run.members))
            if min(alive, default="") == run.lease.address:
                for name in run.locks:
                    # KeyError: it was told of, but never made.
                    with contextlib.suppress(KeyError):
                        await scheduler.multi_lock_release(id=name)
        except Exception:
            logger.warning("the locks of a fit could not be released", exc_info=True)

    def open(self, lease: Lease) -> None:
        """Begin a fit, unless Dask only computes its lease once more."""
        known = self._runs.get(lease.run)
        if known is None or known.lease != lease:
            self._drop(lease.run, "the fit begins again")
            self._runs[lease.run] = Run(lease)

    def _drop(self, name: str, reason: str) -> None:
        """End a fit, and leave nothing of it."""
        run = self._runs.pop(name, None)
        if run is None:
            return
        if run.post is not None:
            run.post.stop(reason)
        for store in run.stores.values():
            store.close()
        # Not right away: Dask may be going through its plugins.
        asyncio.get_running_loop().call_soon(self._leave_if_idle)

    def _leave_if_idle(self) -> None:
        plugins = self._worker.plugins
        if not self._runs and plugins.get(NAME) is self:
            del plugins[NAME]
            self._worker.handlers.pop(NAME, None)

    # -- calls of the driver -----------------------------------------------------------

    async def handle(self, verb: str, run: str = "", **facts: Any) -> Packed:
        """Answer a call of a driver; it never raises."""
        try:
            mine = self._runs.get(run)
            if mine is None:
                return GONE
            answer: Packed = await getattr(self, f"_on_{verb}")(mine, **facts)
            return answer
        except Exception as error:
            logger.warning("skmlp's %r failed", verb, exc_info=True)
            return describe(error)

    async def _on_hold(
        self, run: Run, shards: list[Any], layout: dict[str, Any], keep: list[int]
    ) -> Packed:
        """Make room for the parts of some shards; let go of all but those to keep."""
        for shard in set(run.stores) - set(keep):
            run.stores.pop(shard).close()
        for shard, _ in shards:
            if shard in run.stores:  # it comes once more, perhaps in other parts
                run.stores.pop(shard).close()
        cuts = {shard: [Span(*span) for span in spans] for shard, spans in shards}
        rows = sum(max(span.rows, 0) for cut in cuts.values() for span in cut)
        row = layout["features"] * np.dtype(layout["dtype"]).itemsize
        # Beside X, 8 bytes for a row's target and for its weight.
        scale = (row + 8 + 8 * layout["weighted"]) / max(row, 1)
        folder = self._folder_for(rows * row * scale)
        for shard, cut in cuts.items():
            run.stores[shard] = ShardStore(
                cut, **layout, folder_for=self._folders(run, shard, cut, folder, scale)
            )
        return {"kind": Kind.DONE}

    async def _on_expect(self, run: Run, shards: list[Any]) -> Packed:
        """Hear of more parts."""
        for shard, spans in shards:
            run.stores[shard].expect([Span(*span) for span in spans])
        return {"kind": Kind.DONE}

    async def _on_settle(self, run: Run, shards: list[Any]) -> Packed:
        """Hear which rows stay, and which come from other shards."""
        for shard, spans in shards:
            own = [Span(*span) for span in spans]
            # Rows may be read from or written to a file: not on the event loop.
            await asyncio.to_thread(run.stores[shard].settle, own)
        return {"kind": Kind.DONE}

    def _folders(
        self, run: Run, shard: int, cut: Sequence[Span], folder: str, scale: float
    ) -> Callable[[int, bool], str]:
        """What tells the store of a shard where its rows go."""

        def folder_for(size: int, grows: bool) -> str:
            if not grows:
                return folder  # all shards that come now, or none
            # Nobody knows how many they will be: it asks again and again.
            return self._folder_for(size * scale, run.stores.get(shard))

        return folder_for

    def _folder_for(self, size: float, but: ShardStore | None = None) -> str:
        """Where more bytes go: "" for the memory, while all fits take half at most.

        And while the worker is far from being paused for all that it has.

        Also called by tasks, for a store `but` that grows to this size.
        """
        limit = self._worker.memory_manager.memory_limit
        if not limit or not file_rows.AVAILABLE:
            return ""
        held = sum(
            store.resident_bytes
            for run in list(self._runs.values())
            for store in list(run.stores.values())
            if store is not but
        )
        # Above some part of the limit Dask pauses the worker, which then never gets the
        # rows that it waits for: what else the process takes counts for that.
        pause = self._worker.memory_manager.memory_pause_fraction
        room = limit * (pause - SPARE) if pause else math.inf
        here = 0 if but is None else but.resident_bytes
        process = self._worker.monitor.proc.memory_info().rss
        full = held + size > limit / 2 or process + size - here > room
        return str(self._worker.local_directory) if full else ""

    async def _on_labels(self, run: Run, shard: int, stats: bytes) -> Packed:
        """For each row of a shard, in its order, whether it has the last label."""
        store, known = run.stores[shard], loads(stats)

        def bits() -> bytes:
            y = store.rows(known).y
            classes = known.classes
            last = (y == classes[-1]) & (len(classes) > 1)
            return np.packbits(last).tobytes()

        # Rows are put together for it: not on the event loop.
        return {"kind": Kind.DONE, "bits": await asyncio.to_thread(bits)}

    async def _on_drop(self, run: Run) -> Packed:
        """End the fit."""
        self._drop(run.lease.run, "the fit is over")
        return {"kind": Kind.DONE}

    async def _on_locks(self, run: Run, names: list[str], members: list[str]) -> Packed:
        """Know what to release should the driver go, and who could do so."""
        run.locks, run.members = tuple(names), tuple(members)
        return {"kind": Kind.DONE}

    async def _on_listen(self, run: Run, generation: int, ports: str) -> Packed:
        """Make a post for this worker's rank, and tell its listener's address."""
        if run.post is not None:
            run.post.stop("the group has started again")
        rank = run.members.index(run.lease.address)
        worker, address = self._worker, run.lease.address
        run.post = Post(generation, rank, listener_of(worker, address, ports))
        return {
            "kind": Kind.DONE,
            # The host by which the others know it: behind a router, not its own name.
            "address": [get_address_host(address), run.post.listener.address[1]],
            "encrypted": is_encrypted(
                worker.security, worker.address, worker.scheduler.address
            ),
        }

    async def _on_duty(self, run: Run, generation: int, duty: bytes) -> Packed:
        """Tell the rank what it will need when its task begins."""
        post = self.post(run, generation)
        if post is None:
            return GONE
        post.duty = duty
        return {"kind": Kind.DONE}

    async def _on_ready(self, run: Run, generation: int) -> Packed:
        post = self.post(run, generation)
        return GONE if post is None else await post.ready()

    async def _on_ask(self, run: Run, generation: int, order: Packed) -> Packed:
        post = self.post(run, generation)
        return GONE if post is None else await post.request(order)

    async def _on_pause(self, run: Run, generation: int, limit: float) -> Packed:
        post = self.post(run, generation)
        return GONE if post is None else await post.pause(limit)

    async def _on_abort(self, run: Run, generation: int, reason: str) -> Packed:
        """Stop the rank; `idle` says that its task had not even begun."""
        post = self.post(run, generation)
        idle = post is not None and not post.begun
        if post is not None:
            post.stop(reason)
        return {"kind": Kind.DONE, "idle": run.lease.address if idle else ""}

    async def _on_end(self, run: Run, generation: int, patience: float) -> Packed:
        """End the group here; `late` names the rank whose thread goes on."""
        late = ""
        post = self.post(run, generation)
        if post is not None:
            post.stop("the group is closed")
            if not await post.wait_ended(patience):
                late = f"rank {post.rank} on {run.lease.address}"
            if run.post is post:
                run.post = None
        return {"kind": Kind.DONE, "late": late}

    async def _on_ping(self, run: Run) -> Packed:
        return {"kind": Kind.DONE, "address": run.lease.address}

    @staticmethod
    def post(run: Run, generation: int) -> Post | None:
        """The post of one group; None for one that is over."""
        post = run.post
        return post if post is not None and post.generation == generation else None

    # -- for the tasks -----------------------------------------------------------------

    def run(self, name: str) -> Run | None:
        """What belongs to a fit, if it is not over."""
        return self._runs.get(name)
