"""The driver's side of a Dask cluster: calls with a bound, and a watch over workers.

Calls go through the scheduler (its ``broadcast``), so a client that can't reach the
workers itself will do. None waits for a worker that is gone: each is raced against the
scheduler's list of workers.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from dask._task_spec import TaskRef
from dask.utils import format_bytes
from distributed import Client, Future

from skmlp.dask.errors import DataLost, WorkerLost, WorkerSilent, gone
from skmlp.dask.graph import for_scheduler, submit_to_each
from skmlp.dask.worker.mailbox import Answer
from skmlp.dask.worker.service import NAME
from skmlp.launch.framing import Kind
from skmlp.training.protocol import RankFailed

T = TypeVar("T")

#: Seconds between two looks at the scheduler's list of workers.
LOOK_S = 0.25
#: Seconds until a task that has not ended is cancelled once more.
CANCEL_AGAIN_S = 1.0
#: Seconds between two calls to a worker that show that it is alive.
PING_S = 5.0
#: Seconds in which the end of a worker by its nanny explains that it is lost.
RECENT_S = 60.0
#: Seconds that an interrupted call gets to tidy up.
TIDY_LIMIT_S = 10.0


def current_client() -> Client:
    """The client of the cluster that Dask collections are trained on.

    ValueError if there is none, or in the thread of its event loop.
    """
    try:
        client = Client.current()
    except ValueError:
        raise ValueError(
            "Training on Dask collections needs a dask.distributed Client, and there "
            "is none: create one first, client = distributed.Client(...), or convert "
            "the collections to NumPy arrays with .compute()"
        ) from None
    refuse_event_loop(client)
    return client


def refuse_event_loop(client: Client) -> None:
    """ValueError in the thread of the client's event loop, which a fit would block."""
    if client.asynchronous:
        raise ValueError(
            "fit would block the event loop of this asynchronous Dask client: run it "
            "in a thread, as in `await asyncio.to_thread(model.fit, X, y)`"
        )


class ClusterRPC:
    """The driver's calls to the workers of one cluster, by a connected client."""

    def __init__(self, client: Client) -> None:
        refuse_event_loop(client)
        self.client = client

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` on the client's event loop and wait for it, open to Ctrl-C.

        An interrupt cancels `work`, and waits at most `TIDY_LIMIT_S` for its end.
        RankFailed if the client was closed, and its event loop with it.
        """
        tasks: list[asyncio.Task[Any]] = []

        loop = self.client.loop.asyncio_loop
        if not loop.is_running():
            work.close()
            raise RankFailed("the Dask client was closed during a fit")

        async def main() -> T:
            tasks.append(asyncio.current_task())  # type: ignore[arg-type]  # never None in a coroutine
            try:
                return await work
            except WorkerLost as error:
                raise await self._explained(error) from error.__cause__

        def cancel() -> None:
            if tasks:
                tasks[0].cancel()
            else:  # it begins in this very turn of the loop
                loop.call_soon(cancel)

        future = asyncio.run_coroutine_threadsafe(main(), loop)
        try:
            # In turns: where Ctrl-C can't wake a waiting thread, it is heard between.
            while not concurrent.futures.wait([future], timeout=1.0).done:
                if not loop.is_running():
                    raise RankFailed("the Dask client was closed during a fit")
            return future.result()
        except concurrent.futures.CancelledError:
            raise RankFailed("the Dask client was closed during a fit") from None
        except BaseException:
            if not future.done() and loop.is_running():
                loop.call_soon_threadsafe(cancel)
                concurrent.futures.wait([future], timeout=TIDY_LIMIT_S)
            raise

    @property
    def open(self) -> bool:
        """Whether the client can still be used."""
        return bool(self.client.status == "running")

    # -- on the client's event loop ----------------------------------------------------

    async def _explained(self, lost: WorkerLost) -> WorkerLost:
        """A worker's loss, with the reason if its nanny ended it for its memory."""
        with contextlib.suppress(RankFailed):
            events = await self.scheduler("events", topic="worker-restart-memory")
            for moment, event in events:
                recent = moment > time.time() - RECENT_S
                if event["worker"] == lost.address and recent:
                    size = format_bytes(event["rss"])
                    reason = (
                        f"was ended by its nanny when it took {size} of memory, near "
                        "its memory_limit"
                    )
                    return type(lost)(lost.address, reason)
        return lost

    async def scheduler(
        self, call: str, limit: float | None = 30.0, /, **facts: Any
    ) -> Any:
        """A call to the scheduler, for at most `limit` s; RankFailed if it is gone."""
        if not self.open:
            raise RankFailed("the Dask client is closed")
        function = getattr(self.client.scheduler, call)
        try:
            # Not wait_for: on Python 3.11 it loses a cancellation that comes just as
            # the call ends, and whoever cancelled waits for ever.
            async with asyncio.timeout(limit):
                return await function(**facts)
        except (OSError, TimeoutError) as error:
            raise RankFailed(
                f"the Dask scheduler did not answer ({call}): {error!r}"
            ) from error

    async def call(
        self, address: str, verb: str, limit: float | None = None, /, **facts: Any
    ) -> Answer:
        """Call the `WorkerService` of a worker, with facts of msgpack's types.

        WorkerLost if the worker is gone, or does not answer within `limit` seconds;
        without a limit, the call is to be raced against `watch`.
        """
        answer = await self._broadcast(address, limit, op=NAME, verb=verb, **facts)
        if not isinstance(answer, dict):  # its handler is gone with the last fit
            raise WorkerLost(address, "has dropped the fit")
        return answer

    async def _broadcast(
        self, address: str, limit: float | None, /, **message: Any
    ) -> Answer:
        """Have the scheduler pass a message on to a worker; see `call`."""
        work = self.scheduler(
            "broadcast",
            None,
            msg=message,
            workers=[address],
            on_error="return_pickle",
        )
        try:
            async with asyncio.timeout(limit):
                answers = await work
        except TimeoutError:
            raise WorkerSilent(address, f"gave no answer within {limit:g} s") from None
        if isinstance(answers[address], bytes):
            raise gone(address, answers[address])
        answer: Answer = answers[address]
        return answer

    async def on_scheduler(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function on the scheduler, with its object as the last argument.

        The function travels by value: see `by_value`. RuntimeError if it failed there:
        the scheduler may not let clients run code.
        """
        answer = await self.scheduler(
            "run_function", **for_scheduler(function, *arguments)
        )
        if answer["status"] == "error":
            raise RuntimeError(answer["exception_text"])
        return answer["result"]

    async def server_ids(self, addresses: Iterable[str], limit: float) -> list[str]:
        """The ids of workers: other than addresses, they are new with each process.

        WorkerLost if one is gone, or does not answer within `limit` seconds.
        """
        asks = [self._broadcast(one, limit, op="identity") for one in addresses]
        async with together(*asks) as tasks:
            return [answer["id"] for answer in await asyncio.gather(*tasks)]

    def submit(
        self, worker: str, key: str, function: Callable[..., T], *arguments: Any
    ) -> Future[T]:
        """Submit a task for one worker and for no other. From any thread."""
        given = [TaskRef(a.key) if isinstance(a, Future) else a for a in arguments]
        (future,) = submit_to_each(self.client, {worker: (key, function, tuple(given))})
        return future

    async def alive(self, addresses: Iterable[str]) -> set[str]:
        """Those of `addresses` that the scheduler knows as workers."""
        return set(await self.scheduler("ncores", workers=list(addresses)))

    async def watch(
        self, run: str, addresses: Iterable[str], silence: float | None = None
    ) -> None:
        """Look after the workers of a fit, for ever; WorkerLost if one is gone.

        A worker's event loop may be silent for `silence` seconds; by default, a worker
        counts as alive while the scheduler knows it.
        """
        members = list(addresses)

        async def ping(address: str) -> None:
            while True:
                await asyncio.sleep(PING_S)
                answer = await self.call(address, "ping", silence, run=run)
                if answer["kind"] == Kind.GONE:
                    raise WorkerLost(address, "has been started again")

        async def look() -> None:
            while True:
                alive = await self.alive(members)
                for address in members:
                    if address not in alive:
                        raise WorkerLost(address, "is gone")
                await asyncio.sleep(LOOK_S)

        pings = [] if silence is None else [ping(address) for address in members]
        async with together(look(), *pings) as tasks:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            done.pop().result()

    async def guard(
        self, work: Coroutine[Any, Any, T], run: str, addresses: Iterable[str]
    ) -> T:
        """Do `work`, unless a worker is lost meanwhile; for the rest see `watch`."""
        async with together(work, self.watch(run, addresses)) as tasks:
            first, watch = tasks
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not first.done():
                watch.result()
            try:
                result: T = await first
                return result
            except RankFailed:
                # The loss of data may be known before that of its worker.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(2 * LOOK_S):
                        await watch
                raise


@contextlib.asynccontextmanager
async def together(
    *work: Coroutine[Any, Any, Any],
) -> AsyncIterator[list[asyncio.Task[Any]]]:
    """Run coroutines as tasks; at the end, cancel those that are not done, and wait."""
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(one) for one in work]
    try:
        yield tasks
    finally:
        pending = set(tasks)
        while pending:
            # Again and again: code below us may swallow a cancellation.
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)
        await asyncio.gather(*tasks, return_exceptions=True)


async def ended(futures: Sequence[Future[Any]]) -> None:
    """Wait until all futures have ended, or one badly.

    Unlike Dask's own ways of waiting, this one can be cancelled without a trace.
    """
    loop = asyncio.get_running_loop()
    enough = asyncio.Event()
    left = len(futures)

    def count(future: Future[Any]) -> None:
        nonlocal left
        left -= 1
        if left == 0 or future.status != "finished":
            enough.set()

    def call(future: Future[Any]) -> None:  # in a thread of Dask's
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(count, future)

    for future in futures:
        future.add_done_callback(call)
    if futures:
        await enough.wait()


async def all_ended(futures: Sequence[Future[Any]]) -> None:
    """Wait until all futures have ended, well or badly."""
    async with together(*(ended([future]) for future in futures)) as tasks:
        await asyncio.gather(*tasks)


async def results(client: Client, futures: Sequence[Future[Any]]) -> list[Any]:
    """Wait for the results of futures, on the client's event loop.

    DataLost if the scheduler cancelled one: what it needs is lost.
    """
    await ended(futures)
    try:
        gathered: list[Any] = await client.gather(list(futures), asynchronous=True)
    except (asyncio.CancelledError, concurrent.futures.CancelledError) as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise DataLost(
            f"Dask cancelled a task of the fit, or lost data that it needs: {error}"
        ) from error
    return gathered
