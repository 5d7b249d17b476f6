"""Ranks on one host, in steady state: ``ranks.py``, and ``ranks.py --rule``.

Against one rank with one BLAS thread: one process with as many BLAS threads as there
are ranks; ranks as loky's processes and as Dask's workers; torch's
DistributedDataParallel over gloo. The ceiling is what the machine has to give: fits of
the ranks' size, side by side and independent, in processes.

With ``--rule``, skmlp decides how many ranks it takes: never slower than n_jobs=1?
"""

from __future__ import annotations

if __name__ == "__main__" and not __package__:
    from _as_module import start_again

    start_again(__file__)

import contextlib
import dataclasses
import itertools
import os
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from benchmarks import cases
from benchmarks.cases import Shape
from benchmarks.child import Child
from benchmarks.common import (
    Report,
    add_dtypes,
    figure,
    geometric_mean,
    installed,
    median_of,
    parsed,
    parser,
    ratio,
    rounds,
)

SKMLP = "benchmarks.contestants:Skmlp"
TORCH = "benchmarks.with_torch:TorchRank"

#: Those that are to gain from two ranks.
WIDE = "784-256-256-10,512-1024-1024-10"


Start = Callable[[], Any]


class Group:
    """Children that work at the same time; the slowest counts."""

    def __init__(self, members: list[Child], parts: int) -> None:
        self._members = members
        self._parts = parts

    def call(self, method: str, *arguments: Any) -> Any:
        """Let all do it, each with its part of the rows if they are independent."""
        if method == "prepare" and self._parts > 1:
            arguments = (part_of(arguments[0], self._parts), *arguments[1:])
        for member in self._members:
            member.send(method, *arguments)
        results = [member.receive(method) for member in self._members]
        if method == "prepare":
            return None
        return {key: max(r[key] for r in results) for key in results[0]}


def part_of(shape: dict[str, Any], parts: int) -> dict[str, Any]:
    """What a rank has to do of it."""
    return dataclasses.asdict(Shape(**shape).smaller(parts))


def contestants(n_ranks: int, stack: contextlib.ExitStack) -> dict[str, Start]:
    """How to start everybody, in the order of the columns."""

    def child(*target: Any, **more: Any) -> Child:
        return stack.enter_context(Child(*target, **more))

    def apart() -> Group:
        return Group([child(SKMLP, blas_threads=1) for _ in range(n_ranks)], n_ranks)

    def ddp() -> Group:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        loopback = {"GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo")}
        meeting = os.path.join(folder, "meeting")
        ranks = [
            child(TORCH, rank, n_ranks, meeting, blas_threads=1, environment=loopback)
            for rank in range(n_ranks)
        ]
        return Group(ranks, 1)

    return {
        "1 rank, 1 BLAS thread": partial(child, SKMLP, blas_threads=1),
        f"1 process, {n_ranks} BLAS threads": partial(
            child, SKMLP, blas_threads=n_ranks
        ),
        "loky": partial(child, SKMLP, "loky", n_ranks),
        "Dask": partial(child, SKMLP, "dask", n_ranks),
        "ceiling": apart,
    } | ({"torch DDP": ddp} if installed("torch") else {})


def rule(n_ranks: int, stack: contextlib.ExitStack) -> dict[str, Start]:
    """skmlp as users call it."""
    calls: dict[str, tuple[Any, ...]] = {
        "n_jobs=1": ("process",),
        f"loky, n_jobs={n_ranks}": ("loky", n_ranks, "auto"),
        "Dask, n_jobs=-1": ("dask", -1, "auto"),
    }

    def child(arguments: tuple[Any, ...]) -> Child:
        return stack.enter_context(Child(SKMLP, *arguments))

    return {name: partial(child, arguments) for name, arguments in calls.items()}


def measure(
    who: Mapping[str, Any], shape: Shape, dtype: str, repeats: int
) -> dict[str, list[dict[str, float]]]:
    """All rounds of one shape, with a few more epochs for the median."""
    for contestant in who.values():
        contestant.call("prepare", dataclasses.asdict(shape), dtype)
    return rounds(who, repeats, "run", shape.epochs + 2)


def tables(
    report: Report, results: Mapping[tuple[str, str], Any], *, with_shards: bool
) -> None:
    """Times, and what each gains against the first column."""
    first, *others = next(iter(results.values()))
    times, gains = [], []
    for case, found in results.items():
        cells = []
        for runs in found.values():
            cell = figure(1e3 * median_of(runs, "epoch"))
            shards = f" ({runs[0].get('shards', 1):g})" if with_shards else ""
            cells.append(cell + shards)
        times.append([*case, *cells])
        gains.append([_gain(found, first, name) for name in others])
    note = ", ranks taken in brackets" if with_shards else ""
    report.table([f"ms per epoch{note}", "dtype", first, *others], times)
    rows = [
        [*case, *map(figure, row)] for case, row in zip(results, gains, strict=True)
    ]
    columns = list(zip(*gains, strict=True))
    if not columns:
        return
    rows.append(["geometric mean", "", *(figure(geometric_mean(c)) for c in columns)])
    rows.append(["least", "", *(figure(min(c)) for c in columns)])
    report.table([f"times as fast as {first}", "dtype", *others], rows)


def against(
    report: Report, results: Mapping[tuple[str, str], Any], n_ranks: int
) -> None:
    """The gangs against the three things that they are to be measured by."""
    headers, rows = ["ratio", "dtype"], []
    blas = f"1 process, {n_ranks} BLAS threads"
    pairs = [
        ("loky / ceiling", "ceiling", "loky"),
        ("loky / BLAS threads", blas, "loky"),
        ("loky / DDP", "torch DDP", "loky"),
    ]
    some = next(iter(results.values()))
    pairs = [pair for pair in pairs if {*pair[1:]} <= {*some}]
    if not pairs:
        return
    headers += [title for title, *_ in pairs]
    for case, found in results.items():
        gains = [_gain(found, slow, fast) for _, slow, fast in pairs]
        rows.append([*case, *map(figure, gains)])
    means = []
    for _, slow, fast in pairs:
        means.append(geometric_mean(_gain(f, slow, fast) for f in results.values()))
    rows.append(["geometric mean", "", *map(figure, means)])
    report.say("Speed of the first, divided by that of the second.")
    report.table(headers, rows)


def _gain(found: Mapping[str, Any], slow: str, fast: str) -> float:
    return ratio(
        [r["epoch"] for r in found[slow]],
        [r["epoch"] for r in found[fast]],
    )


def options() -> Any:
    """The command line."""
    arguments = parser(__doc__)
    add_dtypes(arguments)
    arguments.add_argument("--ranks", type=int, default=2, help="how many")
    arguments.add_argument("--rule", action="store_true", help="let skmlp decide")
    arguments.add_argument(
        "--shapes", help="parts of their names; without --rule the wide ones, or all"
    )
    arguments.add_argument(
        "--only", help="parts of the names of columns: loky,DDP; the first one stays"
    )
    asked = parsed(arguments)
    if asked.shapes is None and not asked.rule:
        asked.shapes = WIDE
    asked.shapes = cases.chosen(
        None if asked.shapes == "all" else asked.shapes, asked.quick
    )
    return asked


def main() -> None:
    """Measure and print."""
    asked = options()
    report = Report(asked, "Ranks on one host, an epoch in steady state")
    if not asked.rule and not installed("torch"):
        report.say("torch is not installed: DDP's column is left out.")
    results = {}
    with contextlib.ExitStack() as stack:
        starts = (rule if asked.rule else contestants)(asked.ranks, stack)
        parts = asked.only.split(",") if asked.only else [""]
        first = next(iter(starts))
        who = {
            name: begin()
            for name, begin in starts.items()
            if name == first or any(part.strip() in name for part in parts)
        }
        for shape, dtype in itertools.product(asked.shapes, asked.dtypes):
            found = measure(who, shape, dtype, asked.repeats)
            results[str(shape), dtype] = found
            report.keep(shape=str(shape), dtype=dtype, seconds=found)
    tables(report, results, with_shards=asked.rule)
    if not asked.rule:
        against(report, results, asked.ranks)
    report.end()


if __name__ == "__main__":
    main()
