"""Whole fits on CSR rows of 20,000 columns, 1 % of them set: ``sparse.py``."""

from __future__ import annotations

if __name__ == "__main__" and not __package__:
    from _as_module import start_again

    start_again(__file__)

import time

import numpy as np
from scipy import sparse

from benchmarks import cases
from benchmarks.cases import Shape
from benchmarks.child import Contestant
from benchmarks.common import Report, add_dtypes, duel, parsed, parser

SHAPE = Shape(10000, (20000, 100, 10), 200, 2)
QUICK = Shape(400, (2000, 20, 10), 200, 2)
DENSITY = 0.01


class Sparse(Contestant):
    """One of the two packages."""

    def __init__(self, package: str) -> None:
        self._package = cases.package(package)

    def prepare(self, dtype: str, quick: bool) -> None:
        """Make the rows, and fit once to warm up."""
        self._shape = QUICK if quick else SHAPE
        n_rows, n_columns = self._shape.rows, self._shape.units[0]
        random = np.random.default_rng(0)
        self._X = sparse.random(
            n_rows,
            n_columns,
            density=DENSITY,
            format="csr",
            dtype=dtype,
            random_state=random,
        )
        teacher = random.standard_normal((n_columns, self._shape.units[-1]))
        self._y = np.asarray(self._X @ teacher).argmax(axis=1)
        self.run()

    def run(self) -> dict[str, float]:
        """Seconds per epoch of whole fits."""
        model = cases.estimator(self._package, self._shape, self._shape.epochs)
        began = time.perf_counter()
        model.fit(self._X, self._y)
        return {"epoch": (time.perf_counter() - began) / self._shape.epochs}


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__)
    add_dtypes(arguments)
    asked = parsed(arguments)
    shape = QUICK if asked.quick else SHAPE
    report = Report(asked, "Sparse rows")
    duel(
        report,
        asked,
        "benchmarks.sparse:Sparse",
        {
            f"CSR, {shape.rows} rows, {shape}, {dtype}": (dtype, asked.quick)
            for dtype in asked.dtypes
        },
    )
    report.end()


if __name__ == "__main__":
    main()
