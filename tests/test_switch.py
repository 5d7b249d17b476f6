"""The network of the benchmarks, without devices: what is late, dropped and counted."""

from __future__ import annotations

import os
import struct

import pytest

from benchmarks.switch import QUEUE_BYTES, TCP, VNET_BYTES, Link, Switch

RATE = 1e6
LATENCY = 0.010
IP_BYTES, TCP_BYTES = 20, 32


def packet(target, payload, port=40000):
    """A packet of TCP, as a device hands it over."""
    size = IP_BYTES + TCP_BYTES + payload
    ip = struct.pack("!BBHIBBHI4B", 0x45, 0, size, 0, 64, TCP, 0, 0, 10, 77, 0, target)
    tcp = struct.pack("!HHIIB", 50000, port, 0, 0, TCP_BYTES // 4 << 4)
    body = ip + tcp.ljust(TCP_BYTES, b"\0") + bytes(payload)
    return bytes(VNET_BYTES) + body


@pytest.fixture
def net():
    """Three hosts, and what each is handed."""
    pipes = {k: os.pipe() for k in (1, 2, 3)}
    for reading, _ in pipes.values():
        os.set_blocking(reading, False)
    switch = Switch({k: Link(w, RATE, LATENCY) for k, (_, w) in pipes.items()})

    def arrived(host, now):
        switch.deliver(now)
        try:
            return len(os.read(pipes[host][0], 1 << 20)) - VNET_BYTES
        except BlockingIOError:
            return 0

    switch.arrived = arrived
    yield switch
    for pipe in pipes.values():
        for descriptor in pipe:
            os.close(descriptor)


def test_a_packet_takes_the_latency_and_the_time_of_its_bytes(net):
    net.take(1, packet(2, 948), now=5.0)
    assert net.deliver(5.0) == pytest.approx(LATENCY + 1000 / RATE)
    assert net.arrived(2, 5.0 + LATENCY) == 0
    assert net.arrived(2, 5.0 + LATENCY + 1001 / RATE) == 1000
    assert net.arrived(1, 6.0) == net.arrived(3, 6.0) == 0


def test_packets_of_one_host_and_to_one_host_queue(net):
    net.take(1, packet(2, 948), now=0.0)
    net.take(1, packet(3, 948), now=0.0)
    net.take(2, packet(3, 948), now=0.0)
    whens = sorted(when for when, *_ in net.under_way)
    assert whens == pytest.approx([LATENCY + k * 1000 / RATE for k in (1, 2, 3)])


def test_the_slower_link_sets_the_pace(net):
    net.order({"link": 1, "rate": RATE / 10})
    net.take(1, packet(2, 948), now=0.0)
    assert net.deliver(0.0) == pytest.approx(LATENCY + 10 * 1000 / RATE)


def test_a_link_that_is_cut_hands_over_nothing(net):
    net.take(1, packet(2, 948), now=0.0)
    net.order({"link": 2, "cut": True})
    net.take(2, packet(1, 948), now=0.0)
    assert net.arrived(2, 1.0) == net.arrived(1, 1.0) == 0
    net.order({"link": 2, "cut": False})
    net.take(1, packet(2, 948), now=2.0)
    assert net.arrived(2, 3.0) == 1000
    assert net.dropped == 1


def test_more_than_a_queue_is_dropped(net):
    big = packet(3, 60_000)
    net.order({"link": 1, "rate": 1e3 * RATE})
    net.order({"link": 2, "rate": 1e3 * RATE})
    for k in range(60):
        net.take(1 + k % 2, big, now=0.0)
    waiting = sum(len(p) for *_, p in net.under_way)
    assert QUEUE_BYTES / 2 < waiting <= QUEUE_BYTES + 2 * len(big) + LATENCY * RATE
    assert net.dropped == 60 - len(net.under_way)


def test_payload_of_some_ports_is_counted(net):
    assert net.order({"ports": [40000, 40100]})["counted"] == {}
    net.take(1, packet(2, 700), now=0.0)
    net.take(1, packet(2, 20, port=40100), now=0.0)
    net.take(1, packet(3, 7, port=8786), now=0.0)
    net.take(2, packet(1, 0), now=0.0)
    assert net.order({"counted": True})["counted"] == {"1-2": 720, "2-1": 0}
    assert net.order({"counted": True})["counted"] == {}


def test_what_is_for_nobody_goes_nowhere(net):
    net.take(1, packet(9, 10), now=0.0)
    net.take(1, bytes(VNET_BYTES) + b"\x60" + bytes(60), now=0.0)
    assert net.under_way == []
