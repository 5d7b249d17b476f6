"""Whoever else knocks at the doors of ranks on Dask workers: the fit is the same."""

from __future__ import annotations

import collections
import contextlib
import logging
import socket
import struct
import threading
import time

import psutil
import pytest

from skmlp.comm import rendezvous
from skmlp.comm.base import CommError
from skmlp.comm.handshake import Hello, Secret, send_hello
from skmlp.dask.ingest.load_rows import load_rows
from tests.comm.gangs import dial, read_to_the_end
from tests.launch.dask_clusters import until
from tests.launch.dask_doors import added, door_here, held_up, undisturbed
from tests.launch.dask_servants import X, Y, gang_on
from tests.limits import HANG_S

N_SHARDS = 3
OPENING = b"skmlp\0\0\1" + bytes(32)

# ---- What strangers cost -------------------------------------------------------------


def listen_to_log(dask_worker):
    """Keep what the ranks of a worker log."""

    class Keep(logging.Handler):
        def emit(self, record):
            dask_worker.skmlp_log.append(record.getMessage())

    dask_worker.skmlp_log = []
    dask_worker.skmlp_keep = Keep(logging.WARNING)
    logging.getLogger("skmlp").addHandler(dask_worker.skmlp_keep)


def log_of(dask_worker):
    logging.getLogger("skmlp").removeHandler(dask_worker.skmlp_keep)
    return dask_worker.skmlp_log


def cost() -> tuple[int, int, int]:
    """Descriptors, threads and bytes of memory of a process."""
    me = psutil.Process()
    return me.num_fds(), me.num_threads(), me.memory_info().rss


def cheap(before: dict, now: dict, n_descriptors: int) -> bool:
    """Whether no process has grown by more than a little."""
    for worker, (descriptors, threads, memory) in now.items():
        was = before[worker]
        if descriptors > was[0] + n_descriptors or threads > was[1] + 8:
            return False
        if memory > was[2] + 100e6:
            return False
    return True


# ---- Strangers -----------------------------------------------------------------------


def in_good_manner(address, secret, **changes):
    """Introduce oneself as a rank, but for `changes`; return what came of it."""
    fields = {"run": bytes(16), "generation": 0, "rank": 1, "fingerprint": bytes(32)}
    with dial(address) as sock:
        send_hello(sock, secret, Hello(**{**fields, **changes}), 20.0)


def rudely(address, data):
    with dial(address) as sock, contextlib.suppress(OSError):
        sock.sendall(data)
        read_to_the_end(sock)


def test_strangers_in_the_midst_of_a_meeting_are_refused(clean, tmp_path):
    clean.run(listen_to_log)
    with (
        load_rows(clean, X, Y) as data,
        held_up(clean, data, tmp_path) as held,
        contextlib.ExitStack() as stack,
    ):
        for door in held.doors:
            for _ in range(3):  # those who say nothing, or not enough
                stack.enter_context(dial(door))
                stack.enter_context(dial(door)).sendall(OPENING[:20])
            with pytest.raises(CommError, match="does not know the secret"):
                in_good_manner(door, Secret.new())
            rudely(door, b"GET / HTTP/1.1\r\n\r\n")
            rudely(door, bytes(100_000))
            # What would be the header of a move, with a length of 16 exabytes.
            rudely(door, struct.pack("!QQ", 1, 2**64 - 1))
            # No secret, and a false proof.
            rudely(door, OPENING + b"\xff" * 92)
        with held.go_on() as gang:
            assert gang.shards.n_ranks == N_SHARDS
            assert added(gang) == undisturbed(N_SHARDS)
    logs = clean.run(log_of)
    told = [
        " ".join(line for line in log if "refused" in line) for log in logs.values()
    ]
    # On the worker that was held up, nobody has called.
    assert told.count("") == 1
    for text in filter(None, told):
        assert "it is no rank of skmlp" in text
        assert "it does not know the secret" in text


# ---- Floods --------------------------------------------------------------------------


class Flood:
    """Connections without end: 10,000 of them, or 5 s.

    A few hundred are open at a time, of which the system of the other end accepts what
    it likes.
    """

    COUNT = 10_000
    SECONDS = 5.0
    OPEN = 400

    def __init__(self, address) -> None:
        self.address = address
        self.n_begun = self.n_refused = 0
        self.half = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._thread.join(timeout=HANG_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        end = time.monotonic() + self.SECONDS
        with contextlib.ExitStack() as stack:
            stack.callback(self.half.set)
            window: collections.deque[socket.socket] = collections.deque()
            stack.callback(lambda: [sock.close() for sock in window])
            while self.n_begun < self.COUNT and time.monotonic() < end:
                if len(window) >= self.OPEN:
                    # It was accepted and sent away, or has waited long enough.
                    oldest = window.popleft()
                    with oldest, contextlib.suppress(OSError):
                        oldest.recv(1)
                self._knock(window)
                if self.n_begun == self.COUNT // 2:
                    self.half.set()

    def _knock(self, window: collections.deque[socket.socket]) -> None:
        self.n_begun += 1
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.settimeout(0.5)
        try:
            sock.connect(self.address)
            # Where nobody listens, TCP lets a caller reach itself now and then.
            refused = sock.getsockname() == sock.getpeername()
        except OSError:
            refused = True
        self.n_refused += refused
        if refused:
            sock.close()
        else:
            window.append(sock)


def test_a_flood_in_the_midst_of_a_meeting(clean, tmp_path):
    with load_rows(clean, X, Y) as data:
        with gang_on(data) as gang:  # what is opened once for good is open now
            assert added(gang) == undisturbed(N_SHARDS)
        clean.run(listen_to_log)
        before = clean.run(cost)
        with held_up(clean, data, tmp_path) as held:
            with Flood(held.doors[0]) as flood:
                assert flood.half.wait(HANG_S)
                midst = clean.run(cost)
                with held.go_on() as gang:
                    assert added(gang) == undisturbed(N_SHARDS)
            assert flood.n_begun > rendezvous.MAX_STRANGERS
            assert cheap(before, midst, rendezvous.MAX_STRANGERS + 50), (before, midst)
    until(lambda: cheap(before, clean.run(cost), 30), "an end of all connections")
    logs = clean.run(log_of)
    told = logs[data.group.workers[0]]
    refusals = [line for line in told if "refused a connection" in line]
    assert len(refusals) == rendezvous.MAX_WARNINGS
    assert all("too many connections" in line for line in refusals)
    assert "connections were refused" in told[-1]


def test_in_mid_fit_there_is_no_door(clean):
    with load_rows(clean, X, Y) as data, gang_on(data) as gang:
        before = clean.run(cost)
        door = tuple(clean.run(door_here)[data.group.workers[0]])
        n_times = 0
        with Flood(door) as flood:
            while flood._thread.is_alive():
                added(gang, 10)
                n_times += 10
        assert flood.n_refused == flood.n_begun > 0
        assert added(gang, 1) == undisturbed(N_SHARDS, n_times + 1)
        assert cheap(before, clean.run(cost), 30)
