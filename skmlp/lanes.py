"""The threads that help with the steps of one shard: lanes.

Where BLAS may use several threads, a rank that has one shard computes each step on as
many lanes: in compiled code, without the interpreter, each with a BLAS of one thread.
The plan says into how many parts the steps are cut, and so what the bits are; which
threads do them is decided from run to run, by the cores that this process has left.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from skmlp.cores import usable_cores
from skmlp.launch.blas import blas_limit

Array = np.ndarray[Any, np.dtype[Any]]

#: How often a helper looks for the next run, some microseconds at a time, before it
#: goes to sleep. What is done between two epochs of a small net takes less.
_PATIENCE = 100

#: Seconds until a helper has ended: a run takes milliseconds, or one step.
_LIMIT = 600.0


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


CORES = _Cores()
if hasattr(os, "register_at_fork"):
    # What the parent's other threads were at is not done in the child.
    os.register_at_fork(after_in_child=CORES.__init__)  # type: ignore[misc]


#: A function, its arguments but the last, and what is not to be freed meanwhile.
_Job = tuple[Callable[..., None], tuple[Any, ...], Any]


class _Helper:
    """One thread, which does the runs that it is told of, or comes too late for them.

    Parameters
    ----------
    number : int
        Of its lane.
    """

    def __init__(self, number: int) -> None:
        from skmlp.kernels import compiled_lanes

        self._kernels = compiled_lanes
        self._number = number
        self._counter = compiled_lanes.counters(1)
        self._address = int(self._counter.ctypes.data)
        self._n_runs = 0
        self._wake = threading.Semaphore(0)
        #: Held while it is at a run.
        self._busy = threading.Lock()
        self._job: _Job | None = None
        self._thread = threading.Thread(
            target=self._serve, name=f"skmlp-lane-{number}", daemon=True
        )
        self._thread.start()

    def tell(self, job: _Job | None) -> None:
        """Tell of a run, or with None of the end."""
        self._job = job
        self._n_runs += 1
        if self._kernels.announce(self._address, self._n_runs):
            self.wake()

    def wake(self) -> None:
        """End its sleep, also one that it would only begin."""
        self._wake.release()

    def leave(self) -> None:
        """Return when it is at no run; it begins none before it is told again.

        What it has been told of must be done.
        """
        self._job = _NOTHING
        if not self._busy.acquire(timeout=_LIMIT):
            raise RuntimeError(
                f"lane {self._number} has not ended its run within {_LIMIT:g} s"
            )
        self._busy.release()

    def join(self) -> None:
        """Wait for its end, of which it has been told."""
        self._thread.join(_LIMIT)
        if self._thread.is_alive():
            raise RuntimeError(f"lane {self._number} has not ended in {_LIMIT:g} s")

    def _serve(self) -> None:
        attend, address = self._kernels.attend, self._address
        # Where the limit is each thread's own, the driver's does not reach this one.
        with blas_limit(1):
            n_runs = 0
            while True:
                n_runs += 1
                if attend(address, n_runs, _PATIENCE):
                    self._wake.acquire()
                with self._busy:
                    job = self._job
                    if job is None:
                        return
                    function, arguments, _ = job
                    function(*arguments, self._number)


def _do_nothing(number: int) -> None:
    """A run without steps."""


_NOTHING: _Job = _do_nothing, (), None


class Lanes:
    """Runs functions on several threads, of which the caller's is the first.

    Parameters
    ----------
    n_lanes : int
        How many parts a run has. Threads start with the first run.
    keep : object
        Not to be freed while a thread is in a run.
    """

    def __init__(self, n_lanes: int, keep: Any = None) -> None:
        self._n_lanes, self._keep = n_lanes, keep
        self._helpers: list[_Helper] = []

    def run(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call ``function(*arguments, lane)`` in each of the threads that are free.

        It returns when all parts are done, by whichever threads. A helper may enter the
        function later still, finds nothing to do, and leaves.

        After an exception nobody may run anything any more.
        """
        if self._n_lanes == 1:
            function(*arguments, 0)
            return
        try:
            n_helpers = CORES.take(self, self._n_lanes - 1)
            while len(self._helpers) < n_helpers:
                self._helpers.append(_Helper(len(self._helpers) + 1))
            for helper in self._helpers[:n_helpers]:
                helper.tell((function, arguments, self._keep))
            function(*arguments, 0)
        except BaseException:
            # Ctrl-C falls anywhere: whoever is at the parameters now shall leave them.
            for helper in self._helpers:
                helper.leave()
            raise
        finally:
            CORES.give_back(self)

    def close(self) -> None:
        """End the threads. More than once does no harm."""
        CORES.give_back(self)
        helpers, self._helpers = self._helpers, []
        for helper in helpers:
            helper.tell(None)
            helper.wake()
        for helper in helpers:
            helper.join()
