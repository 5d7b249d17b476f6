"""Small Dask clusters for tests, and looks at what is left on them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dask
import psutil
from distributed import Client, LocalCluster

from tests.limits import HANG_S

ROOT = Path(__file__).parents[2]


#: Dask's own settings in tests. 15 s after a worker was lost, a LocalCluster closes its
#: nanny for good if the worker that the nanny has started is not there at that moment:
#: because it was killed, too, by the next test. And processes that look at themselves
#: every few milliseconds take cores from those that train.
CALM = {
    "distributed.deploy.lost-worker-timeout": "1 hour",
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
}


@contextlib.contextmanager
def cluster(n_workers: int, threads: int = 1, **kwargs) -> Iterator[Client]:
    """A client of a fresh cluster."""
    with (
        dask.config.set(CALM),
        _start(n_workers, threads, **kwargs) as local,
        Client(local) as client,
    ):
        yield client


def _start(n_workers: int, threads: int, **kwargs) -> LocalCluster:
    return LocalCluster(
        n_workers=n_workers,
        threads_per_worker=threads,
        dashboard_address=":0",
        **kwargs,
    )


#: Clusters that the next module may have, by their workers and threads.
_idle: dict[tuple[int, int], LocalCluster] = {}


@contextlib.contextmanager
def shared(n_workers: int, threads: int = 1) -> Iterator[Client]:
    """A client of a cluster that other modules had, or will have.

    It must be clean, with all of its workers, when this one ends.
    """
    with dask.config.set(CALM), contextlib.ExitStack() as stack:
        local = _idle.pop((n_workers, threads), None) or _start(n_workers, threads)
        stack.callback(local.close)
        with Client(local) as client:
            yield client
            until(lambda: not left_behind(client), "a clean cluster")
            until(lambda: len(addresses(client)) == n_workers, "all of its workers")
        stack.pop_all()
        _idle[n_workers, threads] = local


def close_idle_clusters() -> None:
    """End those that no module has."""
    while _idle:
        _idle.popitem()[1].close()


#: The start of a process that lacks skmlp, or has another version: ``sitecustomize``.
WITHOUT_SKMLP = """
import sys

class Block:
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "skmlp":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Block())
"""
OTHER_SKMLP = """
import skmlp

skmlp.__version__ = "0.0.9"
"""


def environment(start: str, folder: Path) -> str:
    """A path for Python whose processes begin so."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(start)
    return str(folder)


def process(module: str, *options: str, python_path: str = "") -> subprocess.Popen:
    """A process of ``dask scheduler`` or ``dask worker``."""
    paths = [python_path, str(ROOT), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", f"distributed.cli.{module}", *options],
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        | {"DASK_" + name.upper().replace(".", "__"): str(CALM[name]) for name in CALM},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@contextlib.contextmanager
def scheduler(folder: Path, python_path: str = "") -> Iterator[Client]:
    """A client of a ``dask scheduler`` process without workers."""
    file = folder / "scheduler.json"
    options = ["--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    running = process("dask_scheduler", *options, python_path=python_path)
    try:
        until(file.exists, "the scheduler's address")
        with Client(scheduler_file=str(file)) as client:
            yield client
    finally:
        running.kill()
        running.wait(timeout=HANG_S)


class MortalWorkers:
    """Worker processes of one thread; without a nanny, who is killed stays dead.

    Parameters
    ----------
    client : Client
        Of the cluster that they join.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self._processes: list[subprocess.Popen] = []

    def start(
        self, n_workers: int, python_path: str = "", *options: str, nanny: bool = False
    ) -> None:
        """Start so many that there are `n_workers`."""
        command = [] if nanny else ["--no-nanny"]
        command += ["--nthreads", "1", "--no-dashboard", *options]
        for _ in range(n_workers - len(addresses(self.client))):
            address = self.client.scheduler.address
            started = process("dask_worker", *command, address, python_path=python_path)
            self._processes.append(started)
        self.client.wait_for_workers(n_workers, timeout=HANG_S)

    def kill(self, *victims: str) -> None:
        """End workers as the system would: they have no time for a word."""
        ids = pids(self.client)
        for victim in victims:
            os.kill(ids[victim], signal.SIGKILL)

    def close(self) -> None:
        """End all of them."""
        for running in self._processes:
            if "--no-nanny" in running.args:
                running.kill()
            else:
                running.terminate()  # it takes its worker along
        for running in self._processes:
            running.wait(timeout=HANG_S)


def addresses(client: Client) -> list[str]:
    return sorted(client.scheduler_info(n_workers=-1)["workers"])


def pids(client: Client) -> dict[str, int]:
    return client.run(os.getpid)


def until(condition: Callable[[], object], what: str, limit: float = HANG_S) -> None:
    """Wait for something that other processes bring about."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"waited {limit:g} s for {what}"
        time.sleep(0.02)


def left_behind(client: Client) -> dict[str, object]:
    """All that a fit could leave on a cluster; empty if it left nothing."""

    def on_scheduler(dask_scheduler):
        locks = dask_scheduler.extensions["multi_locks"]
        return {
            "tasks": [str(key) for key in dask_scheduler.tasks if "skmlp" in str(key)],
            "locks": {name: users for name, users in locks.locks.items() if users},
            "requests": dict(locks.requests),
            "requests to be answered": list(locks.events),
        }

    def on_worker(dask_worker):
        import threading

        threads = [thread.name for thread in threading.enumerate()]
        return {
            "plugin": "skmlp" in dask_worker.plugins,
            "handler": "skmlp" in dask_worker.handlers,
            "tasks": [k for k in dask_worker.state.tasks if "skmlp" in str(k)],
            "threads": [name for name in threads if name.startswith("skmlp")],
        }

    found = {"scheduler": client.run_on_scheduler(on_scheduler)}
    found |= client.run(on_worker)
    return {
        f"{where} {what}": thing
        for where, things in found.items()
        for what, thing in things.items()
        if thing
    }


def sockets(client: Client) -> dict[str, tuple[int, int]]:
    """For each worker process, its listening TCP sockets and its UNIX sockets.

    Other TCP connections are Dask's own business: it keeps some for later.
    """

    def count() -> tuple[int, int]:
        process = psutil.Process()
        listening = [c for c in process.net_connections("tcp") if c.status == "LISTEN"]
        return len(listening), len(process.net_connections("unix"))

    return client.run(count)
