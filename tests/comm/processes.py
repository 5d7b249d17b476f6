"""Ranks in processes of their own, which a test can kill."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np

from skmlp.comm.handshake import Secret
from skmlp.comm.sockets import Listener, SocketCommunicator
from tests.comm import laws
from tests.comm.gangs import HOST, LIMIT, connect

SPAWN = multiprocessing.get_context("spawn")


def main(pipe: Connection, rank: int, holders: Sequence[int], secret: Secret) -> None:
    """Meet the others, do what the test asks, send the results."""
    listener = Listener(HOST)
    pipe.send(listener.address)
    comm = connect(listener, rank, holders, pipe.recv(), secret=secret)
    pipe.send("ready")
    while (order := pipe.recv()) is not None:
        dtype, size, n_steps = order
        pipe.send([a.tobytes() for a in laws.steps(comm, dtype, size, n_steps)])
    comm.close()
    listener.close()


def receive(pipe: Connection) -> Any:
    """Receive within the limit."""
    assert pipe.poll(LIMIT), f"waited {LIMIT:g} s for a rank's process"
    return pipe.recv()


@contextlib.contextmanager
def peers(
    holders: Sequence[int], **settings: Any
) -> Iterator[tuple[SocketCommunicator, list[BaseProcess], list[Connection]]]:
    """Rank 0 here, and the others in processes that have met it.

    Yields the communicator of rank 0, and the processes and pipes of the others.
    """
    n_ranks = max(holders) + 1
    secret = Secret.new()
    pairs = [SPAWN.Pipe() for _ in range(1, n_ranks)]
    pipes = [ours for ours, _ in pairs]
    processes = [
        SPAWN.Process(target=main, args=(theirs, rank, holders, secret), daemon=True)
        for rank, (_, theirs) in enumerate(pairs, start=1)
    ]
    with contextlib.ExitStack() as stack:
        for pipe in (pipe for pair in pairs for pipe in pair):
            stack.callback(pipe.close)
        for process in processes:
            process.start()
            stack.callback(process.join, LIMIT)
            stack.callback(process.kill)
        listener = Listener(HOST)
        stack.callback(listener.close)
        addresses = [listener.address, *map(receive, pipes)]
        for pipe in pipes:
            pipe.send(addresses)
        comm = connect(listener, 0, holders, addresses, secret=secret, **settings)
        stack.callback(comm.close)
        assert [receive(pipe) for pipe in pipes] == ["ready"] * len(pipes)
        yield comm, processes, pipes


def bind(comm: SocketCommunicator, size: int) -> Any:
    """Make an exchange for parts of zeros."""
    parts = [np.zeros(size) for _ in comm.own_shards]
    return comm.exchange(parts, np.zeros(size))
