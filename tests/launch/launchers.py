"""The launchers of one host, by name, and what they must not leave behind."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
from collections.abc import Iterator

import numpy as np
import psutil

from skmlp.comm.base import Shards
from skmlp.launch.in_process import InProcessGroup
from skmlp.launch.loky.process_group import LokyGroup
from skmlp.threads import blas_threads_now
from skmlp.training.protocol import Message, RankGroup
from tests.launch.servants import COLUMNS, FACTS, Data, Plan, build
from tests.limits import HANG_S

MAX_BYTES = 1 << 26

#: How the shards lie on ranks.
LAYOUTS = ((0,), (0, 1), (0, 1, 2), (0, 1, 0))

#: All launchers with all the layouts they have.
GANGS = [
    *(("in process", holders) for holders in ((0,), (0, 0, 0))),
    *(("processes", holders) for holders in LAYOUTS),
]
#: One gang of each launcher.
ONE_EACH = [("in process", (0,)), ("processes", (0, 1))]


def start(
    where: str,
    holders: tuple[int, ...] = (0, 1),
    plan: Plan | None = None,
    data: Data | None = None,
    **options: object,
) -> RankGroup:
    """Start a gang of test servants."""
    plan, data = plan or Plan(), data or Data()
    if where == "in process":
        return InProcessGroup(build, plan, data, len(holders), **options)
    options.setdefault("max_bytes", MAX_BYTES)
    return LokyGroup(build, plan, data, Shards(holders), **options)


def facts(gang: RankGroup) -> list[dict[str, float]]:
    """What the holder of each shard says about itself."""
    (row,) = gang.request(Message(FACTS)).arrays
    table = row.reshape(gang.shards.n_shards, len(COLUMNS))
    return [dict(zip(COLUMNS, line, strict=True)) for line in table]


def an_order(op: int, *numbers: int) -> Message:
    """A message with one array of whole numbers, or none."""
    return Message(op, (np.array(numbers, dtype=np.int64),) if numbers else ())


def open_sockets() -> set[tuple[object, ...]]:
    """All sockets of this process."""
    process = psutil.Process()
    listed = getattr(process, "net_connections", process.connections)(kind="all")
    return {(c.fd, c.family, c.type, c.laddr, c.raddr) for c in listed}


#: How the names of others' threads begin: those of loky's pool, which may stay, and of
#: Dask, whose clusters of other tests in this process come and go as they like.
OTHERS = (
    *("ExecutorManagerThread", "QueueFeederThread"),
    *("AsyncProcess", "Dask-", "IO loop", "Profile", "TCP-Executor"),
    "ThreadPoolExecutor",
)
#: Seconds for a thread that has done its work to be gone.
GONE = HANG_S


def own_threads() -> set[str]:
    """The threads of this process, but for those of others."""
    return {
        f"{t.name} {t.ident}"
        for t in threading.enumerate()
        if not t.name.startswith(OTHERS)
    }


@contextlib.contextmanager
def leaving_nothing(folder: str | os.PathLike[str] | None = None) -> Iterator[None]:
    """Check that no thread, socket, BLAS limit or file is left behind."""
    gc.collect()
    threads, sockets, blas = own_threads(), open_sockets(), blas_threads_now()
    yield
    gc.collect()
    # What was there before may end meanwhile: clusters of earlier tests leave slowly.
    end = time.monotonic() + GONE
    while left := own_threads() - threads:
        assert time.monotonic() < end, f"after {GONE:g} s there still are {left}"
        time.sleep(0.01)
    assert not open_sockets() - sockets
    assert blas_threads_now() == blas
    if folder is not None:
        assert os.listdir(folder) == []
