"""Predicting: one row, 100,000 rows, and the memory for a million: ``predict.py``.

One row is a plain call, checks included. The memory is the peak that one call adds:
what tracemalloc sees of NumPy's arrays, and what the process grows by.
"""

from __future__ import annotations

if __name__ == "__main__" and not __package__:
    from _as_module import start_again

    start_again(__file__)

import statistics
import time
import tracemalloc
from typing import Any

import numpy as np

from benchmarks import cases
from benchmarks.cases import Shape
from benchmarks.child import Child, Contestant
from benchmarks.common import Report, add_dtypes, duel, figure, parsed, parser
from benchmarks.resident import EXACT, Peak

NETS = (
    Shape(400, (20, 100, 1), 200, 1, task="binary"),
    Shape(400, (64, 100, 10), 200, 1),
    Shape(400, (20, 100, 1), 200, 1, task="values"),
    Shape(400, (784, 256, 256, 10), 200, 1),
)


class Predict(Contestant):
    """One of the two packages with one fitted net."""

    def __init__(self, package: str) -> None:
        self._package = cases.package(package)

    def prepare(self, net: int, dtype: str, rows: int) -> None:
        """Fit a net, and make rows to predict."""
        shape = NETS[net]
        X, y = cases.data(shape, dtype)
        self._model = cases.estimator(self._package, shape, 1).fit(X, y)
        random = np.random.default_rng(1)
        self._X = random.standard_normal((rows, shape.units[0]), dtype=dtype)
        self._calls = [("predict", self._model.predict)]
        if shape.task != "values":
            self._calls.append(("predict_proba", self._model.predict_proba))
        for _, call in self._calls:
            call(self._X[:1000])

    def run(self) -> dict[str, float]:
        """Seconds of a call; of one row, the median of many."""
        n_calls = 200 if len(self._X) == 1 else 1
        result = {}
        for name, call in self._calls:
            seconds = []
            for _ in range(n_calls):
                began = time.perf_counter()
                call(self._X)
                seconds.append(time.perf_counter() - began)
            result[name] = statistics.median(seconds)
        return result

    def memory(self) -> dict[str, dict[str, float]]:
        """MB that a call adds at its peak; its result is part of them."""
        result: dict[str, dict[str, float]] = {}
        for name, call in self._calls:
            with Peak() as peak:
                call(self._X)
            tracemalloc.start()
            call(self._X)
            traced = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            result[name] = {"process": peak.grown / 1e6, "arrays": traced / 1e6}
        return result


def memory(report: Report, asked: Any) -> None:
    """A million rows, each package in a process of its own for each net."""
    n_rows = 10_000 if asked.quick else 1_000_000
    rows = []
    narrow = [net for net in asked.nets if NETS[net].units[0] < 100]  # or it is GBs
    for net in narrow:
        for dtype in asked.dtypes:
            found: dict[str, Any] = {}
            for name in ("sklearn", "skmlp"):
                with Child(
                    "benchmarks.predict:Predict", name, environment=EXACT
                ) as child:
                    child.call("prepare", net, dtype, n_rows)
                    found[name] = child.call("memory")
            report.keep(case=_title(net, dtype), rows=n_rows, megabytes=found)
            for call, ours in found["skmlp"].items():
                theirs = found["sklearn"][call]
                cells = [
                    figure(side[key])
                    for key in ("process", "arrays")
                    for side in (theirs, ours)
                ]
                rows.append([_title(net, dtype), call, *cells])
    report.say(
        f"Peak memory of a call with {n_rows} rows, in MB beyond what was there."
    )
    report.table(
        [
            "MB",
            "",
            "scikit-learn, process",
            "skmlp, process",
            "scikit-learn, arrays",
            "skmlp, arrays",
        ],
        rows,
    )


def _title(net: int, dtype: str) -> str:
    kind = " regression" if NETS[net].task == "values" else ""
    return f"{'-'.join(map(str, NETS[net].units))}{kind}, {dtype}"


def options() -> Any:
    """The command line."""
    arguments = parser(__doc__)
    add_dtypes(arguments)
    arguments.add_argument("--nets", help="parts of their names: 64-100,regression")
    asked = parsed(arguments)
    parts = asked.nets.split(",") if asked.nets else [""]
    asked.nets = [
        net
        for net in range(len(NETS))
        if any(part.strip() in _title(net, "") for part in parts)
    ]
    if not asked.nets:
        raise SystemExit(f"no net is like {', '.join(parts)}")
    return asked


def main() -> None:
    """Measure and print."""
    asked = options()
    report = Report(asked, "Predicting")
    for n_rows in (1, 1000 if asked.quick else 100_000):
        report.say(f"Rows in a call: {n_rows}.")
        duel(
            report,
            asked,
            "benchmarks.predict:Predict",
            {
                _title(net, dtype): (net, dtype, n_rows)
                for net in asked.nets
                for dtype in asked.dtypes
            },
        )
    memory(report, asked)
    report.end()


if __name__ == "__main__":
    main()
