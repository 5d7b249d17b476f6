"""A network of hosts in one process: a switch with links of a given rate and latency.

Linux has ``netem`` for this, which many kernels lack. Each host is a TUN device; this
process reads what a host sends, waits as long as a link would take, and writes it to
the device of the host that it is for. It is a program of its own:
``python -m benchmarks.switch 3 NAME`` makes the devices NAME1 to NAME3, prints a line
of JSON when they are there, and then answers each line of its input with one of JSON.

Packets of up to 64 KB pass as one (the kernel's segmentation offload), so that a
gigabit takes a part of one core. A link sends one packet after the other, in the time
that its bytes take; what leaves one link begins to enter the next one at once, as if
the packets were small.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import json
import os
import select
import struct
import sys
import time
from dataclasses import dataclass, field
from typing import Any

#: Host k has the address PREFIX + str(k).
PREFIX = "10.77.0."
#: From linux/if_tun.h.
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
CHECKSUMS, SEGMENTS = 0x01, 0x02
#: The kernel's header (of offloads) before each packet.
VNET_BYTES = 10
PACKET_BYTES = 65_536 + VNET_BYTES
#: What may wait to enter a host, as in a switch; more is dropped. What waits to leave
#: one waits in that host.
QUEUE_BYTES = 1_000_000
#: A host may be so far ahead of its link, in seconds.
AHEAD_S = 0.002
#: Packets that are read at once from one host.
AT_ONCE = 16
TCP = 6


@dataclass
class Link:
    """The cable of a host; it is as fast in both directions.

    `rate` is in bytes a second, `latency` in seconds from here to any other host.
    """

    device: int
    rate: float = 1e12
    latency: float = 0.0
    cut: bool = False
    #: When the last packet has left the host, and when it has entered it.
    sent: float = 0.0
    received: float = 0.0


@dataclass
class Switch:
    """The links, by the number of the host, and what is under way."""

    links: dict[int, Link]
    #: TCP's ports whose bytes are counted.
    ports: range = range(0)
    #: Bytes of TCP's payload by sender and receiver, "1-2".
    counted: dict[str, int] = field(default_factory=dict)
    dropped: int = 0
    under_way: list[tuple[float, int, int, bytes]] = field(default_factory=list)
    _number: int = 0

    def take(self, source: int, packet: bytes, now: float) -> None:
        """Take a packet that a host sends."""
        ip = packet[VNET_BYTES:]
        if ip[:1] != b"\x45" and (not ip or ip[0] >> 4 != 4):
            return  # IPv6's search for neighbours
        target = ip[19] if ip[16:19] == bytes(map(int, PREFIX.split(".")[:3])) else 0
        if target not in self.links:
            return
        out, into = self.links[source], self.links[target]
        if out.cut or into.cut:
            self.dropped += 1
            return
        out.sent = max(now, out.sent) + len(ip) / out.rate
        arrives = out.sent - len(ip) / out.rate + out.latency
        if (into.received - arrives) * into.rate > QUEUE_BYTES:
            self.dropped += 1
            return
        # No faster than the slower one of the two.
        slower = min(into.rate, out.rate)
        into.received = max(
            max(arrives, into.received) + len(ip) / into.rate,
            arrives + len(ip) / slower,
        )
        self._count(source, target, ip)
        self._number += 1
        heapq.heappush(self.under_way, (into.received, self._number, target, packet))

    def _count(self, source: int, target: int, ip: bytes) -> None:
        if ip[9] != TCP or not self.ports:
            return
        header = 4 * (ip[0] & 15)
        ports = struct.unpack_from("!HH", ip, header)
        if not any(port in self.ports for port in ports):
            return
        length = struct.unpack_from("!H", ip, 2)[0]
        payload = length - header - 4 * (ip[header + 12] >> 4)
        name = f"{source}-{target}"
        self.counted[name] = self.counted.get(name, 0) + payload

    def deliver(self, now: float) -> float:
        """Hand over what is due; return the seconds until the next packet is."""
        while self.under_way:
            when, _, target, packet = self.under_way[0]
            if when > now:
                return when - now
            heapq.heappop(self.under_way)
            if not self.links[target].cut:
                # A full device drops, as a host does that does not keep up.
                with contextlib.suppress(BlockingIOError):
                    os.write(self.links[target].device, packet)
        return 3600.0

    def order(self, what: dict[str, Any]) -> dict[str, Any]:
        """Change links, or tell what was counted.

        ``{"link": 2, "rate": ...}`` sets attributes of a link, ``{"ports": [a, b]}``
        begins to count, ``{"counted": true}`` tells and begins anew.
        """
        if "link" in what:
            link = self.links[what.pop("link")]
            for name, value in what.items():
                assert name in ("rate", "latency", "cut"), name
                setattr(link, name, value)
        if "ports" in what:
            self.ports = range(what["ports"][0], what["ports"][1] + 1)
        told = {"counted": self.counted, "dropped": self.dropped}
        if what.get("counted"):
            self.counted, self.dropped = {}, 0
        return told


def device(name: str) -> int:
    """Make a TUN device; it lives as long as the descriptor."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    fcntl.ioctl(descriptor, TUNSETOFFLOAD, CHECKSUMS | SEGMENTS)
    return descriptor


def run(switch: Switch) -> None:
    """Switch until the input ends."""
    orders = b""
    hosts = {link.device: number for number, link in switch.links.items()}
    while True:
        wait = switch.deliver(time.monotonic())
        now = time.monotonic()
        # A host that is ahead of its link keeps what it has.
        ahead = [link.sent - now - AHEAD_S for link in switch.links.values()]
        listened = [
            descriptor
            for descriptor, number in hosts.items()
            if switch.links[number].sent <= now + AHEAD_S
        ]
        wait = min([wait, *(late for late in ahead if late > 0)])
        for descriptor in select.select([0, *listened], [], [], wait)[0]:
            if descriptor:
                with contextlib.suppress(BlockingIOError):
                    for _ in range(AT_ONCE):
                        packet = os.read(descriptor, PACKET_BYTES)
                        switch.take(hosts[descriptor], packet, time.monotonic())
                continue
            read = os.read(0, 65536)
            if not read:
                return
            *lines, orders = (orders + read).split(b"\n")
            for line in lines:
                print(json.dumps(switch.order(json.loads(line))), flush=True)


def main() -> None:
    """Make the devices, tell so, and switch."""
    n_hosts, name = int(sys.argv[1]), sys.argv[2]
    links = {k: Link(device(f"{name}{k}")) for k in range(1, n_hosts + 1)}
    # Before whoever trains on the same cores: a packet must not wait for them.
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    print(json.dumps({"ready": n_hosts}), flush=True)
    run(Switch(links))


if __name__ == "__main__":
    main()
