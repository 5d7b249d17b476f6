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
from skmlp.dask.worker.rank import Kind, Packed, restore
from skmlp.training.protocol import RankFailed

T = TypeVar("T")

#: Seconds for a call that a worker answers at once.
CALL = 10.0
#: Seconds between two looks at the list of workers when some answer is late.
GLANCE = 0.05


@dataclass(frozen=True)
class Limits:
    """How long a group waits, in seconds.

    Attributes
    ----------
    lock : float or None
        For other fits to leave the workers; None for as long as it takes.
    start : float
        For all ranks to have a thread, meet, and build their servants.
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
    ) -> Packed:
        """Call a rank's worker; see `ClusterRPC.call`.

        Raises
        ------
        WorkerLost
            It is gone, or knows nothing of the fit.
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
        """Do all at once, and wait for all of them.

        Raises
        ------
        Exception
            What one of them raised; or what a worker answered that could not do it.
        """
        async with together(*calls) as tasks:
            answers: list[T] = await asyncio.gather(*tasks)
        for answer in answers:
            if isinstance(answer, dict) and answer["kind"] != Kind.DONE:
                raise restore(answer)
        return answers

    async def call_living(
        self, verb: str, limit: float = CALL, /, **facts: Any
    ) -> list[Packed]:
        """Call all workers that are not lost; return the answers of those that answer.

        Parameters
        ----------
        verb : str
            See `ClusterRPC.call`.
        limit : float
            Seconds.
        **facts
            See `ClusterRPC.call`.
        """
        ranks = [r for r, worker in enumerate(self.workers) if worker not in self.lost]
        calls = [self.call(rank, verb, limit, **facts) for rank in ranks]
        async with together(*calls) as tasks:
            await self._wait(dict(zip(ranks, tasks, strict=True)), limit)
            return [
                task.result()
                for task in tasks
                if task.done() and not task.cancelled() and task.exception() is None
            ]

    async def _wait(
        self, answers: Mapping[int, asyncio.Task[Packed]], limit: float
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
            await asyncio.wait(waiting, timeout=GLANCE)
            if not all(answer.done() for answer in waiting):
                await self._look()

    async def _look(self) -> None:
        """Find out which workers are lost."""
        with contextlib.suppress(RankFailed):
            alive = await self.rpc.alive(self.workers)
            self._lose(*set(self.workers) - alive)

    async def call_all(
        self,
        generation: int,
        limits: Limits,
        calls: Iterable[Coroutine[Any, Any, Packed]],
        limit: float | None = None,
    ) -> list[Packed]:
        """Wait for all ranks' answers, or for the first failure.

        Parameters
        ----------
        generation : int
            Of the group; it is stopped after a failure.
        limits : Limits
            Of the group.
        calls : iterable of coroutine
            One for each rank.
        limit : float, optional
            Seconds.

        Raises
        ------
        Exception
            The first cause of a failure; see `first_cause`.
        """
        silence = limits.silence
        watch = self.rpc.watch(self.run, self.workers, silence)
        async with together(watch, *calls) as (watching, *answers):
            end = None if limit is None else _now() + limit
            while True:
                left = None if end is None else max(0.0, end - _now())
                waiting = [answer for answer in answers if not answer.done()]
                if not waiting or watching.done() or left == 0 or _failed(answers):
                    break
                await asyncio.wait(
                    [watching, *waiting],
                    timeout=left,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            if not waiting and not _failed(answers):
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
                raise self._late(answers, told, limit)
            # A rank that lost another one says so before the news of the other one is
            # here: all get a moment to say what they know.
            await self._wait(dict(enumerate(answers)), limits.settle)
            await self._look()
            raise first_cause(watching, answers, self._gone())

    def _gone(self) -> list[WorkerLost]:
        """The lost workers, by rank."""
        lost = [worker for worker in self.workers if worker in self.lost]
        return [WorkerLost(worker, "is gone") for worker in lost]

    def _late(
        self,
        answers: Sequence[asyncio.Task[Packed]],
        told: Sequence[Packed],
        limit: float | None,
    ) -> RankFailed:
        """Name the ranks that were waited for in vain."""
        pairs = zip(self.workers, answers, strict=True)
        late = [worker for worker, answer in pairs if not answer.done()]
        # The others wait for those that have not even begun.
        late = [answer["idle"] for answer in told if answer["idle"]] or late
        return RankFailed(
            f"the ranks were not ready within {limit:g} s because of "
            f"{', '.join(late)}: busy with other tasks?"
        )


def first_cause(
    watching: asyncio.Task[None],
    answers: Sequence[asyncio.Task[Packed]],
    gone: Sequence[WorkerLost],
) -> BaseException:
    """Of all that is known of a failure, what came before the rest.

    What a servant raised comes first, then a lost worker; that a rank lost another one
    or was told to stop follows from something else.
    """
    raised: list[BaseException] = []
    lost: list[BaseException] = []
    texts: list[str] = []
    tasks: list[asyncio.Task[Any]] = [watching, *answers]
    for task in tasks:
        if not task.done() or task.cancelled():
            continue
        error = task.exception()
        if isinstance(error, RankFailed):
            lost.append(error)
        elif error is not None:
            raised.append(error)
        elif task.result()["kind"] == Kind.RAISED:
            raised.append(restore(task.result()))
        elif task.result()["kind"] != Kind.DONE:
            texts.append(task.result()["text"])
    for error in [*raised, *lost, *gone]:
        return error
    return RankFailed(f"a rank stopped: {'; '.join(texts) or 'nobody knows why'}")


def _failed(answers: Sequence[asyncio.Task[Packed]]) -> bool:
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
