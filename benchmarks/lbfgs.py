"""L-BFGS per function evaluation: ``lbfgs.py``.

Both packages let SciPy minimise; the clock stops what happens inside of it, divided by
the evaluations that it says it made.
"""

from __future__ import annotations

if __name__ == "__main__" and not __package__:
    from _as_module import start_again

    start_again(__file__)

import dataclasses
import time
from typing import Any

import scipy.optimize

from benchmarks import cases
from benchmarks.cases import Shape
from benchmarks.child import Contestant
from benchmarks.common import Report, add_dtypes, duel, parsed, parser


class Lbfgs(Contestant):
    """One of the two packages on one net."""

    def __init__(self, package: str) -> None:
        self._package = cases.package(package)
        self._minimize = scipy.optimize.minimize
        scipy.optimize.minimize = self._timed
        self._seconds, self._evaluations = 0.0, 0

    def _timed(self, *arguments: Any, **keywords: Any) -> Any:
        """SciPy's function with a clock and a counter."""
        began = time.perf_counter()
        result = self._minimize(*arguments, **keywords)
        self._seconds += time.perf_counter() - began
        self._evaluations += result.nfev
        return result

    def close(self) -> None:
        """Give SciPy its function back."""
        scipy.optimize.minimize = self._minimize

    def prepare(self, shape: dict[str, Any], dtype: str, iterations: int) -> None:
        """Make the data, and fit once to warm up."""
        self._shape = Shape(**shape)
        self._X, self._y = cases.data(self._shape, dtype)
        self._iterations = iterations
        self._fit(1)

    def run(self) -> dict[str, float]:
        """Seconds per evaluation."""
        self._seconds, self._evaluations = 0.0, 0
        self._fit(self._iterations)
        return {"evaluation": self._seconds / self._evaluations}

    def _fit(self, iterations: int) -> None:
        cases.estimator(self._package, self._shape, iterations, solver="lbfgs").fit(
            self._X, self._y
        )


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__)
    add_dtypes(arguments)
    arguments.add_argument("--shapes", help="parts of their names: 784-256,1024")
    asked = parsed(arguments)
    shapes = {
        f"{shape.rows} x {'-'.join(map(str, shape.units))}": shape
        for shape in cases.chosen(asked.shapes, asked.quick)
    }
    report = Report(asked, "L-BFGS, per function evaluation")
    duel(
        report,
        asked,
        "benchmarks.lbfgs:Lbfgs",
        {
            f"{name}, {dtype}": (
                dataclasses.asdict(shape),
                dtype,
                3 if asked.quick else 10,
            )
            for name, shape in shapes.items()
            for dtype in asked.dtypes
        },
    )
    report.end()


if __name__ == "__main__":
    main()
