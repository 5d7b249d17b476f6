"""A model of the time of a step, from measurements of `benchmarks/network.py`.

``python benchmarks/network.py --json measured.json``, then
``python benchmarks/cost.py measured.json``: the constants come from every second
setting, the others are predicted.

The time of a step of n workers on a network of latency L (s) and rate B (bytes/s), with
S bytes of weights and a minibatch that one worker computes in C seconds::

    (C + 2 n m a + 2 S (n - 1) b) / min(n, cores) + 2 s L + 2 S (n - 1) / (n B) r

m messages are sent by a worker in each of the two halves of a step, one after the other
in s stages: ``m = n - 1`` and ``s = 1`` where each talks to all others, and ``m = s =
ceil(log2(n))`` with many workers. a and b are the work of a core for a message and for
a byte, at both of their ends; r is by how much the bytes of TCP take longer than those
of the numbers. `cores` are those that all workers share: infinitely many where each has
its own; then the time of the slowest counts, `waiting`.
"""

from __future__ import annotations

if __name__ == "__main__" and not __package__:
    from _as_module import start_again

    start_again(__file__)

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from benchmarks.cases import Shape
from skmlp.comm.ordered_sum import is_tree

MBIT = 1e6 / 8


def stages(n: int) -> int:
    """Messages of a worker in a tree that follow each other in half a step."""
    return math.ceil(math.log2(n)) if is_tree(n) else min(1, n - 1)


def messages(n: int) -> int:
    """Those that a worker sends in half a step."""
    return stages(n) if is_tree(n) else n - 1


def of_bytes(size: float, n: int, mbit: float) -> float:
    """Seconds of a step that its bytes take at the full rate of the links."""
    return 2 * size * (n - 1) / n / (MBIT * mbit)


def of_latency(n: int, latency: float) -> float:
    """Seconds of a step that its latencies take, each in ms."""
    return 2 * stages(n) * 1e-3 * latency


def work(size: float, n: int, cores: float) -> tuple[float, float, float]:
    """What C, a and b are multiplied by, in the time of a step."""
    shared = min(n, cores)
    return 1 / shared, 2 * n * messages(n) / shared, 2 * size * (n - 1) / shared


def waiting(n: int, spread: float) -> float:
    """By how much the slowest of n is later, in parts of the time that they compute.

    About the expected largest of n normal numbers of that standard deviation.
    """
    return spread * math.sqrt(2 * math.log(n))


def measured(path: Path) -> tuple[int, list[dict[str, Any]]]:
    """The cores, and the settings with the seconds of a step."""
    told = json.loads(path.read_text(encoding="utf-8"))
    settings = [
        one
        | {
            "shape": str(Shape(**one["shape"])),
            "step": statistics.median(r["epoch"] for r in one["gang"]) / one["steps"],
        }
        for one in told["measurements"]
    ]
    return told["cores"], settings


def fitted(settings: list[dict[str, Any]], cores: int) -> dict[Any, float]:
    """The constants: a, b, r, and C of each shape and dtype. Relative errors count."""
    kinds = sorted({(s["shape"], s["dtype"]) for s in settings})
    rows, values = [], []
    for s in settings:
        c, a, b = work(s["size"], s["workers"], cores)
        rate = of_bytes(s["size"], s["workers"], s["mbit"])
        own = (c * (kind == (s["shape"], s["dtype"])) for kind in kinds)
        rows.append(np.array([a, b, rate, *own]) / s["step"])
        values.append(1 - of_latency(s["workers"], s["latency"]) / s["step"])
    table = np.array(rows)
    scale = table.max(axis=0)
    found = nnls(table / scale, np.array(values))[0] / scale
    return dict(zip(["a", "b", "r", *kinds], map(float, found), strict=True))


def predicted(
    setting: dict[str, Any], constants: dict[Any, float], cores: int
) -> float:
    """Seconds of a step."""
    size, n = setting["size"], setting["workers"]
    c, a, b = work(size, n, cores)
    own = constants[setting["shape"], setting["dtype"]]
    return (
        c * own
        + a * constants["a"]
        + b * constants["b"]
        + of_bytes(size, n, setting["mbit"]) * constants["r"]
        + of_latency(n, setting["latency"])
    )


def main() -> None:
    """Fit, predict and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("measured", type=Path, help="what network.py --json wrote")
    cores, settings = measured(parser.parse_args().measured)
    half, others = settings[::2], settings[1::2]
    constants = fitted(half, cores)
    print(
        f"A message takes {1e6 * constants['a']:.1f} us of a core, a megabyte "
        f"{1e9 * constants['b']:.2f} ms; bytes take {constants['r']:.2f} times what "
        "the links promise.\n"
    )
    print("| shape | dtype | workers | Mbit/s | ms | measured | predicted | error |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    errors = []
    for s in others:
        told = predicted(s, constants, cores)
        errors.append(told / s["step"] - 1)
        print(
            f"| {s['shape']} | {s['dtype']} | {s['workers']} | {s['mbit']:g} | "
            f"{s['latency']:g} | {1e3 * s['step']:.2f} | {1e3 * told:.2f} | "
            f"{errors[-1]:+.0%} |"
        )
    within = sum(abs(e) <= 0.2 for e in errors)
    sizes = [abs(e) for e in errors]
    print(
        f"\n{within} of {len(errors)} within 20 %; median error "
        f"{statistics.median(sizes):.0%}, largest {max(sizes):.0%}."
    )


if __name__ == "__main__":
    main()
