"""The sum that two processes of a host make in each step: skmlp's sockets and gloo.

A reduce-scatter and an all-gather, with all that a step of skmlp does to move numbers,
against torch's all-reduce over gloo.
"""

from __future__ import annotations

if __name__ == "__main__" and not __package__:
    from _as_module import start_again

    start_again(__file__)

import multiprocessing
import os
import tempfile
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from benchmarks.child import Contestant
from benchmarks.common import (
    Report,
    children,
    figure,
    installed,
    median_of,
    parsed,
    parser,
    ratio,
    rounds,
)
from skmlp.comm.base import Shards
from skmlp.comm.handshake import Secret
from skmlp.comm.sockets import Listener, connect

#: Count of float32, and of sums in a round.
SIZES = {80: 5000, 8_000: 5000, 80_000: 2000, 1_000_000: 200}
LIMIT = 60.0


class Sockets:
    """A rank of skmlp."""

    def __init__(self, rank: int, pipe: Connection) -> None:
        self._listener = Listener("127.0.0.1")
        secret = Secret.new()
        pipe.send((self._listener.address, secret))
        address, other = pipe.recv()
        addresses = [self._listener.address, address]
        self._comm = connect(
            self._listener,
            rank,
            Shards((0, 1)),
            addresses if rank == 0 else addresses[::-1],
            secret=secret if rank == 0 else other,
            run=bytes(16),
            generation=0,
            fingerprint=bytes(32),
            limit=LIMIT,
        )

    def prepare(self, size: int) -> None:
        dtype = np.dtype(np.float32)
        part, self._flat = np.zeros(size, dtype), np.zeros(size, dtype)
        part[:] = self._comm.rank + 1
        self._exchange = self._comm.exchange([part], self._flat)
        self.step()
        assert (self._flat == 3).all()

    def step(self) -> None:
        exchange = self._exchange
        exchange.reduce_scatter()
        self._flat[exchange.segments[0]] = exchange.totals[0]
        exchange.all_gather()

    def close(self) -> None:
        self._comm.close()
        self._listener.close()


class Gloo:
    """A rank of torch."""

    def __init__(self, rank: int, pipe: Connection) -> None:
        import torch
        from torch import distributed

        self._torch, self._distributed = torch, distributed
        torch.set_num_threads(1)
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        self._folder = tempfile.TemporaryDirectory()
        pipe.send(os.path.join(self._folder.name, "meeting"))
        meeting = pipe.recv()
        if rank == 0:
            meeting = os.path.join(self._folder.name, "meeting")
        distributed.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=rank, world_size=2
        )

    def prepare(self, size: int) -> None:
        self._numbers = self._torch.ones(size, dtype=self._torch.float32)
        self.step()
        assert (self._numbers == 2).all()
        # It sums in place: what grows would end as infinity.
        self._numbers.zero_()

    def step(self) -> None:
        self._distributed.all_reduce(self._numbers)

    def close(self) -> None:
        self._distributed.destroy_process_group()
        self._folder.cleanup()


RANKS = {"skmlp": Sockets, "gloo": Gloo}


def follow(kind: str, pipe: Connection) -> None:
    """Be rank 1: do what rank 0 does."""
    rank = RANKS[kind](1, pipe)
    while (order := pipe.recv()) is not None:
        what, number = order
        if what == "prepare":
            rank.prepare(number)
        else:
            for _ in range(number):
                rank.step()
    rank.close()


class Pair(Contestant):
    """Rank 0, which takes the time, and rank 1 in a process of its own."""

    def __init__(self, kind: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._other = context.Process(target=follow, args=(kind, theirs), daemon=True)
        self._other.start()
        theirs.close()
        self._rank = RANKS[kind](0, self._pipe)

    def prepare(self, size: int) -> None:
        """Make the buffers, and see that the sum is right."""
        self._pipe.send(("prepare", size))
        self._rank.prepare(size)

    def run(self, n_sums: int) -> dict[str, float]:
        """Time so many sums, after a tenth as many that do not count."""
        n_warm = n_sums // 10
        self._pipe.send(("run", n_warm + n_sums))
        for _ in range(n_warm):
            self._rank.step()
        began = time.perf_counter()
        for _ in range(n_sums):
            self._rank.step()
        return {"sum": (time.perf_counter() - began) / n_sums}

    def close(self) -> None:
        """End both ranks."""
        self._pipe.send(None)
        self._rank.close()
        self._other.join(LIMIT)
        self._pipe.close()


def main() -> None:
    """Measure and print."""
    asked = parsed(parser(__doc__))
    report = Report(asked, "A sum of two processes on this host")
    names = ["skmlp", "gloo"] if installed("torch") else ["skmlp"]
    if "gloo" not in names:
        report.say("torch is not installed: gloo's column is left out.")
    sizes = {80: 20, 80_000: 20} if asked.quick else SIZES
    rows = []
    targets: dict[str, tuple[Any, ...]] = {
        name: ("benchmarks.allreduce:Pair", name) for name in names
    }
    with children(targets, dict.fromkeys(names, 1)) as contestants:
        for size, n_sums in sizes.items():
            for child in contestants.values():
                child.call("prepare", size)
            found = rounds(contestants, asked.repeats, "run", n_sums)
            report.keep(size=size, seconds=found)
            cells = [figure(1e6 * median_of(found[name], "sum")) for name in names]
            if "gloo" in names:
                times = [[run["sum"] for run in found[n]] for n in ("gloo", "skmlp")]
                cells.append(figure(ratio(*times)))
            rows.append([f"{size:,}", *cells])
    headers = ["float32, us per sum", *names, "gloo / skmlp"]
    report.table(headers[: len(rows[0])], rows)
    report.end()


if __name__ == "__main__":
    main()
