"""A rank on a Dask worker: its thread, and the post at which it gets its orders.

The driver's orders come in on the worker's event loop (`Post.request` and others,
called by `skmlp.dask.worker.service.Host`); the rank answers from its own thread. What
goes wrong in the thread is handed over as an answer and not raised: Dask would log the
task's arguments, and run its own course.
"""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from queue import SimpleQueue
from typing import Any

import numpy as np
from distributed.protocol import Serialize, to_serialize
from distributed.protocol.pickle import dumps, loads

from skmlp.comm.base import Aborted, Communicator, PeerLost, Shards
from skmlp.comm.handshake import Secret, default_facts, fingerprint
from skmlp.comm.rendezvous import Contexts, Unreachable
from skmlp.comm.sockets import Listener, SocketCommunicator
from skmlp.dask.ports import ADVICE
from skmlp.data.partitions import PartStats
from skmlp.data.store.shard_store import ShardStore
from skmlp.threads import blas_limit
from skmlp.training.protocol import Build, Message, RankWorker

Array = np.ndarray[Any, np.dtype[Any]]

#: What travels as an order or an answer: of msgpack's own types, and large arrays.
Packed = dict[str, Any]

#: Bytes of an array that travels by itself: the scheduler hands it on unread.
APART = 1 << 17


class Kind(StrEnum):
    """What became of an order."""

    DONE = "done"
    RAISED = "raised"  # the servant raised: this is the cause of a failure
    LOST = "lost"  # the rank lost another one
    ABORTED = "aborted"  # the rank was told to stop
    GONE = "gone"  # the worker knows of no such run or rank


@dataclass(frozen=True)
class Duty:
    """All that a rank needs.

    It comes as a pickle, apart from the rank's Dask task: Dask logs the arguments of
    tasks, and ends a worker that can't read them.

    Attributes
    ----------
    run : str
        Name of the fit, 32 hexadecimal digits.
    shards : Shards
        Which rank holds which shard.
    addresses : tuple of (str, int)
        Of the ranks' listeners.
    secret : Secret
        The fit's.
    encrypted : bool
        The ranks talk TLS.
    build : callable
        Makes the servant; see `skmlp.training.protocol.Build`.
    plan : object
        Handed to `build`.
    stats : PartStats
        Of all rows together.
    blas_threads : int or None
        Limit of BLAS threads; None for as many as the worker has threads.
    meet_limit, step_limit : float
        Seconds to find the other ranks, and to wait for one of them in a step.
    """

    run: str
    shards: Shards
    addresses: tuple[tuple[str, int], ...]
    secret: Secret
    encrypted: bool
    build: Build
    plan: Any
    stats: PartStats
    blas_threads: int | None
    meet_limit: float
    step_limit: float


class Post:
    """Where the driver's orders meet the rank's thread, on one worker, for one group.

    Made on the worker's event loop before the rank's task begins.

    Parameters
    ----------
    generation : int
        Of the group.
    rank : int
        The rank that will serve here.
    listener : Listener
        Where the other ranks reach this one. The post closes it.
    """

    def __init__(self, generation: int, rank: int, listener: Listener) -> None:
        self.generation = generation
        self.rank = rank
        #: The pickle of the rank's `Duty`; set before its task is submitted.
        self.duty = b""
        self.listener = listener
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[Packed] = self._loop.create_future()
        self._ended = asyncio.Event()
        self._lock = threading.Lock()
        self._inbox: SimpleQueue[tuple[Message, asyncio.Future[Packed]] | None]
        self._inbox = SimpleQueue()
        # Shared by the two threads, under the lock.
        self._comm: Communicator | None = None
        self._servant: RankWorker | None = None
        #: Whether the rank's task has begun.
        self.begun = False
        self._busy = False
        #: What becomes of the request under way, or became of the last one.
        self._answer: asyncio.Future[Packed] | None = None
        self._stop: str | None = None
        #: Why the rank serves no more; set once.
        self._end: Packed | None = None

    # -- on the event loop -------------------------------------------------------------

    async def ready(self) -> Packed:
        """Wait until the servant is built, or the rank has failed."""
        return await asyncio.shield(self._ready)

    async def request(self, order: Packed) -> Packed:
        """Hand an order to the rank and wait for what becomes of it."""
        answer: asyncio.Future[Packed] = self._loop.create_future()
        with self._lock:
            if self._end is not None:
                return self._end
            self._inbox.put((unpack(order), answer))
        self._answer = answer
        # Who asks may leave; others may want to know.
        return await asyncio.shield(answer)

    async def pause(self, limit: float) -> Packed:
        """Have the request under way end early, and tell what came of it in time."""
        with self._lock:
            servant = self._servant
        if servant is not None:
            servant.pause()
        if self._answer is not None:
            await asyncio.wait([self._answer], timeout=limit)
            if self._answer.done():
                return self._answer.result()
        return {"kind": Kind.DONE}

    def stop(self, reason: str) -> None:
        """End the service: at once if the rank is idle, else by aborting its work."""
        with self._lock:
            if self._stop is not None:
                return
            self._stop = reason
            comm, busy, begun = self._comm, self._busy, self.begun
        self._inbox.put(None)
        self.listener.abort(reason, self.generation)
        if comm is not None and busy:
            comm.abort(reason)
        if not begun:  # no thread will do it
            self._finish({"kind": Kind.ABORTED, "text": reason})

    async def wait_ended(self, limit: float) -> bool:
        """Whether the rank's thread is done here within `limit` seconds."""
        try:
            async with asyncio.timeout(limit):
                await self._ended.wait()
        except TimeoutError:
            return False
        return True

    # -- in the rank's thread ----------------------------------------------------------

    def serve(
        self,
        stores: Mapping[int, ShardStore],
        threads: int,
        tls: Callable[[], Contexts],
    ) -> str:
        """Be the rank: meet the others, build the servant, answer until the end.

        Parameters
        ----------
        stores : mapping from int to ShardStore
            The rows of each shard of this worker.
        threads : int
            Of the worker.
        tls : callable
            Makes the TLS contexts, where the ranks talk TLS.

        Returns
        -------
        str
            What ended the service, for people who look at the task's result.
        """
        with self._lock:
            if self.begun or self._stop is not None:
                return "stopped before it began"
            self.begun = self._busy = True
        end: Packed = {"kind": Kind.ABORTED, "text": "the group is closed"}
        try:
            duty: Duty = loads(self.duty)
            with blas_limit(duty.blas_threads or threads):
                self._build(duty, stores, tls)
                self._answer_orders()
        except BaseException as error:
            end = describe(error)
        finally:
            self._finish(end)
        return str(end["text"])

    def _build(
        self,
        duty: Duty,
        stores: Mapping[int, ShardStore],
        tls: Callable[[], Contexts],
    ) -> None:
        """Find the other ranks and make the servant."""
        try:
            comm = SocketCommunicator.connect(
                self.listener,
                self.rank,
                duty.shards,
                duty.addresses,
                secret=duty.secret,
                run=bytes.fromhex(duty.run),
                generation=self.generation,
                fingerprint=fingerprint(**default_facts()),
                limit=duty.meet_limit,
                step_limit=duty.step_limit,
                ssl_contexts=tls() if duty.encrypted else None,
            )
        except Unreachable as error:
            raise Unreachable(f"{error}. {ADVICE}") from error
        # The next group has another one: from here on nobody finds an open port.
        self.listener.close()
        with self._lock:
            self._comm = comm
            if self._stop is not None:
                raise Aborted(self._stop)
        rows = {shard: stores[shard].rows(duty.stats) for shard in comm.own_shards}
        servant = duty.build(duty.plan, comm, rows)
        with self._lock:
            self._servant = servant
            self._busy = False
        self._tell(self._ready, {"kind": Kind.DONE})

    def _answer_orders(self) -> None:
        """Handle orders until there are no more."""
        assert self._servant is not None
        while True:
            # Without a limit: the worker ends this wait when the driver says so, when
            # the driver's client is gone, and when it closes itself.
            item = self._inbox.get()
            if item is None:
                return
            message, answer = item
            with self._lock:
                if self._stop is not None:
                    return
                self._busy = True
            try:
                done = self._servant.handle(message)
            except BaseException as error:
                self._tell(answer, describe(error))
                raise
            with self._lock:
                self._busy = False
            # Only the lead's answer is wanted; what the others return stays here.
            packed = pack(done) if self.rank == 0 else None
            self._tell(answer, {"kind": Kind.DONE, "answer": packed})

    def _finish(self, end: Packed) -> None:
        """Leave nothing behind, and let go of everybody who waits here."""
        with self._lock:
            comm, servant = self._comm, self._servant
            self._comm = self._servant = None
            self._end = end
        try:
            if servant is not None:
                servant.close()
        finally:
            if comm is not None:
                comm.close()
            self.listener.close()
        self._tell(self._ready, end)
        while not self._inbox.empty():
            item = self._inbox.get()
            if item is not None:
                self._tell(item[1], end)
        with suppress(RuntimeError):  # the worker's event loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._ended.set)

    def _tell(self, future: asyncio.Future[Packed], result: Packed) -> None:
        """Set a future of the event loop from any thread, unless it is set."""

        def set_result() -> None:
            if not future.done():
                future.set_result(result)

        with suppress(RuntimeError):  # the worker's event loop is closed: nobody waits
            self._loop.call_soon_threadsafe(set_result)


def pack(message: Message) -> Packed:
    """A message in types that travel; its arrays are copied."""
    return {"op": message.op, "arrays": list(map(_packed, message.arrays))}


def _packed(array: Array) -> Any:
    """An array as bytes; a large one as what Dask carries without looking into it."""
    if array.nbytes < APART:
        return array.dtype.str, array.tobytes()
    # A copy: Dask may not have sent it when the next order begins.
    return to_serialize(array.copy())


def unpack(packed: Packed) -> Message:
    """The message of `pack`, with arrays of its own."""
    return Message(packed["op"], tuple(map(_unpacked, packed["arrays"])))


def _unpacked(packed: Any) -> Array:
    if isinstance(packed, np.ndarray):
        return packed if packed.flags.writeable else packed.copy()
    if isinstance(packed, Serialize):  # of a message that has not travelled
        return np.array(packed.data)
    dtype, data = packed
    return np.frombuffer(data, np.dtype(dtype)).copy()


def describe(error: BaseException) -> Packed:
    """An exception in msgpack's types."""
    kind = Kind.RAISED
    if isinstance(error, Aborted):
        kind = Kind.ABORTED
    elif isinstance(error, PeerLost):
        kind = Kind.LOST
    return {
        "kind": kind,
        "text": f"{type(error).__name__}: {error}",
        "error": _pickled(error) if kind is Kind.RAISED else b"",
        "traceback": "".join(traceback.format_exception(error)),
    }


def _pickled(error: BaseException) -> bytes:
    """The pickle of an exception, or b"" if it can't be pickled and read again."""
    try:
        data: bytes = dumps(error)
        loads(data)
    except Exception:
        return b""
    return data


class RankTraceback(Exception):
    """The traceback of an exception of a rank, as text: the cause of its copy."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def restore(failure: Packed) -> BaseException:
    """The exception of a failure of kind `Kind.RAISED`, as the servant raised it."""
    error: BaseException = RuntimeError(failure["text"])
    if failure["error"]:
        try:
            error = loads(failure["error"])
        except Exception:  # its class is not known here: the text says what it was
            error = RuntimeError(failure["text"])
    error.__cause__ = RankTraceback(failure["traceback"])
    return error
