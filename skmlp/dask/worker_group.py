"""The workers of a fit, called all together: one answer of each, or the first cause."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from skmlp.dask.errors import WorkerLost, WorkerSilent
from skmlp.dask.rpc import ClusterRPC, together
from skmlp.dask.worker.mailbox import Answer, restore
from skmlp.launch.framing import Kind
from skmlp.launch.serving import first_cause
from skmlp.training.protocol import RankFailed

T = TypeVar("T")
Calls = Sequence[asyncio.Task[Answer]]

#: Seconds for a call that a worker answers at once.
CALL_LIMIT_S = 10.0
#: Seconds between two looks at the list of workers when some answer is late.
LOOK_S = 0.05


@dataclass(frozen=True)
class Limits:
    """How long a group of ranks waits, in seconds.

    Attributes
    ----------
    lock : float or None
        For other fits to leave the workers; None for as long as it takes.
    start : float
        For all ranks to have a thread, meet, and be ready.
    step : float
        For a byte from another rank within a step.
    silence : float
        For a sign of life of a worker's event loop.
    settle : float
        After a failure, for the other ranks to say what they know of it.
    end : float
        For the ranks to end when told to.
    """

    lock: float | None = None
    start: float = 600.0
    step: float = 300.0
    silence: float = 30.0
    settle: float = 5.0
    end: float = 15.0


class WorkerGroup:
    """The workers of a fit, by rank. All methods run on the client's event loop.

    Parameters
    ----------
    rpc : ClusterRPC
        To the cluster.
    run : str
        Name of the fit.
    workers : sequence of str
        Dask address of each rank's worker, as the scheduler knows it.
    before : WorkerGroup, optional
        The group that this one takes the place of.

    Attributes
    ----------
    ids : dict from str to str
        The server id of each worker that the fit has begun on: a process that is
        started in another's place may have its address.
    lost : dict from str to str
        Workers that are gone, or silent, with their ids: nothing more is asked of them.
    silent : set of str
        Those that don't answer, though the scheduler may know them.
    """

    def __init__(
        self,
        rpc: ClusterRPC,
        run: str,
        workers: Sequence[str],
        before: WorkerGroup | None = None,
    ) -> None:
        self.rpc = rpc
        self.run = run
        self.workers = tuple(workers)
        #: For names of tasks that are this group's alone, and no earlier one's.
        self.stamp = f"{run}-{uuid.uuid4().hex[:8]}"
        self.ids: dict[str, str] = {} if before is None else before.ids
        self.lost: dict[str, str] = {} if before is None else before.lost
        self.silent: set[str] = set() if before is None else before.silent

    def _lose(self, *workers: str) -> None:
        self.lost.update((worker, self.ids.get(worker, "")) for worker in workers)

    async def guard(self, work: Coroutine[Any, Any, T]) -> T:
        """Do `work` unless a worker is lost; see `ClusterRPC.guard`."""
        return await self.rpc.guard(work, self.run, self.workers)

    async def call(
        self, rank: int, verb: str, limit: float | None = None, /, **facts: Any
    ) -> Answer:
        """Call a rank's worker; see `ClusterRPC.call`.

        WorkerLost if it is gone, or knows nothing of the fit.
        """
        worker = self.workers[rank]
        try:
            answer = await self.rpc.call(worker, verb, limit, run=self.run, **facts)
        except WorkerSilent:
            self.silent.add(worker)
            self._lose(worker)
            raise
        if answer["kind"] == Kind.GONE:
            raise WorkerLost(worker, "has dropped the fit")
        return answer

    async def each(self, calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
        """Make calls at once; wait for all, or raise what one of them could not do."""
        async with together(*calls) as tasks:
            answers: list[T] = await asyncio.gather(*tasks)
        for answer in answers:
            if isinstance(answer, dict) and answer["kind"] != Kind.DONE:
                raise restore(answer)
        return answers

    async def call_living(
        self, verb: str, limit: float = CALL_LIMIT_S, /, **facts: Any
    ) -> dict[int, Answer]:
        """Call the workers that are not lost; their answers in time, by rank."""
        ranks = [r for r, worker in enumerate(self.workers) if worker not in self.lost]
        calls = [self.call(rank, verb, limit, **facts) for rank in ranks]
        async with together(*calls) as tasks:
            answers = dict(zip(ranks, tasks, strict=True))
            await self._wait(answers, limit)
            return {
                rank: task.result()
                for rank, task in answers.items()
                if task.done() and not task.cancelled() and task.exception() is None
            }

    async def _wait(
        self, answers: Mapping[int, asyncio.Task[Answer]], limit: float
    ) -> None:
        """Wait for answers, by rank, but for those of workers that are lost."""
        end = _now() + limit
        while True:
            waiting = [
                answer
                for rank, answer in answers.items()
                if self.workers[rank] not in self.lost and not answer.done()
            ]
            if not waiting or _now() >= end:
                return
            await asyncio.wait(waiting, timeout=LOOK_S)
            if not all(answer.done() for answer in waiting):
                await self._look()

    async def _look(self) -> None:
        """Find out which workers are lost."""
        with contextlib.suppress(RankFailed):
            alive = await self.rpc.alive(self.workers)
            self._lose(*set(self.workers) - alive)

    async def call_ranks(
        self,
        generation: int,
        limits: Limits,
        calls: Iterable[Coroutine[Any, Any, Answer]],
        limit: float | None = None,
    ) -> list[Answer]:
        """Wait for the answers of all ranks of a generation within `limit` seconds.

        After a failure the ranks are stopped, and its first cause is raised.
        """
        watch = self.rpc.watch(self.run, self.workers, limits.silence)
        async with together(watch, *calls) as (watching, *answers):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limit):
                    while not (all(a.done() for a in answers) or _failed(answers)):
                        waiting = [answer for answer in answers if not answer.done()]
                        await asyncio.wait(
                            [watching, *waiting], return_when=asyncio.FIRST_COMPLETED
                        )
                        if watching.done():
                            break
            if all(a.done() for a in answers) and not _failed(answers):
                return [answer.result() for answer in answers]
            too_late = not watching.done() and not _failed(answers)
            news = watching.exception() if watching.done() else None
            if isinstance(news, WorkerLost):
                self._lose(news.address)
                if isinstance(news, WorkerSilent):
                    self.silent.add(news.address)
            reason = "another rank failed"
            told = await self.call_living("abort", generation=generation, reason=reason)
            if too_late:
                late = [
                    rank for rank, answer in enumerate(answers) if not answer.done()
                ]
                # The others wait for those that have not even begun.
                late = [rank for rank in told if told[rank]["idle"]] or late
                names = ", ".join(self.workers[rank] for rank in late)
                raise RankFailed(
                    f"the ranks were not ready within {limit:g} s because of {names}: "
                    "busy with other tasks?"
                )
            # A rank that lost another one says so before the news of the other one is
            # here: all get a moment to say what they know.
            await self._wait(dict(enumerate(answers)), limits.settle)
            await self._look()
            raise self._first_cause([watching, *answers])

    def _first_cause(self, calls: Sequence[asyncio.Task[Any]]) -> BaseException:
        """What came before the rest, of what calls came to and of lost workers."""
        raised: list[BaseException] = []
        lost: list[RankFailed] = []
        texts: list[str] = []
        for call in calls:
            if not call.done() or call.cancelled():
                continue
            error = call.exception()
            if isinstance(error, RankFailed):
                lost.append(error)
            elif error is not None:
                raised.append(error)
            elif call.result()["kind"] == Kind.FAILED:
                raised.append(restore(call.result()))
            elif call.result()["kind"] != Kind.DONE:
                texts.append(call.result()["text"])
        lost += [WorkerLost(w, "is gone") for w in self.workers if w in self.lost]
        return first_cause(raised, lost, texts)


def _failed(answers: Calls) -> bool:
    """Whether some call has failed."""
    return any(
        answer.done()
        and (
            answer.cancelled()
            or answer.exception() is not None
            or answer.result()["kind"] != Kind.DONE
        )
        for answer in answers
    )


def _now() -> float:
    return asyncio.get_running_loop().time()
