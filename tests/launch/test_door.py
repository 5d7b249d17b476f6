"""Only who knows the secret comes in, and strangers delay nobody."""

from __future__ import annotations

import logging
import socket
import threading
import time

import pytest

from skmlp.comm.handshake import Hello, Refused, Secret, fingerprint, send_hello
from skmlp.launch.loky import rendezvous as door_module
from skmlp.launch.loky.rendezvous import Door
from tests.limits import HANG_S

PRINT = fingerprint(kernels="numpy")


@pytest.fixture
def bell():
    ends = socket.socketpair()
    yield ends
    for end in ends:
        end.close()


@pytest.fixture
def door(bell):
    door = Door("127.0.0.1", 0, PRINT, 2, bell[0])
    yield door
    door.close()


class Caller(threading.Thread):
    """Calls at the door in a thread of its own."""

    def __init__(self, door: Door, rank: int, **other: object) -> None:
        super().__init__()
        hello = {"run": door.run, "generation": 0, "fingerprint": PRINT, **other}
        self._secret = hello.pop("secret", door.secret)
        self._hello = Hello(rank=rank, **hello)
        self.sock = socket.create_connection(door.address)
        self.refusal: str | None = None
        self.start()

    def run(self) -> None:
        try:
            send_hello(self.sock, self._secret, self._hello, 20)
        except Refused as error:
            self.refusal = str(error)

    def end(self) -> None:
        self.join(HANG_S)
        self.sock.close()


def let_in(door: Door, n_ranks: int, limit: float = HANG_S) -> dict[int, socket.socket]:
    """Who comes in, until there are so many."""
    come: dict[int, socket.socket] = {}
    deadline = time.monotonic() + limit
    while len(come) < n_ranks and time.monotonic() < deadline:
        come |= door.wait(deadline - time.monotonic())
    return come


def test_ranks_come_in_past_silent_strangers(door):
    strangers = [socket.create_connection(door.address) for _ in range(3)]
    callers = [Caller(door, rank) for rank in (1, 0)]
    come = let_in(door, 2)
    assert set(come) == {0, 1}
    for rank, caller in zip((1, 0), callers, strict=True):
        caller.sock.sendall(b"word of %d" % rank)
        come[rank].settimeout(HANG_S)
        assert come[rank].recv(9) == b"word of %d" % rank
    for end in (*come.values(), *strangers):
        end.close()
    for caller in callers:
        caller.end()


FALSE = {
    "secret": ({"secret": Secret(bytes(32))}, 0, "does not know the secret"),
    "run": ({"run": bytes(16)}, 0, "another fit"),
    "rank": ({}, 2, "its rank"),
    "fingerprint": ({"fingerprint": bytes(32)}, 0, "fingerprint"),
}


@pytest.mark.parametrize(("other", "rank", "text"), FALSE.values(), ids=FALSE.keys())
def test_who_does_not_belong_is_refused(door, caplog, other, rank, text):
    false = Caller(door, rank, **other)
    with caplog.at_level(logging.WARNING):
        while false.is_alive():
            assert door.wait(0.01) == {}
        false.end()
        assert door.wait(0.01) == {}
    assert false.refusal is not None
    assert text in false.refusal
    (record,) = caplog.records
    assert "refused a connection from 127.0.0.1" in record.getMessage()
    true = Caller(door, 0)
    (sock,) = let_in(door, 1).values()
    true.end()
    sock.close()


def test_a_flood_of_strangers_pushes_out_the_oldest(door, monkeypatch, caplog):
    monkeypatch.setattr(door_module, "MOST_STRANGERS", 4)
    strangers = [socket.create_connection(door.address) for _ in range(9)]
    caller = Caller(door, 0)
    (sock,) = let_in(door, 1).values()
    assert caplog.text.count("too many connections") >= 5
    caller.end()
    for end in (sock, *strangers):
        end.close()


def test_the_bell_ends_a_wait(door, bell):
    bell[1].close()
    assert door.wait(HANG_S) == {}


def test_a_closed_door_gives_back_its_port(door):
    waiting = socket.create_connection(door.address)
    door.wait(0)
    door.close()
    door.close()
    waiting.settimeout(HANG_S)
    assert waiting.recv(1) == b""
    waiting.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(door.address)
