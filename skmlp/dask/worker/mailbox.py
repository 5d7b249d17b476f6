"""The mailbox of a rank on a Dask worker: its requests and answers, and its end.

The driver's calls come in on the worker's event loop, passed on by
`skmlp.dask.worker.service.WorkerService`; the rank serves in its own thread. What goes
wrong there is handed over as an answer and not raised: Dask would log the task's
arguments, and run its own course.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from distributed.protocol import Serialize, to_serialize
from distributed.protocol.pickle import dumps, loads

from skmlp.comm.base import Communicator
from skmlp.comm.listener import Address, Listener
from skmlp.comm.rendezvous import Contexts, Unreachable
from skmlp.dask.ports import ADVICE
from skmlp.data.partitions import PartStats
from skmlp.data.store.shard_store import ShardStore
from skmlp.launch import framing
from skmlp.launch.framing import Kind
from skmlp.launch.serving import RankMailbox, RankSpec, describe, portable
from skmlp.training.protocol import Build, Message, RankWorker

#: A worker's answer to a call, in msgpack's own types; a frame travels apart.
Answer = dict[str, Any]


@dataclass(frozen=True)
class DaskRankSpec(RankSpec):
    """All that a rank needs, beside its rows.

    It comes as a pickle, apart from the rank's Dask task: Dask logs the arguments of
    tasks, and ends a worker that can't read them.

    Attributes
    ----------
    addresses : tuple of (str, int)
        Of the ranks' listeners.
    encrypted : bool
        The ranks talk TLS.
    build, plan
        See `skmlp.training.protocol.Build`.
    stats : PartStats
        Of all rows together.
    """

    addresses: tuple[Address, ...]
    encrypted: bool
    build: Build
    plan: Any
    stats: PartStats


class DaskMailbox(RankMailbox):
    """The mailbox of one rank in one group, made on the worker's event loop."""

    def __init__(self, rank: int, generation: int, listener: Listener) -> None:
        super().__init__(rank, generation, listener)
        #: Whether the rank's task has begun.
        self.begun = False
        self._spec = b""
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        #: That the rank is ready, and then what becomes of the last request.
        self._answer: asyncio.Future[Answer] = self._loop.create_future()
        #: Why the rank serves no more.
        self._end: Answer | None = None

    # -- calls of the driver, on the event loop ----------------------------------------

    async def on_spec(self, spec: bytes) -> Answer:
        """Take in what the rank will need when its task begins."""
        self._spec = spec
        return {"kind": Kind.DONE}

    async def on_ready(self) -> Answer:
        """Wait until the rank is ready, or what came of its last request."""
        # The driver may leave; it may ask once more.
        return await asyncio.shield(self._answer)

    async def on_request(self, frame: Any) -> Answer:
        """Hand a request to the rank, and wait for what becomes of it."""
        with self._lock:
            if self._end is not None:
                return self._end
            self._answer = self._loop.create_future()
            self.requests.put(message_of(frame))
        return await self.on_ready()

    async def on_pause(self, limit: float) -> Answer:
        """Have the request under way end early; what came of it within `limit` s."""
        self.pause()
        await asyncio.wait([self._answer], timeout=limit)
        return self._answer.result() if self._answer.done() else {"kind": Kind.DONE}

    async def on_abort(self, reason: str) -> Answer:
        """Stop the rank; `idle` says that its task had not even begun."""
        idle = not self.begun
        self.stop(reason)
        return {"kind": Kind.DONE, "idle": idle}

    async def on_end(self, patience: float) -> Answer:
        """Stop the rank, and wait for its thread; `late` says that it goes on."""
        self.stop("the group is closed")
        return {"kind": Kind.DONE, "late": not await self.wait_ended(patience)}

    def stop(self, reason: str) -> None:
        """See `RankMailbox.stop`."""
        super().stop(reason)
        if not self.begun:  # no thread will do it
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

    def run(
        self, stores: Mapping[int, ShardStore], contexts: Callable[[], Contexts]
    ) -> str:
        """Be the rank on the rows of its shards, until it is stopped.

        `contexts` makes the TLS contexts, where the ranks talk TLS. Returns what ended
        the service, for people who look at the task's result.
        """
        with self._lock:
            if self.begun or self._stopped is not None:
                return "stopped before it began"
            self.begun = True
        end: Answer = {"kind": Kind.ABORTED, "text": "the group is closed"}
        try:
            spec: DaskRankSpec = loads(self._spec)

            def make(comm: Communicator) -> RankWorker:
                rows = {k: stores[k].rows(spec.stats) for k in comm.own_shards}
                return spec.build(spec.plan, comm, rows)

            self.serve(
                spec, spec.addresses, make, contexts() if spec.encrypted else None
            )
        except BaseException as error:
            end = failure(error)
        finally:
            self._finish(end)
        return str(end["text"])

    def report(self, kind: Kind, message: Message) -> None:
        """Answer the driver's call."""
        answer: Answer = {"kind": Kind.DONE}
        if kind is Kind.ANSWER:
            # The scheduler hands it on unread.
            answer["frame"] = to_serialize(framing.pack(kind, message))
        self._on_loop(self._settle, answer)

    def _settle(self, answer: Answer) -> None:
        if not self._answer.done():
            self._answer.set_result(answer)

    def _finish(self, end: Answer) -> None:
        """Leave nothing behind, and answer every call that waits here."""
        with self._lock:
            self._end = end
        try:
            self.end()
        finally:
            self._on_loop(self._settle, end)
            self._on_loop(self._ended.set)

    def _on_loop(self, function: Callable[..., object], *arguments: Any) -> None:
        with suppress(RuntimeError):  # the worker's event loop is closed: nobody waits
            self._loop.call_soon_threadsafe(function, *arguments)


def message_of(frame: Any) -> Message:
    """The message in a frame that came through Dask."""
    if isinstance(frame, Serialize):  # within one process
        frame = frame.data
    return framing.unpack(bytes(frame))[1]


def failure(error: BaseException) -> Answer:
    """An exception as an answer."""
    kind, text = describe(error)
    if isinstance(error, Unreachable):
        text += f". {ADVICE}"
    return {
        "kind": kind,
        "text": text,
        "error": dumps(portable(error)) if kind is Kind.FAILED else b"",
        "traceback": "".join(traceback.format_exception(error)),
    }


class RankTraceback(Exception):
    """The traceback of an exception of a rank, as text: the cause of its copy."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def restore(answer: Answer) -> BaseException:
    """The exception in an answer of kind `Kind.FAILED`."""
    try:
        error: BaseException = loads(answer["error"])
    except Exception:  # its class is not known here: the text says what it was
        error = RuntimeError(answer["text"])
    error.__cause__ = RankTraceback(answer["traceback"])
    return error
