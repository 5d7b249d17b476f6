"""Hosts on this one: network namespaces that `benchmarks.switch` joins. Needs root."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks._as_module import clean_environment
from benchmarks.switch import PREFIX

#: Seconds for the switch to answer, and for a process to end before it is killed.
LIMIT = 20.0
MBIT = 1e6 / 8
#: A host's device, with its number.
DEVICE = "skmlp-net"
#: What a link may send at once, in seconds at its rate, and at least in bytes.
BURST_S, LEAST_BURST = 0.002, 65_536


class Hosts:
    """Some hosts, from 1, each with a link of its own; a context that leaves nothing.

    Parameters
    ----------
    count : int
        How many.
    mbit : float
        Rate of each link, in megabits a second.
    latency : float
        From one host to another, one way, in milliseconds.
    """

    def __init__(self, count: int, mbit: float = 1000, latency: float = 0.1) -> None:
        if not Path("/dev/net/tun").exists() or os.geteuid():
            raise SystemExit(
                "this command makes network namespaces and devices: it needs root, and "
                "Linux with /dev/net/tun"
            )
        self.numbers = range(1, count + 1)
        self._name = f"skmlp{os.getpid()}"
        self._stack = contextlib.ExitStack()
        try:
            self._make(mbit, latency)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Hosts:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def _make(self, mbit: float, latency: float) -> None:
        for number in self.numbers:
            name = self.namespace(number)
            ip("netns", "add", name)
            self._stack.callback(ip, "netns", "del", name)
        self._switch = subprocess.Popen(
            [
                *(sys.executable, "-m", "benchmarks.switch"),
                *(str(len(self.numbers)), DEVICE),
            ],
            env=clean_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._stack.callback(end, self._switch)
        self._answer()
        for number in self.numbers:
            name, device = self.namespace(number), f"{DEVICE}{number}"
            inside = ("-n", name)
            ip("link", "set", device, "netns", name)
            ip(*inside, "addr", "add", f"{address(number)}/24", "dev", device)
            ip(*inside, "link", "set", "lo", "up")
            ip(*inside, "link", "set", device, "up")
            # For whoever asks which address leads to the world, as Dask does.
            ip(*inside, "route", "add", "default", "dev", device)
            self.set(number, mbit=mbit, latency=latency)

    def namespace(self, number: int) -> str:
        """Name of the network namespace of a host."""
        return f"{self._name}-{number}"

    def set(self, number: int, **what: Any) -> None:
        """Set ``mbit``, ``latency`` (ms) or ``cut`` of a host's link.

        Packets wait for a slow link in the kernel's queue, as with a real device: TCP
        sees how many wait there, and not in a device of this kind. Acknowledgements
        would stand behind megabytes.
        """
        if "mbit" in what:
            rate = MBIT * what.pop("mbit")
            what["rate"] = rate
            burst = max(int(BURST_S * rate), LEAST_BURST)
            where = f"-n {self.namespace(number)} qdisc replace dev {DEVICE}{number}"
            queue = f"root tbf rate {rate:.0f}bps burst {burst} latency 500ms"
            call("tc", *where.split(), *queue.split())
        if "latency" in what:
            what["latency"] *= 1e-3
        self.tell(link=number, **what)

    def tell(self, **order: Any) -> dict[str, Any]:
        """Give the switch an order; see `benchmarks.switch.Switch.order`."""
        assert self._switch.stdin is not None
        self._switch.stdin.write(json.dumps(order).encode() + b"\n")
        self._switch.stdin.flush()
        return self._answer()

    def counted(self) -> dict[str, Any]:
        """What passed since the last call, and count anew."""
        return self.tell(counted=True)

    def _answer(self) -> dict[str, Any]:
        pipe = self._switch.stdout
        assert pipe is not None
        if not select.select([pipe], [], [], LIMIT)[0]:
            raise RuntimeError(f"the switch did not answer within {LIMIT:g} s")
        line = pipe.readline()
        if not line:
            raise RuntimeError("the switch has ended")
        told: dict[str, Any] = json.loads(line)
        return told

    def on(self, number: int) -> list[str]:
        """The beginning of a command that runs on a host."""
        return ["ip", "netns", "exec", self.namespace(number)]

    def start(
        self,
        number: int,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        log: Any = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        """Start a command on a host, which ends with the hosts."""
        process = subprocess.Popen(
            [*self.on(number), *command],
            env=clean_environment() | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        self._stack.callback(end, process)
        return process


def address(number: int) -> str:
    """The address of a host."""
    return f"{PREFIX}{number}"


def ip(*arguments: str) -> None:
    """Call the command of this name."""
    call("ip", *arguments)


def call(*command: str) -> None:
    """Run a command that ends soon."""
    subprocess.run(command, check=True, timeout=LIMIT)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process: by the end of its input, by SIGTERM, by SIGKILL."""
    if process.stdin is not None:
        process.stdin.close()
    else:
        process.terminate()
    try:
        process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(LIMIT)
    if process.stdout is not None:
        process.stdout.close()
