"""Fits that are called inside a task of a Dask worker."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from distributed import get_worker, rejoin, secede


@contextlib.contextmanager
def thread_given_back() -> Iterator[None]:
    """Let the worker of this task run others meanwhile: the fit's own come to it, too.

    Does nothing outside of tasks, nor where the task has left its worker's threads
    already, as inside ``with worker_client()``.
    """
    try:
        worker = get_worker()
        task = worker.state.tasks[worker.get_current_task()]
    except (ValueError, KeyError):  # KeyError: in a thread that a task has started
        task = None
    if task is None or task.state != "executing":
        yield
        return
    secede()
    try:
        yield
    finally:
        rejoin()
