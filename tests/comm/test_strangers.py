"""Whoever else knocks at the door: the ranks meet all the same."""

from __future__ import annotations

import contextlib
import logging
import socket
import struct

import numpy as np
import pytest

from skmlp.comm import rendezvous
from skmlp.comm.base import PeerLost
from skmlp.comm.handshake import Hello, Refused, Secret, send_hello
from tests.comm import laws
from tests.comm.gangs import (
    HOST,
    LIMIT,
    PRINT,
    RUN,
    addresses_of,
    connect,
    dial,
    good,
    make_contexts,
    read_to_the_end,
    run,
)

SECRET = Secret.new()
GENERATION = 3


def send(data):
    def attack(address):
        sock = dial(address)
        sock.sendall(data)
        read_to_the_end(sock)
        return [sock]

    return attack


def say_nothing(address):
    return [dial(address)]


def stop_halfway(address):
    sock = dial(address)
    sock.sendall(b"skmlp\0\0\1" + bytes(5))
    sock.shutdown(socket.SHUT_WR)
    read_to_the_end(sock)
    return [sock]


def vanish(address):
    sock = dial(address)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    return []


def flood(address):
    return [dial(address) for _ in range(rendezvous.MAX_STRANGERS + 50)]


def introduce(secret=SECRET, **changes):
    fields = {"run": RUN, "generation": GENERATION, "rank": 1, "fingerprint": PRINT}
    hello = Hello(**{**fields, **changes})

    def attack(address):
        sock = dial(address)
        with pytest.raises(Refused):
            send_hello(sock, secret, hello, LIMIT)
        sock.close()
        return []

    return attack


ATTACKS = {
    "garbage": (send(b"GET / HTTP/1.1\r\nHost: somebody\r\n\r\n"), "no rank of skmlp"),
    "a lot of garbage": (send(b"\xff" * 100_000), "no rank of skmlp"),
    "a pickle": (send(b"\x80\x05cposix\nsystem\n(S'true'\ntR." * 2), "no rank"),
    "another version": (send(b"skmlp\0\0\7" + bytes(32)), "another version"),
    "silence": (say_nothing, None),
    "half a hello": (stop_halfway, "closed in the handshake"),
    "gone at once": (vanish, None),
    "a flood": (flood, "too many connections"),
    "wrong secret": (introduce(Secret.new()), "closed in the handshake"),
    "wrong run": (introduce(run=b"y" * 16), "another fit"),
    "past generation": (introduce(generation=2), "generation is over"),
    "future generation": (introduce(generation=4), "has not begun"),
    "rank of the acceptor": (introduce(rank=0), "not one that is waited for"),
    "rank out of range": (introduce(rank=2), "not one that is waited for"),
    "fingerprint": (introduce(fingerprint=bytes(32)), "fingerprint differs"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_strangers_are_refused_and_the_ranks_meet(
    attack, listeners, pool, caplog, monkeypatch
):
    # A silent stranger has longer than this meeting: it must not be waited for.
    monkeypatch.setattr(rendezvous, "STRANGER_LIMIT_S", 2 * LIMIT)
    assault, reason = ATTACKS[attack]
    caplog.set_level(logging.DEBUG)
    listeners = listeners[:2]

    def meet(rank):
        return connect(
            listeners[rank],
            rank,
            (0, 1),
            addresses_of(listeners),
            secret=SECRET,
            generation=GENERATION,
        )

    with contextlib.ExitStack() as stack:
        zero = pool.submit(meet, 0)
        for sock in assault(listeners[0].address):
            stack.enter_context(sock)
        comms = [stack.enter_context(contextlib.closing(meet(1)))]
        comms.insert(0, stack.enter_context(contextlib.closing(zero.result(LIMIT))))
        ranks = good(run(comms, lambda c: laws.steps(c, np.float64, 97)))
    for step, results in enumerate(zip(*ranks, strict=True)):
        want = laws.sum_of(np.float64, 97, step, 2).tobytes()
        assert [a.tobytes() for a in results] == [want] * 2
    if reason is not None:
        assert reason in caplog.text
    assert SECRET._key.hex() not in caplog.text


def test_many_refusals_do_not_flood_the_log(listeners, caplog):
    n_bad = 3 * rendezvous.MAX_WARNINGS
    socks = [dial(listeners[0].address) for _ in range(n_bad)]
    for sock in socks:
        sock.sendall(bytes(100))
    with pytest.raises(PeerLost, match=f"{n_bad} refused, the last one: {HOST}:"):
        connect(
            listeners[0],
            0,
            (0, 1),
            addresses_of(listeners[:2]),
            secret=SECRET,
            limit=5.0,
        )
    for sock in socks:
        sock.close()
    warnings = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == rendezvous.MAX_WARNINGS + 1
    assert f"{n_bad} connections were refused" in caplog.text


def test_a_plain_stranger_at_a_tls_port_is_refused(listeners, pool, tmp_path, caplog):
    contexts = make_contexts(tmp_path)

    def meet(rank):
        return connect(
            listeners[rank],
            rank,
            (0, 1),
            addresses_of(listeners[:2]),
            secret=SECRET,
            ssl_contexts=contexts,
        )

    zero = pool.submit(meet, 0)
    (sock,) = send(b"skmlp\0\0\1" + bytes(32))(listeners[0].address)
    sock.close()
    one = meet(1)
    comms = [zero.result(LIMIT), one]
    good(run(comms, lambda c: laws.steps(c, np.float64, 97)))
    for comm in comms:
        comm.close()
    assert "refused a connection" in caplog.text
