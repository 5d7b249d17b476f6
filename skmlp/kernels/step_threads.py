"""The threads of a rank that share each step.

Where there are several cores, each step is cut into as many parts, which run in
compiled code, without the interpreter, each with a BLAS of one thread. The plan says
into how many parts, and so what the bits are; which threads do them is decided from run
to run, by the threads that there may be and the cores that this process has left.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from skmlp.cores import usable_cores
from skmlp.threads import blas_threads_allowed, products_limit

#: How often a helper looks for the next run, some microseconds at a time, before it
#: goes to sleep. What is done between two epochs of a small net takes less.
_PATIENCE = 100

#: Seconds until a helper has ended: a run takes milliseconds, or one step.
_LIMIT = 3600.0
#: And one of which nobody knows whether it began, since a Ctrl-C fell there.
_SHORT_LIMIT = 1.0


class _Cores:
    """The cores that runs of this process are using, over all fits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: Of each owner; what a Ctrl-C has left here goes when its fit ends.
        self._taken: dict[int, int] = {}

    def take(self, owner: object, wanted: int) -> int:
        """Take one core, and up to so many that are free; return how many of these."""
        with self._lock:
            self._taken.pop(id(owner), None)
            free = usable_cores() - sum(self._taken.values()) - 1
            more = max(0, min(wanted, free))
            self._taken[id(owner)] = 1 + more
        return more

    def give_back(self, owner: object) -> None:
        """End what `take` began."""
        with self._lock:
            self._taken.pop(id(owner), None)

    def taken(self) -> int:
        """Return how many cores are in use."""
        with self._lock:
            return sum(self._taken.values())

    def forget(self) -> None:
        """Begin anew in a forked child, where the parent's runs are not."""
        self._lock = threading.Lock()
        self._taken = {}


CORES = _Cores()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=CORES.forget)


#: A function, its arguments but the last, and what is not to be freed meanwhile.
_Job = tuple[Callable[..., None], tuple[Any, ...], Any]


class _Helper:
    """A thread that does the runs that it is told of, or comes too late for them."""

    def __init__(self, number: int) -> None:
        from skmlp.kernels import sync

        self._publish = sync.publish
        self._attend = sync.attend
        self._number = number
        self._counter = sync.counters(1)
        self._address = self._counter.ctypes.data
        self._n_runs = 0
        self._job: _Job | None = None
        #: Ends its sleep; in C, so that no Ctrl-C leaves it locked.
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._started, self._ended = False, threading.Event()
        self._thread = threading.Thread(
            target=self._serve, name=f"skmlp-step-{number}", daemon=True
        )

    def start(self) -> None:
        """Begin; RuntimeError if the system gives no thread."""
        self._thread.start()
        self._started = True

    def tell(self, job: _Job | None) -> None:
        """Tell of a run, or with None of the end."""
        self._job = job
        self._n_runs += 1
        if self._publish(self._address, self._n_runs) or job is None:
            self._bell.put(None)

    def wait(self) -> None:
        """Wait for its end, of which it has been told."""
        limit = _LIMIT if self._started else _SHORT_LIMIT
        if not self._ended.wait(limit) and self._started:
            name = self._thread.name
            raise RuntimeError(f"thread {name} has not ended in {limit:g} s")

    def _serve(self) -> None:
        try:
            # Where each thread has a limit of its own, the driver's is not this one's.
            with products_limit():
                self._do_runs()
        finally:
            self._ended.set()

    def _do_runs(self) -> None:
        address, n_runs = self._address, 0
        while True:
            n_runs += 1
            if self._attend(address, n_runs, _PATIENCE):
                self._bell.get()
            job = self._job
            if job is None:
                return
            function, arguments, _ = job
            function(*arguments, self._number)


class StepThreads:
    """Runs functions on several threads, of which the caller's is the first.

    A run has `n_parts`. `keep` is not to be freed while a thread is in a run. `at_once`
    says whether the first run is worth the start of threads. There are at most
    `n_threads`, by default as many as BLAS may use.
    """

    def __init__(
        self,
        n_parts: int,
        keep: Any = None,
        at_once: bool = True,
        n_threads: int | None = None,
    ) -> None:
        self._n_parts, self._keep, self._at_once = n_parts, keep, at_once
        self._helpers: list[_Helper] = []
        #: So many there may be: who limits BLAS limits them, too.
        self._most = 0
        if n_parts > 1:
            self._most = min(n_parts, n_threads or blas_threads_allowed() or 1) - 1

    def run(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call ``function(*arguments, thread)`` in each of the threads that are free.

        It returns when all parts are done, by whichever threads. A helper may enter the
        function later still, finds nothing to do, and leaves.

        After an exception no helper is at work any more, and nothing may be run.
        """
        if self._n_parts == 1:
            function(*arguments, 0)
            return
        try:
            wanted = self._most if self._at_once else 0
            self._at_once = True
            n_helpers = CORES.take(self, wanted) if wanted else 0
            if len(self._helpers) < n_helpers:
                n_helpers = self._start(n_helpers)
            for helper in self._helpers[:n_helpers]:
                helper.tell((function, arguments, self._keep))
            function(*arguments, 0)
        except BaseException:
            # Ctrl-C falls anywhere: whoever is at the parameters now shall leave them.
            self.close()
            raise
        finally:
            CORES.give_back(self)

    def share(self, work: Callable[[int], None]) -> None:
        """Call ``work(part)`` once for each part, in the threads that are free.

        Raises
        ------
        Exception
            The first that `work` raised.
        """
        todo: SimpleQueue[int] = SimpleQueue()
        done: SimpleQueue[BaseException | None] = SimpleQueue()
        for part in range(self._n_parts):
            todo.put(part)

        def take(thread: int) -> None:
            while True:
                try:
                    part = todo.get_nowait()
                except Empty:
                    return
                try:
                    work(part)
                except BaseException as error:
                    if not thread:
                        raise
                    done.put(error)
                else:
                    done.put(None)

        self.run(take)
        for _ in range(self._n_parts):
            error = done.get(timeout=_LIMIT)
            if error is not None:
                raise error

    def _start(self, n_helpers: int) -> int:
        """Have so many helpers, or as many as the system gives."""
        while len(self._helpers) < n_helpers:
            helper = _Helper(len(self._helpers) + 1)
            self._helpers.append(helper)
            try:
                helper.start()
            except RuntimeError:
                self._helpers.pop()
                self._most = n_helpers = len(self._helpers)
        return n_helpers

    def close(self) -> None:
        """End the threads. To be called again if it was interrupted."""
        CORES.give_back(self)
        for helper in self._helpers:
            helper.tell(None)
        for helper in self._helpers:
            helper.wait()
        self._helpers = []
