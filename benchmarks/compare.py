"""Milliseconds per epoch of training, side by side: ``python benchmarks/compare.py``.

The nets of `cases.SHAPES`, trained by the bare matrix products of the step (the floor),
scikit-learn, torch, JAX, and skmlp in each of its places, all in one run, in turn.
"""

from __future__ import annotations

if __name__ == "__main__" and not __package__:
    from _as_module import start_again

    start_again(__file__)

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import cases
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
    words,
)

HERE = "benchmarks.contestants"

#: Name, target and arguments.
PEERS: dict[str, tuple[Any, ...]] = {
    "gemm": (f"{HERE}:Products",),
    "sklearn": (f"{HERE}:Sklearn",),
    "torch": ("benchmarks.with_torch:Torch",),
    "jax": ("benchmarks.with_jax:Jax",),
}
PLACES: dict[str, tuple[Any, ...]] = {
    "process": (f"{HERE}:Skmlp",),
    "loky": (f"{HERE}:Skmlp", "loky", 2),
    "dask": (f"{HERE}:Skmlp", "dask", 2),
}
TITLES = {
    "gemm": "gemm",
    "sklearn": "scikit-learn",
    "torch": "torch",
    "jax": "JAX",
    "process": "skmlp",
    "loky": "2 loky",
    "dask": "2 Dask",
}

Results = dict[tuple[str, str], dict[str, list[dict[str, float]]]]


def options() -> Any:
    """The command line."""
    arguments = parser(__doc__)
    add_dtypes(arguments)
    arguments.add_argument("--shapes", help="parts of their names: 784-256,b128")
    arguments.add_argument("--peers", default=",".join(PEERS), help="or none")
    arguments.add_argument("--places", default=",".join(PLACES), help="or none")
    result = parsed(arguments)
    result.peers = words(result.peers, list(PEERS))
    result.places = words(result.places, list(PLACES))
    result.shapes = cases.chosen(result.shapes, result.quick)
    return result


def start(names: Sequence[str], blas: int | None, stack: Any) -> dict[str, Child]:
    """A child for each; the gangs limit the threads of BLAS by themselves."""
    return {
        name: stack.enter_context(
            Child(
                *(PEERS | PLACES)[name],
                blas_threads=blas if name in PEERS or name == "process" else None,
            )
        )
        for name in names
    }


def measure(
    contestants: Mapping[str, Child], shape: cases.Shape, dtype: str, repeats: int
) -> dict[str, list[dict[str, float]]]:
    """All rounds of one shape."""
    for child in contestants.values():
        child.call("prepare", dataclasses.asdict(shape), dtype)
    return rounds(contestants, repeats, "run", shape.epochs)


def differing(found: Mapping[str, list[dict[str, float]]], dtype: str) -> list[str]:
    """Who did not end at scikit-learn's loss, or, without it, at the first place's."""
    losses = {n: found[n][0]["loss"] for n in found if n in ("sklearn", *PLACES)}
    if not losses:
        return []
    expected = next(iter(losses.values()))
    tolerance = 1e-6 if dtype == "float64" else 1e-2
    return [
        f"{TITLES[n]} ends at a loss of {loss:.8g}, not {expected:.8g}"
        for n, loss in losses.items()
        if not math.isclose(loss, expected, rel_tol=tolerance)
    ]


def milliseconds(report: Report, results: Results, names: Sequence[str]) -> None:
    """The table of times."""
    headers = ["ms per epoch", "dtype", *(TITLES[name] for name in names)]
    if "process" in names:
        headers.append("skmlp, whole fit")
    rows = []
    for (shape, dtype), found in results.items():
        cells = [figure(1e3 * median_of(found[n], "epoch")) for n in names]
        if "process" in names:
            cells.append(figure(1e3 * median_of(found["process"], "fit")))
        rows.append([shape, dtype, *cells])
    report.table(headers, rows)


def ratios(report: Report, results: Results, names: Sequence[str]) -> None:
    """How many times as fast skmlp is; and what it needs beyond the products."""
    columns: list[tuple[str, str, str, str]] = []
    for name, key in (("sklearn", "fit"), ("torch", "epoch"), ("jax", "epoch")):
        if name in names:
            columns.append((f"against {TITLES[name]}", name, "process", key))
    if "gemm" in names:
        columns.append(("time / gemm", "process", "gemm", "epoch"))
    columns += [
        (f"{TITLES[n]} against one process", "process", n, "epoch")
        for n in ("loky", "dask")
        if n in names
    ]
    if "process" not in names or not columns:
        return
    table = {
        case: [
            ratio(*_both(found, above, below, key)) for _, above, below, key in columns
        ]
        for case, found in results.items()
    }
    values = list(zip(*table.values(), strict=True))
    rows = [[*case, *map(figure, row)] for case, row in table.items()]
    rows.append(["geometric mean", "", *(figure(geometric_mean(v)) for v in values)])
    rows.append(["least", "", *(figure(min(v)) for v in values)])
    rows.append(["most", "", *(figure(max(v)) for v in values)])
    report.say(
        "How many times as fast skmlp in one process is: against scikit-learn by whole "
        "fits, else by an epoch in steady state. Last, what a gang of two gains."
    )
    report.table(["ratio", "dtype", *(title for title, *_ in columns)], rows)


def _both(found: Any, above: str, below: str, key: str) -> Any:
    return ([r[key] for r in found[above]], [r[key] for r in found[below]])


def main() -> None:
    """Measure and print."""
    asked = options()
    names = [*asked.peers, *asked.places]
    report = Report(asked, "Training, side by side")
    for name in [n for n in ("torch", "jax") if n in names and not installed(n)]:
        report.say(f"{TITLES[name]} is not installed: its column is left out.")
        names.remove(name)
    results: Results = {}
    with contextlib.ExitStack() as stack:
        contestants = start(names, asked.blas, stack)
        for shape, dtype in itertools.product(asked.shapes, asked.dtypes):
            found = measure(contestants, shape, dtype, asked.repeats)
            results[str(shape), dtype] = found
            report.keep(shape=str(shape), dtype=dtype, seconds=found)
            for line in differing(found, dtype):
                report.say(f"{shape}, {dtype}: {line}")
    report.say(
        "Medians of an epoch in steady state by skmlp's own clock, and of whole fits "
        "(validation and set-up included) of scikit-learn and in the last column. The "
        "order of the rows is in all; compiling is not."
    )
    milliseconds(report, results, names)
    ratios(report, results, names)
    report.end()


if __name__ == "__main__":
    main()
