"""What skmlp keeps on a Dask worker; the tasks are in `skmlp.dask.worker.tasks`.

The worker's `WorkerService` holds the rows and mailboxes of all fits. It is there from
the lease of the first fit to the end of the last one. A *lease* is a small task whose
result the driver holds: when the driver's client closes or dies, Dask releases the
result, and the service takes that as the end of the fit: nothing of it stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from distributed import Worker
from distributed.comm import get_address_host
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.protocol.pickle import loads

from skmlp.comm.listener import local_name
from skmlp.dask.graph import for_scheduler
from skmlp.dask.ports import is_encrypted, listener_of
from skmlp.dask.worker.mailbox import Answer, DaskMailbox, failure
from skmlp.data.store import file_matrix
from skmlp.data.store.shard_store import ShardStore
from skmlp.launch.framing import Kind

logger = logging.getLogger(__name__)

#: Name of the plugin, and of the worker's handler for the driver's calls.
NAME = "skmlp"

GONE: Answer = {"kind": Kind.GONE, "text": "this worker knows nothing of the fit"}

#: This part of the memory limit stays free below that at which Dask pauses a worker.
SPARE_PART = 0.1

#: Seconds between two looks at whether the fit of a lease that was moved is over.
MOVED_S = 1.0

#: Seconds for a rank whose driver is gone to leave before its worker's lock is free.
RANK_LIMIT_S = 10.0


@dataclass(frozen=True)
class Lease:
    """How a fit begins on a worker.

    `run`, 32 hexadecimal digits, names the fit, `key` the lease's task; `address` is
    that of the worker as the scheduler knows it: perhaps not as the worker does.
    """

    run: str
    key: str
    address: str


@dataclass
class Fit:
    """What belongs to one fit on one worker."""

    lease: Lease
    #: Dask addresses of the fit's workers, by rank.
    members: tuple[str, ...] = ()
    stores: dict[int, ShardStore] = field(default_factory=dict)
    mailbox: DaskMailbox | None = None
    #: Names of the fit's requests for the locks on its workers.
    locks: tuple[str, ...] = ()


class WorkerService(WorkerPlugin):  # type: ignore[misc]  # an untyped base
    """The fits of one worker, and the handler of the drivers' calls.

    All methods run on the worker's event loop, but for `fit_of` and what stores ask.

    There is one for each worker, however many fits come and go, and it holds the worker
    by a weak reference: Dask remembers each handler that it ever called.
    """

    name = NAME

    def __init__(self, worker: Worker) -> None:
        self._reference = weakref.ref(worker)
        self._fits: dict[str, Fit] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def _worker(self) -> Any:
        return self._reference()

    async def teardown(self, worker: Worker) -> None:
        """End all fits here: the worker closes."""
        for run in list(self._fits):
            self._drop(run, "the worker is closing")

    def transition(self, key: Any, start: str, finish: str, **kwargs: Any) -> None:
        """Watch the leases."""
        if finish != "released":
            return
        for fit in [f for f in self._fits.values() if f.lease.key == key]:
            task = asyncio.get_running_loop().create_task(self._look_after(fit))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _look_after(self, fit: Fit) -> None:
        """End a fit whose lease is here no more, once it is nowhere else either.

        Dask may move it, as by ``Client.rebalance``.
        """
        run = fit.lease.run
        while await self._is_wanted(fit.lease.key) and self._fits.get(run) is fit:
            await asyncio.sleep(MOVED_S)
        if self._fits.get(run) is fit:
            self._drop(run, "the fit's Dask client is gone")
            if fit.locks:
                await self._release(fit)

    async def _is_wanted(self, key: Any) -> bool:
        """Whether the scheduler knows of a client that holds a result."""
        try:
            states = await self._worker.scheduler.get_task_status(keys=[key])
        except OSError:  # the worker ends with its scheduler
            return False
        return states.get(key) not in (None, "released", "forgotten")

    async def _release(self, fit: Fit) -> None:
        """Give the locks of a driver that is gone back to the scheduler."""
        scheduler = self._worker.scheduler
        try:
            if fit.mailbox is not None:
                await fit.mailbox.wait_ended(RANK_LIMIT_S)
            # One of the workers does it: the others may still be in the fit.
            alive = await scheduler.ncores(workers=list(fit.members))
            if min(alive, default="") == fit.lease.address:
                await free_locks(scheduler, fit.locks)
        except Exception:
            logger.warning("the locks of a fit could not be released", exc_info=True)

    def begin(self, lease: Lease) -> None:
        """Begin a fit, unless Dask only computes its lease once more."""
        # Not by `plugin_add`, which logs it: the worker keeps its log.
        self._worker.plugins[NAME] = self
        self._worker.handlers[NAME] = self.handle
        known = self._fits.get(lease.run)
        if known is None or known.lease != lease:
            self._drop(lease.run, "the fit begins again")
            self._fits[lease.run] = Fit(lease)

    def _drop(self, run: str, reason: str) -> None:
        """End a fit, and leave nothing of it."""
        fit = self._fits.pop(run, None)
        if fit is None:
            return
        if fit.mailbox is not None:
            fit.mailbox.stop(reason)
        for store in fit.stores.values():
            store.close()
        # Not right away: Dask may be going through its plugins.
        asyncio.get_running_loop().call_soon(self._leave_if_idle)

    def _leave_if_idle(self) -> None:
        worker = self._worker
        if not self._fits and worker is not None:
            worker.plugins.pop(NAME, None)
            worker.handlers.pop(NAME, None)

    def fit_of(self, run: str) -> Fit | None:
        """What belongs to a fit, if it is not over. From any thread."""
        return self._fits.get(run)

    # -- calls of the driver -----------------------------------------------------------

    async def handle(
        self, verb: str, run: str = "", generation: int | None = None, **facts: Any
    ) -> Answer:
        """Answer a call to a fit, or to its rank of a generation; it never raises."""
        try:
            fit = self._fits.get(run)
            if fit is None:
                return GONE
            if generation is None:
                answer: Answer = await getattr(self, f"_on_{verb}")(fit, **facts)
                return answer
            if verb == "listen":
                return self._listen(fit, generation, **facts)
            mailbox = mailbox_of(fit, generation)
            if mailbox is None:
                return GONE
            answer = await getattr(mailbox, f"on_{verb}")(**facts)
            if verb == "end" and fit.mailbox is mailbox:
                fit.mailbox = None
            return answer
        except Exception as error:
            logger.warning("skmlp's %r failed", verb, exc_info=True)
            return failure(error)

    async def _on_hold(
        self,
        fit: Fit,
        shards: list[Any],
        layout: dict[str, Any],
        keep: list[int],
        released: int,
    ) -> Answer:
        """Make room for the rows of some shards; let go of all but those to keep.

        `released` are bytes of partitions on this worker that go as their rows come.
        """
        again = dict(shards)  # they may come once more, perhaps with other rows
        for shard in [k for k in fit.stores if k in again or k not in keep]:
            fit.stores.pop(shard).close()
        row = layout["features"] * np.dtype(layout["dtype"]).itemsize
        # Beside X, 8 bytes for a row's target and for its weight.
        scale = (row + 8 + 8 * layout["weighted"]) / max(row, 1)
        rows = sum(n for _, ranges in shards for _, n in ranges)
        folder = self._folder_for(rows * row * scale, released)
        for shard, ranges in shards:

            def has_room(size: int, shard: int = shard) -> bool:
                return not self._folder_for(size * scale, but=fit.stores.get(shard))

            fit.stores[shard] = ShardStore(
                ranges, **layout, folder=folder, has_room=has_room
            )
        return {"kind": Kind.DONE}

    def _folder_for(
        self, size: float, released: int = 0, but: ShardStore | None = None
    ) -> str:
        """Where more bytes go: "" for the memory, while all fits take half at most.

        And while the worker is far from being paused for all that it has, without what
        is about to be `released`. Also called by tasks, for a store `but` that grows to
        this size.
        """
        limit = self._worker.memory_manager.memory_limit
        if not limit or not file_matrix.AVAILABLE:
            return ""
        held = sum(
            store.resident_bytes
            for fit in list(self._fits.values())
            for store in list(fit.stores.values())
            if store is not but
        )
        # Above some part of the limit Dask pauses the worker, which then never gets the
        # rows that it waits for: what else the process takes counts for that.
        pause = self._worker.memory_manager.memory_pause_fraction
        room = limit * (pause - SPARE_PART) if pause else math.inf
        released += 0 if but is None else but.resident_bytes
        process = self._worker.monitor.proc.memory_info().rss - released
        full = held + size > limit / 2 or process + size > room
        return str(self._worker.local_directory) if full else ""

    async def _on_labels(self, fit: Fit, shard: int, stats: bytes) -> Answer:
        """For each row of a shard, in its order, whether it has the last label."""
        store, known = fit.stores[shard], loads(stats)

        def bits() -> bytes:
            y = store.rows(known).y
            classes = known.classes
            last = (y == classes[-1]) & (len(classes) > 1)
            return np.packbits(last).tobytes()

        # Rows are put together for it: not on the event loop.
        return {"kind": Kind.DONE, "bits": await asyncio.to_thread(bits)}

    async def _on_drop(self, fit: Fit) -> Answer:
        """End the fit."""
        self._drop(fit.lease.run, "the fit is over")
        return {"kind": Kind.DONE}

    async def _on_locks(self, fit: Fit, names: list[str], members: list[str]) -> Answer:
        """Remember the locks to release if the client disappears, and the members."""
        fit.locks, fit.members = tuple(names), tuple(members)
        return {"kind": Kind.DONE}

    def _listen(self, fit: Fit, generation: int, ports: str) -> Answer:
        """Make a mailbox for a group's rank, and tell its listener's address."""
        if fit.mailbox is not None:
            fit.mailbox.stop("the group has started again")
        worker, address = self._worker, fit.lease.address
        rank = fit.members.index(address)
        name = local_name(bytes.fromhex(fit.lease.run), generation, rank)
        listener = listener_of(worker, address, ports, name)
        fit.mailbox = DaskMailbox(rank, generation, listener)
        return {
            "kind": Kind.DONE,
            # The host by which the others know it: behind a router, not its own name.
            "host": get_address_host(address),
            "port": listener.address[1],
            "encrypted": is_encrypted(
                worker.security, worker.address, worker.scheduler.address
            ),
        }

    async def _on_ping(self, fit: Fit) -> Answer:
        return {"kind": Kind.DONE}


async def free_locks(scheduler: Any, names: Sequence[str]) -> None:
    """Free the locks of requests. `scheduler` is a connection to it.

    It may know nothing of a request: it was interrupted, or another worker was faster.
    """
    answer = {}
    with contextlib.suppress(ValueError):  # a scheduler may refuse to run functions
        answer = await scheduler.run_function(**for_scheduler(_free, list(names)))
    if answer.get("status") != "OK":
        for name in names:
            with contextlib.suppress(KeyError):
                await scheduler.multi_lock_release(id=name)


def _free(names: list[str], dask_scheduler: Any) -> None:
    """On the scheduler: see `free_locks`."""
    locks = dask_scheduler.extensions["multi_locks"]
    for name in names:
        if name in locks.requests:
            locks.release(id=name)
        if name in locks.events:
            # The call that waits for the locks would wait for ever.
            locks.requests_left[name] = 0
            locks.events[name].set()


_services: weakref.WeakKeyDictionary[Worker, WorkerService]
_services = weakref.WeakKeyDictionary()


def service_of(worker: Worker) -> WorkerService:
    """The one service of a worker; see `WorkerService.begin`."""
    return _services.setdefault(worker, WorkerService(worker))


def mailbox_of(fit: Fit, generation: int) -> DaskMailbox | None:
    """The mailbox of one group's rank; None if the group is over."""
    mailbox = fit.mailbox
    return mailbox if mailbox and mailbox.generation == generation else None
