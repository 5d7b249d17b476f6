"""What the commands share: their options, the machine's line, ratios and tables."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.child import Child

_PACKAGES = ("numpy", "scipy", "scikit-learn", "numba", "joblib", "dask")


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options of all commands."""
    result = argparse.ArgumentParser(
        description=(description or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = result.add_argument
    add("--quick", action="store_true", help="small and few, to see that all runs")
    add("--repeats", type=int, help="rounds, of which the median is told; 5, or 1")
    add(
        "--blas-threads",
        default="all",
        choices=("1", "all"),
        help="threads of BLAS (torch, XLA) for whoever trains in one process",
    )
    add("--markdown", type=Path, help="write what is printed to this file, too")
    add("--json", type=Path, help="write all single measurements to this file")
    return result


def add_dtypes(arguments: argparse.ArgumentParser) -> None:
    """The option ``--dtypes``."""
    arguments.add_argument(
        "--dtypes", default="float32,float64", help="float32, float64 or both"
    )


def parsed(arguments: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the command line."""
    options = arguments.parse_args()
    if options.repeats is None:
        options.repeats = 1 if options.quick else 5
    options.blas = None if options.blas_threads == "all" else 1
    if hasattr(options, "dtypes"):
        options.dtypes = words(options.dtypes, ("float32", "float64"))
    return options


def words(text: str, known: Sequence[str]) -> list[str]:
    """Split at commas; all words must be known. ``none`` stands for none of them."""
    if text == "none":
        return []
    found = [word.strip() for word in text.split(",")]
    for word in found:
        if word not in known:
            raise SystemExit(f"{word!r} is none of {', '.join(known)}")
    return found


def installed(module: str) -> bool:
    """Whether it can be imported."""
    return importlib.util.find_spec(module) is not None


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


# ---- Figures -----------------------------------------------------------------------


def ratio(these: Iterable[float], those: Iterable[float]) -> float:
    """Median of the ratios of each round: what drifts, drifts for both."""
    return statistics.median(a / b for a, b in zip(these, those, strict=True))


def geometric_mean(values: Iterable[float]) -> float:
    """Of positive numbers."""
    return statistics.geometric_mean(values)


def figure(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits; nothing for None."""
    if value is None:
        return ""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{decimals}f}"


def median_of(results: Iterable[Mapping[str, float]], key: str) -> float:
    """Median of one entry of each result."""
    return statistics.median(result[key] for result in results)


# ---- Rounds ------------------------------------------------------------------------


@contextlib.contextmanager
def children(
    targets: Mapping[str, tuple[Any, ...]], threads: Mapping[str, int | None]
) -> Iterator[dict[str, Child]]:
    """Start a child for each name, from its target and arguments."""
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(Child(*target, blas_threads=threads[name]))
            for name, target in targets.items()
        }


def rounds(
    contestants: Mapping[str, Child], repeats: int, method: str, *arguments: Any
) -> dict[str, list[Any]]:
    """Let all work in turn, as many rounds as asked for.

    Every second round goes the other way about, so that nobody always follows the same
    one.
    """
    results: dict[str, list[Any]] = {name: [] for name in contestants}
    for number in range(repeats):
        names = list(contestants)
        for name in names if number % 2 == 0 else reversed(names):
            results[name].append(contestants[name].call(method, *arguments))
    return results


def duel(
    report: Report,
    options: argparse.Namespace,
    target: str,
    cases: Mapping[str, tuple[Any, ...]],
    unit: float = 1e3,
    heading: str = "ms",
) -> None:
    """Measure scikit-learn and skmlp case by case, and print who was how fast.

    Parameters
    ----------
    report : Report
        Where to print.
    options : argparse.Namespace
        Rounds and threads.
    target : str
        A contestant whose argument is the package, whose `prepare` takes a case, and
        whose `run` returns seconds by name.
    cases : dict
        What `prepare` gets, by name.
    unit : float, default=1e3
        Seconds are printed times this.
    heading : str, default="ms"
        What comes out.
    """
    packages = ("sklearn", "skmlp")
    rows, gains = [], []
    with children(
        {name: (target, name) for name in packages},
        dict.fromkeys(packages, options.blas),
    ) as contestants:
        for case, arguments in cases.items():
            for child in contestants.values():
                child.call("prepare", *arguments)
            found = rounds(contestants, options.repeats, "run")
            report.keep(case=case, seconds=found)
            for what in found["skmlp"][0]:
                theirs, ours = ([r[what] for r in found[name]] for name in packages)
                gains.append(ratio(theirs, ours))
                times = (statistics.median(seconds) for seconds in (theirs, ours))
                cells = [figure(unit * time) for time in times]
                rows.append([case, what, *cells, figure(gains[-1])])
    rows.append(["geometric mean", "", "", "", figure(geometric_mean(gains))])
    rows.append(["least", "", "", "", figure(min(gains))])
    report.table([heading, "", "scikit-learn", "skmlp", "times as fast"], rows)


# ---- What is printed ---------------------------------------------------------------


class Report:
    """Text for people, and all measurements for programs.

    Parameters
    ----------
    options : argparse.Namespace
        Where to write both.
    title : str
        The first line.
    """

    def __init__(self, options: argparse.Namespace, title: str) -> None:
        self._options = options
        self._text: list[str] = []
        self._data: dict[str, Any] = {"measurements": []}
        self.say(f"# {title}")
        self.say()
        self._machine()

    def say(self, text: str = "") -> None:
        """Print a line."""
        print(text, flush=True)
        self._text.append(text)

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table in Markdown, aligned."""
        widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
        self.say()
        for row in (headers, ["-" * width for width in widths], *rows):
            cells = [
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            self.say(f"| {' | '.join(cells)} |")
        self.say()

    def keep(self, **measurement: Any) -> None:
        """Note a measurement for the JSON file."""
        self._data["measurements"].append(measurement)

    def end(self) -> None:
        """Write the files that were asked for."""
        self.say(f"Load at the end: {_load()}.")
        if self._options.markdown:
            text = "\n".join(self._text) + "\n"
            self._options.markdown.write_text(text, encoding="utf-8")
        if self._options.json:
            text = json.dumps(self._data, indent=1) + "\n"
            self._options.json.write_text(text, encoding="utf-8")

    def _machine(self) -> None:
        with Child(
            "benchmarks.contestants:Machine", blas_threads=self._options.blas
        ) as (child):
            blas = child.call("blas")
        versions = {name: _version(name) for name in _PACKAGES}
        versions |= {name: _version(name) for name in ("torch", "jax")}
        self._data |= {"versions": versions, "blas": blas, "cores": cores()}
        self.say(f"{cores()} cores, {_processor()}, Python {platform.python_version()}")
        self.say(", ".join(f"{k} {v}" for k, v in versions.items() if v))
        self.say(f"BLAS: {blas}")
        quick = " Quick: the figures mean nothing." if self._options.quick else ""
        self.say(
            f"BLAS threads in one process: {self._options.blas_threads}. Rounds: "
            f"{self._options.repeats}.{quick}"
        )
        busy = " The machine is busy: mistrust all figures." * (
            os.getloadavg()[0] > 0.5
        )
        self.say(f"Load at the start: {_load()}.{busy}")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _load() -> str:
    return "{:.2f} in the last minute, {:.2f} in five".format(*os.getloadavg()[:2])


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
