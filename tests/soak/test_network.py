"""Hosts of their own on this machine: what a network and a host can do to a fit.

Needs root: it makes network namespaces. ``pytest -m soak -s tests/soak``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT_S = 900

pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        not Path("/dev/net/tun").exists() or os.geteuid() != 0,
        reason="only root makes network namespaces, and Linux has them",
    ),
]


def run(folder: Path, *options: str) -> list[dict]:
    """What the command measured; it leaves no network behind."""
    before = networks()
    raw = folder / "raw.json"
    command = [sys.executable, "benchmarks/network.py", *options, "--json", str(raw)]
    subprocess.run(
        [*command, "--shapes", "784-100-10", "--dtypes", "float32"],
        cwd=ROOT,
        check=True,
        timeout=LIMIT_S,
    )
    assert networks() == before
    return json.loads(raw.read_text(encoding="utf-8"))["measurements"]


def networks() -> list[str]:
    return [
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for command in (["ip", "netns", "list"], ["ip", "-brief", "link"])
    ]


def test_the_bits_do_not_depend_on_the_network_and_the_bytes_are_the_least(tmp_path):
    options = ("--quick", "--mbit", "1000,100", "--latency", "0.1,10")
    found = run(tmp_path, "--workers", "2,3", *options)
    assert len(found) == 8
    for workers in (2, 3):
        own = [one for one in found if one["workers"] == workers]
        assert len({run["bits"] for one in own for run in one["gang"]}) == 1
    for one in found:
        # In a short fit, the moments of a round are a part of it.
        assert 1 <= one["bytes"] / one["formula"] < 1.1
        assert all(run["restarts"] == [] for run in one["gang"])


def test_a_host_may_be_slow_or_cut_off(tmp_path):
    options = ("--workers", "2", "--mbit", "100", "--latency", "1")
    for one in run(tmp_path, "--faults", *options):
        print(one["fault"], one["fit"], one["restarts"])
        assert one["bits"] == one["calm"]["bits"]
        assert len(one["restarts"]) <= (one["fault"] == "cut off for 90 s")
        assert one["fit"] < one["limit"]
