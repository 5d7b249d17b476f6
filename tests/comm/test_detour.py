"""Ranks that can't dial each other meet by a detour, in the same way and bits."""

from __future__ import annotations

import contextlib
import logging
import socket

import numpy as np
import pytest

from skmlp.comm import meeting
from skmlp.comm.base import PeerLost
from skmlp.comm.handshake import Refused, Secret
from skmlp.comm.listener import NOWHERE, Listener
from tests.comm import laws
from tests.comm.gangs import LIMIT, connect, good, in_threads, read_to_the_end, run

pytestmark = pytest.mark.timeout(60)

SECRET = Secret.new()


class Detours:
    """The detours of all ranks: pairs of sockets, after some failures."""

    def __init__(self, listeners, failures=0):
        self.listeners = listeners
        self.failures = failures
        self.taken = []

    def of(self, rank):
        def detour(peer):
            self.taken.append((rank, peer))
            if self.failures:
                self.failures -= 1
                error = ConnectionRefusedError("a closed door")
                self.listeners[rank].deliver(peer, error)
                return
            here, there = socket.socketpair()
            self.listeners[peer].deliver(None, there)
            self.listeners[rank].deliver(peer, here)

        return detour


@contextlib.contextmanager
def portless(n_ranks):
    """Listeners without ports."""
    with contextlib.ExitStack() as stack:
        listeners = [Listener(None) for _ in range(n_ranks)]
        for listener in listeners:
            stack.callback(listener.close)
        yield listeners


def gather(listeners, detours, addresses, holders, **settings):
    """Let all ranks meet; check what they exchange."""
    n_ranks = len(listeners)
    comms = good(
        in_threads(
            [
                lambda r=r: connect(
                    listeners[r],
                    r,
                    holders,
                    addresses,
                    secret=SECRET,
                    detour=detours.of(r),
                    **settings,
                )
                for r in range(n_ranks)
            ]
        )
    )
    with contextlib.ExitStack() as stack:
        for comm in comms:
            stack.enter_context(contextlib.closing(comm))
        for size in (97, 100_003):
            ranks = good(run(comms, lambda c, n=size: laws.steps(c, np.float64, n)))
            for step, results in enumerate(zip(*ranks, strict=True)):
                want = laws.sum_of(np.float64, size, step, len(holders)).tobytes()
                assert [a.tobytes() for a in results] == [want] * n_ranks
        links = [comm._mesh.links.values() for comm in comms]
        return [[link.sock.family for link in of_rank] for of_rank in links]


@pytest.mark.parametrize("holders", [(0, 1), (0, 1, 1, 0, 2)])
@pytest.mark.parametrize("failures", [0, 3])
def test_ranks_without_ports_meet_by_the_detour(holders, failures):
    n_ranks = max(holders) + 1
    with portless(n_ranks) as listeners:
        detours = Detours(listeners, failures)
        families = gather(listeners, detours, [NOWHERE] * n_ranks, holders)
        assert families == [[socket.AF_UNIX] * (n_ranks - 1)] * n_ranks
    pairs = [(1, 0)] if n_ranks == 2 else [(1, 0), (2, 0), (2, 1)]
    assert len(detours.taken) == len(pairs) + failures
    assert set(detours.taken) == set(pairs)


@contextlib.contextmanager
def closed_door():
    """An address at which every caller is refused."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()


@contextlib.contextmanager
def black_hole():
    """An address that gives no answer: a listener whose queue is full."""
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.socket())
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        for _ in range(4):  # some systems take more than one
            caller = stack.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(sock.getsockname())
        yield sock.getsockname()


WALLS = {"refused": closed_door, "silent": black_hole}


@pytest.mark.parametrize("wall", WALLS)
def test_the_detour_is_taken_where_a_rank_cannot_be_dialed(
    wall, listeners, monkeypatch, caplog
):
    monkeypatch.setattr(meeting, "DIRECT_LIMIT", 0.2)
    detours = Detours(listeners)
    with WALLS[wall]() as address:
        addresses = [address, *(listener.address for listener in listeners[1:])]
        families = gather(listeners, detours, addresses, (0, 1, 2))
    unix, direct = socket.AF_UNIX, socket.AF_INET
    assert families == [[unix, unix], [unix, direct], [unix, direct]]
    assert sorted(detours.taken) == [(1, 0), (2, 0)]
    for rank in (1, 2):
        assert f"rank {rank} can't reach rank 0" in caplog.text


def test_a_rank_that_is_late_is_waited_for_directly(listeners, pool, monkeypatch):
    monkeypatch.setattr(meeting, "DIRECT_LIMIT", 0.05)
    detours = Detours(listeners)
    addresses = [listener.address for listener in listeners[:2]]

    def meet(rank):
        detour = detours.of(rank)
        return connect(
            listeners[rank], rank, (0, 1), addresses, secret=SECRET, detour=detour
        )

    # Rank 1 begins long before rank 0: a first meeting there takes its time.
    with pytest.raises(PeerLost):
        connect(
            listeners[1],
            1,
            (0, 1),
            addresses,
            secret=SECRET,
            detour=detours.of(1),
            limit=0.5,
        )
    one = pool.submit(meet, 1)
    for comm in (meet(0), one.result(LIMIT)):
        comm.close()
    assert detours.taken == []


def test_a_detour_that_ends_nowhere_is_given_up():
    with portless(2) as listeners:
        detours = Detours(listeners, failures=meeting.MOST_ABSENT)
        with pytest.raises(PeerLost, match="rank 0 at no port of its own is gone: a"):
            connect(
                listeners[1],
                1,
                (0, 1),
                [NOWHERE] * 2,
                secret=SECRET,
                detour=detours.of(1),
            )
        assert len(detours.taken) == meeting.MOST_ABSENT
        with pytest.raises(PeerLost, match="there is no detour"):
            connect(listeners[1], 1, (0, 1), [NOWHERE] * 2, secret=SECRET)


def test_strangers_on_the_detour_are_refused(caplog):
    caplog.set_level(logging.DEBUG)
    with portless(2) as listeners, contextlib.ExitStack() as stack:
        garbage, there = socket.socketpair()
        listeners[0].deliver(None, there)
        garbage.sendall(b"\xff" * 100_000)
        gone, there = socket.socketpair()
        listeners[0].deliver(None, there)
        gone.close()
        for _ in range(meeting.MOST_STRANGERS + 10):
            here, there = socket.socketpair()
            stack.callback(here.close)
            listeners[0].deliver(None, there)
        # An end that nobody has asked for is closed.
        unasked, there = socket.socketpair()
        listeners[1].deliver(5, there)
        listeners[1].deliver(5, OSError("of another meeting"))
        detours = Detours(listeners)
        gather(listeners, detours, [NOWHERE] * 2, (0, 1))
        for sock in (garbage, unasked):
            with sock:
                read_to_the_end(sock)
    assert "it is no rank of skmlp" in caplog.text
    assert "too many connections at once" in caplog.text


def test_who_knows_no_secret_gets_nowhere_by_the_detour():
    with portless(2) as listeners:
        detours = Detours(listeners)
        secrets = [SECRET, Secret.new()]
        zero, one = in_threads(
            [
                lambda r=r: connect(
                    listeners[r],
                    r,
                    (0, 1),
                    [NOWHERE] * 2,
                    secret=secrets[r],
                    detour=detours.of(r),
                    limit=0.5,
                )
                for r in range(2)
            ]
        )
    assert isinstance(zero, PeerLost)
    assert isinstance(one, Refused)
    assert "does not know the secret" in str(one)


def test_what_comes_after_the_end_is_closed():
    listener = Listener(None)
    waiting, there = socket.socketpair()
    listener.deliver(None, there)
    listener.close()
    late, there = socket.socketpair()
    listener.deliver(None, there)
    for sock in (waiting, late):
        with sock:
            sock.settimeout(LIMIT)
            assert sock.recv(1) == b""
