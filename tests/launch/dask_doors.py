"""Gangs on Dask while they meet, and what they compute: for tests of how they talk."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from distributed import Client

from skmlp.dask.ingest.loaded_rows import LoadedRows
from skmlp.dask.rank_group import DaskGroup
from tests.launch import servants
from tests.launch.dask_clusters import until
from tests.launch.dask_servants import ask, gang_on, hold_thread
from tests.limits import HANG_S

NUMBERS = np.array([0.1, 1, np.pi, -7, 1e-9])


def added(gang: DaskGroup, n_times: int = 5) -> bytes:
    """The bits of a sum over all ranks, exchanged some times."""
    for _ in range(n_times):
        total = ask(gang, servants.ADD, NUMBERS)
    return total.tobytes()


def undisturbed(n_shards: int, n_times: int = 5) -> bytes:
    """What `added` must be."""
    total = np.zeros(NUMBERS.size)
    for _ in range(n_times):
        step = NUMBERS * 1
        for shard in range(1, n_shards):
            step = step + NUMBERS * (shard + 1)
        total = total + step
    return total.tobytes()


def door_here(dask_worker):
    """The address of a worker's rank, once its thread has come to the meeting."""
    service = dask_worker.plugins.get("skmlp")
    fits = [] if service is None else service._fits.values()
    for mailbox in [fit.mailbox for fit in fits if fit.mailbox is not None]:
        if mailbox.begun:
            return mailbox.listener.address
    return None


@dataclass
class HeldUp:
    """A gang whose ranks meet as long as one of them is missing."""

    doors: list[tuple[str, int]]
    flag: Path
    coming: Future[DaskGroup]

    def go_on(self) -> DaskGroup:
        """Let the last rank come; return the gang."""
        self.flag.touch()
        return self.coming.result(timeout=HANG_S)


@contextlib.contextmanager
def held_up(client: Client, data: LoadedRows, folder: Path) -> Iterator[HeldUp]:
    flag = folder / "free"
    busy = data.group.workers[1]
    with ThreadPoolExecutor(1) as pool:
        holding = client.submit(hold_thread, flag, workers=[busy], pure=False)
        until(lambda: client.processing()[busy], "a busy worker")
        coming = pool.submit(gang_on, data)
        others = [worker for worker in data.group.workers if worker != busy]
        try:
            until(lambda: all(client.run(door_here, workers=others).values()), "ranks")
            doors = client.run(door_here, workers=others)
            yield HeldUp([tuple(doors[worker]) for worker in others], flag, coming)
        finally:
            flag.touch()
            coming.result(timeout=HANG_S).close()
            holding.result(timeout=HANG_S)
