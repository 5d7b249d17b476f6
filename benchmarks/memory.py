"""Peak memory of fit, each in a process of its own: ``memory.py``.

The growth is what the fit adds at its peak to the process with the data in it, after a
small fit of the same kind (which brings in the code). The peak is that of the process.
"""

from __future__ import annotations

if __name__ == "__main__" and not __package__:
    from _as_module import start_again

    start_again(__file__)

from typing import Any

import numpy as np
from scipy import sparse

from benchmarks import cases
from benchmarks.cases import Shape
from benchmarks.child import Child, Contestant
from benchmarks.common import Report, figure, parsed, parser
from benchmarks.resident import EXACT, Peak

DENSE = Shape(40960, (784, 256, 256, 10), 256, 2)
THIN = Shape(1_000_000, (20, 100, 1), 200, 1, task="binary")
SPARSE = Shape(20000, (20000, 100, 10), 200, 2)

#: Shape, dtype, how the rows are stored, parameters of the estimator.
CASES: dict[str, tuple[Shape, str, str, dict[str, Any]]] = {
    "dense, float32": (DENSE, "float32", "dense", {}),
    "dense, float64": (DENSE, "float64", "dense", {}),
    "dense, Fortran order": (DENSE, "float64", "fortran", {}),
    "dense, sgd": (DENSE, "float64", "dense", {"solver": "sgd"}),
    "dense, early stopping": (DENSE, "float64", "dense", {"early_stopping": True}),
    "dense, unshuffled": (DENSE, "float64", "dense", {"shuffle": False}),
    "dense, lbfgs": (DENSE, "float64", "dense", {"solver": "lbfgs"}),
    "many rows": (THIN, "float64", "dense", {}),
    "CSR": (SPARSE, "float64", "csr", {}),
    "CSC": (SPARSE, "float64", "csc", {}),
    "CSR, early stopping": (SPARSE, "float64", "csr", {"early_stopping": True}),
}


class Memory(Contestant):
    """One fit of one of the two packages."""

    def __init__(self, package: str) -> None:
        self._package = cases.package(package)

    def measure(self, case: str, quick: bool) -> dict[str, float]:
        """MB of the fit."""
        shape, dtype, storage, parameters = CASES[case]
        shape = shape.quick() if quick else shape
        X, y = make(shape, dtype, storage)

        def fit(X: Any, y: Any) -> None:
            cases.estimator(self._package, shape, shape.epochs, **parameters).fit(X, y)

        fit(X[: 2 * shape.batch], y[: 2 * shape.batch])
        with Peak() as peak:
            fit(X, y)
        return {"grown": peak.grown / 1e6, "highest": peak.highest / 1e6}


def make(shape: Shape, dtype: str, storage: str) -> tuple[Any, Any]:
    """Rows, and labels at random: nobody asks what is learned."""
    random = np.random.default_rng(0)
    n_labels = max(2, shape.units[-1])
    y = np.resize(np.arange(n_labels), shape.rows)
    if storage in ("csr", "csc"):
        X = sparse.random(
            shape.rows,
            shape.units[0],
            density=0.01,
            format=storage,
            dtype=dtype,
            random_state=random,
        )
        return X, y
    X = random.standard_normal((shape.rows, shape.units[0]), dtype=dtype)
    return np.asfortranarray(X) if storage == "fortran" else X, y


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("--cases", help="parts of their names: CSR,lbfgs")
    asked = parsed(arguments)
    wanted = asked.cases.split(",") if asked.cases else [""]
    report = Report(asked, "Peak memory of fit")
    rows = []
    for case in CASES:
        if not any(part.strip() in case for part in wanted):
            continue
        found = {}
        for name in ("sklearn", "skmlp"):
            with Child(
                "benchmarks.memory:Memory",
                name,
                blas_threads=asked.blas,
                environment=EXACT,
            ) as child:
                found[name] = child.call("measure", case, asked.quick)
        report.keep(case=case, megabytes=found)
        theirs, ours = found["sklearn"], found["skmlp"]
        cells = [side[key] for key in ("grown", "highest") for side in (theirs, ours)]
        rows.append([case, *map(figure, cells)])
    report.table(
        [
            "MB",
            "scikit-learn, growth",
            "skmlp, growth",
            "scikit-learn, peak",
            "skmlp, peak",
        ],
        rows,
    )
    report.end()


if __name__ == "__main__":
    main()
