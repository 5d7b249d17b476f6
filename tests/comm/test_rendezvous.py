"""Ranks find each other; who is missing, gone or different is named."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys

import numpy as np
import pytest

from skmlp.comm import rendezvous
from skmlp.comm.base import Aborted, PeerLost, Shards
from skmlp.comm.handshake import (
    Expected,
    Hello,
    Refused,
    Secret,
    send_hello,
)
from skmlp.comm.listener import local_name
from skmlp.comm.sockets import Listener, SocketCommunicator
from tests.comm import laws
from tests.comm.gangs import (
    HOST,
    LIMIT,
    PRINT,
    RUN,
    accept_hello,
    addresses_of,
    connect,
    dial,
    good,
    in_threads,
    make_contexts,
    read_to_the_end,
    run,
    socket_gang,
)

SECRET = Secret.new()
GENERATION = 3


def name(address):
    return re.escape("{}:{}".format(*address))


# ---- The driver, which all ranks dial ----------------------------------------------


def meet_ranks(listener, **options):
    hello = Hello(RUN, GENERATION, -1, PRINT)
    addresses = [("", 0)] * 2
    return rendezvous.Rendezvous(listener, addresses, SECRET, hello, **options).run()


def call_driver(listener, rank):
    sock = dial(listener.address)
    send_hello(sock, SECRET, Hello(RUN, GENERATION, rank, PRINT), LIMIT)
    return sock


def test_the_driver_meets_all_ranks(listeners, pool):
    coming = pool.submit(meet_ranks, listeners[0], limit=LIMIT)
    calls = [call_driver(listeners[0], rank) for rank in (1, 0)]
    met = coming.result(LIMIT)
    for rank, sock in zip((1, 0), calls, strict=True):
        met[rank].sendall(b"%d" % rank)
        assert sock.recv(1) == b"%d" % rank
    for sock in (*met.values(), *calls):
        sock.close()


def test_the_driver_waits_less_once_a_rank_is_there(listeners, pool):
    coming = pool.submit(meet_ranks, listeners[0], limit=3600.0, between=0.2)
    with (
        call_driver(listeners[0], 1),
        pytest.raises(
            PeerLost, match=r"^the driver waited 0\.2 s for rank 0: it did not call$"
        ),
    ):
        coming.result(LIMIT)


# ---- Ranks of one host -----------------------------------------------------------


def named(rank):
    return Listener(HOST, name=local_name(RUN, GENERATION, rank))


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux has names without files"
)
@pytest.mark.parametrize("gone", [False, True], ids=["there", "gone"])
def test_ranks_of_one_host_talk_without_tcp_where_they_can(pool, gone):
    listeners = [named(rank) for rank in (0, 1, 2)]
    if gone:  # as in another container, whose names are others
        listeners[0].local.close()
        listeners[0].local = None

    def met(rank):
        hello = Hello(RUN, GENERATION, rank, PRINT)
        addresses = addresses_of(listeners)
        return rendezvous.Rendezvous(
            listeners[rank], addresses, SECRET, hello, LIMIT
        ).run()

    sockets = [
        coming.result(LIMIT) for coming in [pool.submit(met, k) for k in (0, 1, 2)]
    ]
    tcp, unix = socket.AF_INET, socket.AF_UNIX
    first = tcp if gone else unix
    assert {peer: sock.family for peer, sock in sockets[0].items()} == dict.fromkeys(
        (1, 2), first
    )
    assert {peer: sock.family for peer, sock in sockets[1].items()} == {
        0: first,
        2: unix,
    }
    sockets[1][2].sendall(b"to 2")
    sockets[2][1].setblocking(True)
    assert sockets[2][1].recv(4) == b"to 2"
    for sock in [*listeners, *(sock for met in sockets for sock in met.values())]:
        sock.close()


# ---- Ranks that are missing, gone, or different ----------------------------------


def test_missing_ranks_are_named(listeners):
    def meet(rank):
        return connect(
            listeners[rank],
            rank,
            (0, 1, 2),
            addresses_of(listeners),
            secret=SECRET,
            limit=3.0,
        )

    zero, two = in_threads([lambda: meet(0), lambda: meet(2)])
    where = name(listeners[1].address)
    for rank, error, trouble in (
        (0, zero, "it did not call"),
        (2, two, "it does not answer"),
    ):
        assert isinstance(error, PeerLost)
        pattern = rf"rank {rank} waited 3 s for rank 1 at {where}: {trouble}"
        assert re.fullmatch(pattern, str(error))


def test_all_missing_ranks_are_named(listeners):
    with pytest.raises(PeerLost, match=r"for rank 1 at .*; rank 2 at "):
        connect(
            listeners[0],
            0,
            (0, 1, 2),
            addresses_of(listeners),
            secret=SECRET,
            limit=0.05,
        )


def test_a_rank_whose_listener_is_gone_is_not_waited_for(listeners):
    listeners[0].close()
    match = f"rank 0 at {name(listeners[0].address)} is gone"
    with pytest.raises(PeerLost, match=match):
        connect(listeners[1], 1, (0, 1), addresses_of(listeners[:2]), secret=SECRET)


def test_ranks_that_differ_are_told_so(listeners):
    def meet(rank, **changes):
        return connect(
            listeners[rank],
            rank,
            (0, 1),
            addresses_of(listeners[:2]),
            secret=SECRET,
            **changes,
        )

    zero, one = in_threads(
        [lambda: meet(0, limit=5.0), lambda: meet(1, fingerprint=bytes(32))]
    )
    assert isinstance(zero, PeerLost)
    assert isinstance(one, Refused)
    assert str(one).startswith("rank 0 at ")
    for error in (zero, one):
        assert "same versions of skmlp and numpy" in str(error)


def test_an_address_that_belongs_to_somebody_else_is_refused(listeners, pool):
    def impostor():
        expected = Expected(RUN, GENERATION, PRINT, range(9))
        listeners[0].socket.settimeout(LIMIT)
        sock, _ = listeners[0].socket.accept()
        with sock, contextlib.suppress(PeerLost):
            accept_hello(sock, Secret.new(), expected, LIMIT)

    done = pool.submit(impostor)
    with pytest.raises(Refused, match="does not know the secret"):
        connect(listeners[1], 1, (0, 1), addresses_of(listeners[:2]), secret=SECRET)
    done.result(LIMIT)


def test_a_rank_that_dials_again_replaces_its_first_connection(listeners, pool):
    zero = pool.submit(
        connect,
        listeners[0],
        0,
        (0, 1, 2),
        addresses_of(listeners),
        secret=SECRET,
        generation=GENERATION,
    )
    with contextlib.ExitStack() as stack:
        socks = []
        for rank in (1, 1, 2):
            sock = stack.enter_context(dial(listeners[0].address))
            send_hello(sock, SECRET, Hello(RUN, GENERATION, rank, PRINT), LIMIT)
            socks.append(sock)
        read_to_the_end(socks[0])
        with contextlib.closing(zero.result(LIMIT)) as comm:
            links = comm._mesh.connections
            peers = {rank: links[rank].sock.getpeername() for rank in links}
        assert peers == {1: socks[1].getsockname(), 2: socks[2].getsockname()}


# ---- Generations -------------------------------------------------------------------


def test_one_listener_serves_all_generations(listeners):
    for generation in range(3):

        def meet(rank, generation=generation):
            return connect(
                listeners[rank],
                rank,
                (0, 1, 2),
                addresses_of(listeners),
                secret=SECRET,
                generation=generation,
            )

        comms = good(in_threads([lambda r=r: meet(r) for r in range(3)]))
        good(run(comms, lambda c: laws.steps(c, np.float64, 97)))
        for comm in comms:
            comm.close()


def test_who_comes_to_a_generation_first_waits_for_the_others(listeners, pool):
    def meet(rank, generation, limit=LIMIT):
        return connect(
            listeners[rank],
            rank,
            (0, 1),
            addresses_of(listeners[:2]),
            secret=SECRET,
            generation=generation,
            limit=limit,
        )

    one = pool.submit(meet, 1, 4)
    with pytest.raises(PeerLost):
        meet(0, 3, limit=0.2)
    comms = [meet(0, 4), one.result(LIMIT)]
    for comm in comms:
        comm.close()


def test_who_comes_late_from_a_past_generation_is_refused(listeners, pool):
    def meet(rank, generation):
        return connect(
            listeners[rank],
            rank,
            (0, 1),
            addresses_of(listeners[:2]),
            secret=SECRET,
            generation=generation,
        )

    zero = pool.submit(meet, 0, 4)
    with pytest.raises(Refused, match="generation is over"):
        meet(1, 3)
    meet(1, 4).close()
    zero.result(LIMIT).close()


def test_an_abort_wakes_a_meeting_and_all_earlier_ones_but_no_later_one(
    listeners, pool
):
    def meet(rank, generation):
        return connect(
            listeners[rank],
            rank,
            (0, 1),
            addresses_of(listeners[:2]),
            secret=SECRET,
            generation=generation,
        )

    zero = pool.submit(meet, 0, 3)
    with dial(listeners[0].address) as sock:
        sock.sendall(b"skmlp\0\0\1" + bytes(32))
        assert sock.recv(1)  # the meeting is under way
        listeners[0].abort("the client has gone", 3)
        with pytest.raises(Aborted, match="the client has gone"):
            zero.result(LIMIT)
    with pytest.raises(Aborted, match="the client has gone"):
        meet(0, 2)
    comms = good(in_threads([lambda: meet(0, 4), lambda: meet(1, 4)]))
    for comm in comms:
        comm.close()


# ---- TLS ---------------------------------------------------------------------------


def test_a_certificate_of_another_cluster_is_refused(listeners, tmp_path):
    folders = [tmp_path / "ours", tmp_path / "theirs"]
    for folder in folders:
        folder.mkdir()
    contexts = [make_contexts(folder) for folder in folders]

    def meet(rank, limit):
        return connect(
            listeners[rank],
            rank,
            (0, 1),
            addresses_of(listeners[:2]),
            secret=SECRET,
            ssl_contexts=contexts[rank],
            limit=limit,
        )

    zero, one = in_threads([lambda: meet(0, 5.0), lambda: meet(1, LIMIT)])
    assert isinstance(zero, PeerLost)
    assert isinstance(one, Refused)
    assert "certificate" in str(one)


# ---- What is left behind -----------------------------------------------------------


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="can't count descriptors")
def test_no_descriptor_is_left(tmp_path):
    contexts = make_contexts(tmp_path)

    def everything():
        for settings in ({}, {"ssl_contexts": contexts}):
            with socket_gang((0, 1, 2), **settings) as comms:
                good(run(comms, lambda c: laws.steps(c, np.float64, 97)))
        listener = Listener(HOST)
        socks = [dial(listener.address) for _ in range(5)]
        with pytest.raises(PeerLost):
            connect(
                listener, 0, (0, 1), [listener.address] * 2, secret=SECRET, limit=0.05
            )
        for sock in socks:
            sock.close()
        listener.close()
        listener.close()

    everything()  # what is opened once for good is open now
    before = sorted(os.listdir("/dev/fd"))
    everything()
    assert sorted(os.listdir("/dev/fd")) == before


def test_sockets_and_addresses_must_fit_the_shards(listeners):
    with pytest.raises(ValueError, match="socket to each other rank"):
        SocketCommunicator(0, Shards((0, 1)), {}, step_limit=LIMIT)
    with pytest.raises(ValueError, match="2 ranks need as many addresses"):
        connect(listeners[0], 0, (0, 1), addresses_of(listeners), secret=SECRET)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_ranks_meet_over_ipv4_and_ipv6(host):
    try:
        listeners = [Listener(host) for _ in range(2)]
    except OSError as error:
        pytest.skip(f"this machine has no {host}: {error}")
    comms = good(
        in_threads(
            [
                lambda r=r: connect(
                    listeners[r], r, (0, 1), addresses_of(listeners), secret=SECRET
                )
                for r in range(2)
            ]
        )
    )
    good(run(comms, lambda c: laws.steps(c, np.float64, 97)))
    for closing in (*comms, *listeners):
        closing.close()


# ---- Where a rank listens ----------------------------------------------------------


def test_a_host_that_does_not_know_its_own_address_listens_everywhere():
    """As in a container, whose address outside is the router's."""
    outside = "203.0.113.1"  # reserved for documentation: of no host at all
    with contextlib.closing(Listener(outside)) as listener:
        host, port = listener.address
        assert host == outside
        dial((HOST, port)).close()


def test_the_first_free_port_is_taken():
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(contextlib.closing(Listener(HOST)))
        port = first.address[1]
        other = stack.enter_context(contextlib.closing(Listener(HOST)))
        free = other.address[1]
        other.close()
        second = stack.enter_context(contextlib.closing(Listener(HOST, (port, free))))
        assert second.address == (HOST, free)
        with pytest.raises(OSError, match=f"no port from {port} to {free} of {HOST}"):
            Listener(HOST, (port, free))


def test_a_host_that_does_not_answer_is_given_up(listeners, monkeypatch):
    monkeypatch.setattr(rendezvous, "CONNECT_LIMIT_S", 0.2)
    with contextlib.ExitStack() as stack:
        # A listener whose queue is full: the system does not answer.
        sock = stack.enter_context(socket.socket())
        sock.bind((HOST, 0))
        sock.listen(0)
        for _ in range(4):  # some systems take more than one
            caller = stack.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(sock.getsockname())
        where = [sock.getsockname(), listeners[1].address]
        match = f"rank 0 at {name(where[0])} is gone, or can't be reached from rank 1"
        with pytest.raises(rendezvous.Unreachable, match=match):
            connect(listeners[1], 1, (0, 1), where, secret=SECRET)


def test_a_rank_that_is_late_is_waited_for(listeners, pool, monkeypatch):
    monkeypatch.setattr(rendezvous, "CONNECT_LIMIT_S", 1.0)

    def meet(rank, limit=LIMIT):
        addresses = addresses_of(listeners[:2])
        return connect(
            listeners[rank], rank, (0, 1), addresses, secret=SECRET, limit=limit
        )

    # Its system has accepted the connection: the rank may take its time.
    with pytest.raises(PeerLost, match="waited 2 s"):
        meet(1, 2.0)
    one = pool.submit(meet, 1)
    for comm in (meet(0), one.result(LIMIT)):
        comm.close()
