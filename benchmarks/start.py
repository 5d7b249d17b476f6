"""What it costs to begin: ``start.py``.

- The first fit of a fresh process, with an empty and with a filled cache of compiled
  kernels, against its second fit, and ``import skmlp``.
- A gang: all time of a fit outside of its epochs (validation, starting the ranks,
  handing them the rows, collecting the model, ending them), against a fit in process.
"""

from __future__ import annotations

if __name__ == "__main__" and not __package__:
    from _as_module import start_again

    start_again(__file__)

import contextlib
import dataclasses
import statistics
import tempfile
import time
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks.cases import Shape
from benchmarks.child import Child, Contestant
from benchmarks.common import (
    Report,
    add_dtypes,
    figure,
    median_of,
    parsed,
    parser,
    rounds,
    words,
)

PLACES: dict[str, tuple[Any, ...]] = {
    "in process": ("process",),
    "2 loky": ("loky", 2),
    "2 Dask": ("dask", 2),
}
SIZES = {
    "40 x 4": Shape(40, (4, 5, 3), 20, 2),
    "10000 x 784": Shape(10000, (784, 100, 10), 200, 2),
}


class FirstFit(Contestant):
    """A process that has not trained yet; it imports nothing before it is asked."""

    def run(self, dtype: str) -> dict[str, float]:
        """Seconds of the import and of two equal fits."""
        import sklearn.neural_network  # what any user of scikit-learn has loaded

        random = np.random.default_rng(0)
        X = random.standard_normal((100, 5), dtype=dtype)
        y = X[:, 0] > 0
        sklearn.neural_network.MLPClassifier(max_iter=2).fit(X, y)
        marks = [time.perf_counter()]
        busy = -time.process_time()
        import skmlp

        marks.append(time.perf_counter())
        for _ in range(2):
            skmlp.MLPClassifier(max_iter=2, random_state=0).fit(X, y)
            marks.append(time.perf_counter())
            if len(marks) == 3:
                busy += time.process_time()
        steps = (b - a for a, b in pairwise(marks))
        return dict(zip(("import", "first", "second"), steps, strict=True)) | {
            "processor": busy
        }


def first_fits(report: Report, asked: Any) -> None:
    """Fresh processes, in pairs on a fresh cache."""
    rows = []
    for dtype in asked.dtypes:
        found: dict[str, list[dict[str, float]]] = {"empty": [], "filled": []}
        for _ in range(asked.repeats):
            with tempfile.TemporaryDirectory() as folder:
                for cache in found:
                    with Child(
                        "benchmarks.start:FirstFit",
                        environment={"NUMBA_CACHE_DIR": folder},
                    ) as child:
                        found[cache].append(child.call("run", dtype))
        report.keep(dtype=dtype, seconds=found)
        for cache, runs in found.items():
            names = ("import", "first", "second")
            cells = [figure(median_of(runs, name)) for name in names]
            more = statistics.median(r["first"] - r["second"] for r in runs)
            processor = median_of(runs, "processor")
            rows.append([cache, dtype, *cells, figure(more), figure(processor)])
    report.say(
        "The first fit of a fresh process that has loaded scikit-learn, in seconds; "
        "last, how long import and first fit keep the processor busy."
    )
    report.table(
        [
            "cache",
            "dtype",
            "import skmlp",
            "first fit",
            "second fit",
            "difference",
            "processor",
        ],
        rows,
    )


def gangs(report: Report, asked: Any) -> None:
    """All places; the pools and the cluster run already, but for the first fits."""
    rows = []
    with contextlib.ExitStack() as stack:
        who = {
            name: stack.enter_context(Child("benchmarks.contestants:Skmlp", *place))
            for name, place in PLACES.items()
            if place[0] in ("process", *asked.places)
        }
        for number, (size, shape) in enumerate(SIZES.items()):
            shape = shape.quick() if asked.quick else shape
            first = {
                name: child.call("prepare", dataclasses.asdict(shape), "float64")
                for name, child in who.items()
            }
            # A fit of the small size is short: more of them cost nothing.
            repeats = asked.repeats * (5 if number == 0 else 1)
            found = rounds(who, repeats, "run", shape.epochs)
            report.keep(size=size, first=first, seconds=found)
            if number == 0:
                cells = [figure(1e3 * result["outside"]) for result in first.values()]
                rows.append([f"{size}, first fit", *cells])
            medians = [median_of(found[name], "outside") for name in who]
            rows.append([size, *(figure(1e3 * m) for m in medians)])
            more = [figure(1e3 * (m - medians[0])) for m in medians[1:]]
            rows.append([f"{size}, the gang", "", *more])
    report.say(
        "A fit outside of its epochs, in milliseconds; the first fit of a process "
        "imports, reads the compiled kernels and starts loky's pool."
    )
    report.table(["ms", *who], rows)


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__)
    add_dtypes(arguments)
    arguments.add_argument("--places", default="loky,dask", help="or none")
    asked = parsed(arguments)
    asked.places = words(asked.places, ("loky", "dask"))
    report = Report(asked, "What it costs to begin")
    first_fits(report, asked)
    gangs(report, asked)
    report.end()


if __name__ == "__main__":
    main()
