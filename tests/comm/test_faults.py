"""Ranks that die, freeze, stop, or lose step: nobody hangs, and the error says why."""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from skmlp.comm import mesh
from skmlp.comm.base import Aborted, CommError, PeerLost, Shards
from skmlp.comm.sockets import SocketCommunicator
from tests.comm import laws
from tests.comm.gangs import LIMIT, gang, good, in_threads, make_contexts, run, until
from tests.comm.processes import bind, peers, receive

HUGE = 4_000_003  # 32 MB: more than the system holds between two sockets


# ---- Processes ---------------------------------------------------------------------


@pytest.mark.parametrize("holders", [(0, 1), (0, 1, 0, 2)])
def test_ranks_in_processes_get_the_bits_of_one_rank(holders):
    with gang("solo", holders) as comms:
        alone = good(run(comms, lambda c: laws.steps(c, np.float32, 10_007)))
    want = [a.tobytes() for a in alone[0]]
    with peers(holders) as (comm, _, pipes):
        for pipe in pipes:
            pipe.send((np.float32, 10_007, laws.N_STEPS))
        here = laws.steps(comm, np.float32, 10_007)
        assert [a.tobytes() for a in here] == want
        for pipe in pipes:
            assert receive(pipe) == want
            pipe.send(None)


@pytest.mark.parametrize(("holders", "size"), [((0, 1, 2), 3), ((0, 1), HUGE)])
def test_a_killed_process_is_noticed_and_named(holders, size):
    with (
        peers(holders) as (comm, processes, _),
        ThreadPoolExecutor(1) as pool,
    ):
        waiting = pool.submit(bind(comm, size).reduce_scatter)
        last = len(processes)
        processes[-1].kill()
        match = rf"rank {last} at 127\.0\.0\.1:\d+ is lost"
        with pytest.raises(PeerLost, match=match):
            waiting.result(LIMIT)
        with pytest.raises(PeerLost, match=match):
            comm.all_reduce(np.zeros((len(holders), 1)))


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="can't freeze a process")
def test_a_frozen_process_is_given_up_at_the_step_limit():
    with peers((0, 1), step_limit=0.3) as (comm, processes, _):
        os.kill(processes[0].pid, signal.SIGSTOP)
        match = r"from, or went to, rank 1 at 127\.0\.0\.1:\d+ for 0\.3 s"
        with pytest.raises(PeerLost, match=match):
            bind(comm, HUGE).reduce_scatter()


# ---- Aborts ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sockets", "tls"])
@pytest.mark.parametrize("size", [3, HUGE])
@pytest.mark.parametrize("verb", ["reduce_scatter", "all_gather"])
def test_an_abort_wakes_who_waits(kind, size, verb, monkeypatch, tmp_path):
    asleep = threading.Event()
    wait = mesh.wait

    def note(wishes, seconds):
        asleep.set()
        return wait(wishes, seconds)

    contexts = make_contexts(tmp_path) if kind == "tls" else None
    with gang(kind, (0, 1, 2), contexts) as comms, ThreadPoolExecutor(2) as pool:
        exchanges = good(in_threads([lambda c=c: shared(c, size) for c in comms]))
        monkeypatch.setattr(mesh, "wait", note)
        waiting = [
            pool.submit(call_until_it_raises, comms[r], getattr(exchanges[r], verb))
            for r in (0, 1)
        ]
        until(asleep.is_set, "a rank waits for rank 2")
        comms[0].abort("the user pressed Ctrl-C")
        with pytest.raises(Aborted, match="the user pressed Ctrl-C"):
            waiting[0].result(LIMIT)
        # The others see that rank 0 is gone, at the latest in the move after the one
        # that it had its part in.
        with pytest.raises(PeerLost):
            call_until_it_raises(comms[2], getattr(exchanges[2], verb))
        with pytest.raises(PeerLost):
            waiting[1].result(LIMIT)


def call_until_it_raises(comm, verb):
    """Go from step to step as a rank does; it closes when it fails."""
    try:
        while True:
            verb()
    finally:
        comm.close()


def shared(comm, size):
    """Bind an exchange of zeros."""
    return comm.exchange([np.zeros(size) for _ in comm.own_shards], np.zeros(size))


def test_who_closes_is_lost_to_the_others():
    with gang("sockets", (0, 1)) as comms:
        comms[1].close()
        with pytest.raises(PeerLost, match="rank 1"):
            comms[0].all_reduce(np.zeros((2, 1)))
        with pytest.raises(CommError, match="closed"):
            comms[1].all_reduce(np.zeros((2, 1)))


def test_an_abort_counts_for_more_than_a_loss():
    with gang("sockets", (0, 1)) as comms:
        comms[1].close()
        with pytest.raises(PeerLost):
            comms[0].all_reduce(np.zeros((2, 1)))
        comms[0].abort("start again")
        with pytest.raises(Aborted, match="start again"):
            comms[0].all_reduce(np.zeros((2, 1)))


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="can't press Ctrl-C")
def test_ctrl_c_in_a_wait_ends_the_gang(monkeypatch):
    asleep = threading.Event()
    wait = mesh.wait

    def note(wishes, seconds):
        asleep.set()
        return wait(wishes, seconds)

    monkeypatch.setattr(mesh, "wait", note)
    main = threading.get_ident()

    def press():
        until(asleep.is_set, "rank 0 waits")
        signal.pthread_kill(main, signal.SIGINT)

    with gang("sockets", (0, 1)) as comms, ThreadPoolExecutor(1) as pool:
        pressed = pool.submit(press)
        with pytest.raises(KeyboardInterrupt):
            comms[0].all_reduce(np.zeros((2, 1)))
        pressed.result(LIMIT)
        with pytest.raises(CommError, match="interrupted by KeyboardInterrupt"):
            comms[0].all_reduce(np.zeros((2, 1)))


# ---- Ranks that lose step ----------------------------------------------------------


HEADERS = {
    "false length": (1, 999),
    "no length": (1, 0),
    "enormous length": (1, 2**64 - 8),
    "an old message": (0, 16),
    "a later message": (2, 16),
    "noise": (2**63, 2**63),
}


@pytest.mark.parametrize("header", HEADERS)
def test_a_false_header_is_found_before_its_numbers_are_used(header):
    ours, theirs = socket.socketpair()
    comm = SocketCommunicator(0, Shards((0, 1)), {1: ours}, step_limit=LIMIT)
    flat = np.zeros(4)
    exchange = comm.exchange([np.ones(4)], flat)
    number, n_bytes = HEADERS[header]
    theirs.sendall(struct.pack("!QQ", number, n_bytes) + bytes(200))
    match = rf"rank 1 has lost step: it sent message {number} of {n_bytes} bytes"
    with pytest.raises(CommError, match=match):
        exchange.reduce_scatter()
    with pytest.raises(CommError, match=match):
        exchange.all_gather()
    comm.close()
    theirs.close()


@pytest.mark.parametrize("n_bytes", [0, 1, 15, 16, 17, 31])
def test_a_message_that_ends_early_is_a_lost_peer(n_bytes):
    ours, theirs = socket.socketpair()
    comm = SocketCommunicator(0, Shards((0, 1)), {1: ours}, step_limit=LIMIT)
    exchange = comm.exchange([np.ones(4)], np.zeros(4))
    theirs.sendall((struct.pack("!QQ", 1, 16) + bytes(16))[:n_bytes])
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(PeerLost, match="rank 1 is lost: it closed the connection"):
        exchange.reduce_scatter()
    comm.close()
    theirs.close()


def test_nothing_is_read_beyond_a_message():
    ours, theirs = socket.socketpair()
    comm = SocketCommunicator(0, Shards((0, 1)), {1: ours}, step_limit=LIMIT)
    flat = np.zeros(4)
    exchange = comm.exchange([np.ones(4)], flat)
    # The peer is two moves ahead.
    sums, values = np.full(2, 5.0), np.full(2, 7.0)
    theirs.sendall(struct.pack("!QQ", 1, 16) + sums.tobytes())
    theirs.sendall(struct.pack("!QQ", 2, 16) + values.tobytes())
    theirs.sendall(struct.pack("!QQ", 3, 8) + np.full(1, 9.0).tobytes())
    exchange.reduce_scatter()
    assert exchange.totals[0].tolist() == [6.0, 6.0]
    assert flat.tolist() == [0.0] * 4
    exchange.all_gather()
    assert flat.tolist() == [0.0, 0.0, 7.0, 7.0]
    assert comm.all_reduce(np.ones((2, 1))).tolist() == [10.0]
    comm.close()
    theirs.close()


def test_ranks_that_call_different_verbs_find_out():
    def differ(comm):
        exchange = bind(comm, 10)
        exchange.reduce_scatter() if comm.rank else comm.all_reduce(np.zeros((2, 1)))

    with gang("sockets", (0, 1)) as comms:
        errors = in_threads([lambda c=c: differ(c) for c in comms])
    assert all(isinstance(e, CommError) and "lost step" in str(e) for e in errors)
