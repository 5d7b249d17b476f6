"""One call of `joblib.Parallel` in a helper thread, so that the caller stays free.

The caller of a group hands messages over and waits for answers while the call runs; so
Ctrl-C arrives in our own code and not in joblib's, which would kill or abandon its
workers on the spot.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import joblib
from joblib.parallel import (
    LokyBackend,
    MultiprocessingBackend,
    ParallelBackendBase,
)

#: A task of joblib: a module-level function and its arguments.
Task = tuple[Callable[..., None], tuple[Any, ...]]

#: joblib's own kinds of backends that hold what a running call uses.
_STATEFUL = (LokyBackend, MultiprocessingBackend)


def make_parallel(
    n_jobs: int, backend: str | ParallelBackendBase | None
) -> joblib.Parallel:
    """Make a `joblib.Parallel` that starts one task per worker, all at once.

    To be called in the user's thread: the settings of `joblib.parallel_config` belong
    to the thread. By default, `backend` is the active one.
    """
    if backend is None:
        backend = joblib.parallel.get_active_backend()[0]
    if isinstance(backend, ParallelBackendBase) and type(backend) in _STATEFUL:
        # The caller's thread may use its active backend while the ranks run; a fresh
        # one of the same kind keeps the two apart.
        backend = type(backend)(
            nesting_level=backend.nesting_level,
            inner_max_num_threads=backend.inner_max_num_threads,
            **getattr(backend, "backend_kwargs", {}),  # since joblib 1.5
        )
    # One task for each worker: neither batches nor a queue, or ranks would wait for
    # ranks that have not begun.
    return joblib.Parallel(
        n_jobs=n_jobs,
        backend=backend,
        batch_size=1,
        pre_dispatch="all",
    )


class _Helper(threading.Thread):
    """The thread that makes the call.

    A process that is forked from it has it as its main thread; hence `pid`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pid = os.getpid()


def check_worker(n_ranks: int) -> None:
    """Make sure that the calling rank has a worker of its own.

    RuntimeError if joblib runs several tasks one after another, in the helper thread.
    """
    thread = threading.current_thread()
    if n_ranks > 1 and isinstance(thread, _Helper) and thread.pid == os.getpid():
        raise RuntimeError(
            f"joblib would run the {n_ranks} ranks one after another, as it does in "
            "nested calls, but they need workers of their own: use n_jobs=1 here, or "
            "there"
        )


class BackgroundParallel:
    """A call of `parallel` on `tasks` in a thread of its own, which `start` starts.

    Parameters
    ----------
    parallel : joblib.Parallel
        From `make_parallel`.
    tasks : list of tuple
        Emptied as the tasks start, so that nothing here keeps their arguments alive.
    name : str
        The thread's name.
    at_end : callable
        Called in the helper thread when the call is over. It must not fail.

    Attributes
    ----------
    error : BaseException or None
        What the call raised; meaningful after its end.
    """

    def __init__(
        self,
        parallel: joblib.Parallel,
        tasks: list[Task],
        name: str,
        at_end: Callable[[], None],
    ) -> None:
        self.error: BaseException | None = None
        self._parallel = parallel
        #: Whether the call is over.
        self.over = threading.Event()
        self._thread = _Helper(
            target=self._run, args=(tasks, at_end), name=name, daemon=True
        )

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def _run(self, tasks: list[Task], at_end: Callable[[], None]) -> None:
        """Make the call, in the helper thread."""
        try:
            self._parallel(self._starting(tasks))
        except BaseException as error:
            self.error = error
        finally:
            self.over.set()
            at_end()

    @staticmethod
    def _starting(tasks: list[Task]) -> Any:
        """Yield the tasks in joblib's form; each is taken off the list as it starts."""
        while tasks:
            function, arguments = tasks.pop(0)
            yield function, arguments, {}

    def wait(self, limit: float) -> bool:
        """Wait until the call is over and its thread gone, at most `limit` seconds."""
        if not self.over.wait(limit):
            return False
        self._thread.join(limit)
        return not self._thread.is_alive()

    def give_up(self) -> None:
        """Make joblib end the call, and kill its worker processes, within moments."""
        # joblib reads its time limit for a task anew in each turn of its loop.
        self._parallel.timeout = 1e-3
