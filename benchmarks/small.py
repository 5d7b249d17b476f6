"""Small data: a fit, a grid search, and what any fit costs: ``small.py``.

- iris: one fit with the default parameters;
- grid: GridSearchCV of 60 fits (12 settings, 5 folds) on the digits;
- fixed cost: one epoch on 20 rows, nearly all of it validation and set-up.
"""

from __future__ import annotations

if __name__ == "__main__" and not __package__:
    from _as_module import start_again

    start_again(__file__)

import statistics
import time
from typing import Any

import numpy as np

from benchmarks import cases
from benchmarks.child import Contestant
from benchmarks.common import Report, duel, parsed, parser

GRID = {
    "hidden_layer_sizes": [(30,), (60,), (30, 30)],
    "alpha": [1e-4, 1e-2],
    "learning_rate_init": [1e-3, 1e-2],
}
QUICK_GRID = {"alpha": [1e-4, 1e-2]}


class Small(Contestant):
    """One of the two packages on one of the cases."""

    def __init__(self, package: str) -> None:
        self._package = cases.package(package)

    def prepare(self, case: str, quick: bool, n_jobs: int | None) -> None:
        """Make the data and warm up."""
        self._job = getattr(self, f"_{case}")
        self._quick, self._n_jobs = quick, n_jobs
        self._job()

    def run(self) -> dict[str, float]:
        """Time it."""
        seconds: dict[str, float] = self._job()
        return seconds

    def _iris(self) -> dict[str, float]:
        from sklearn.datasets import load_iris

        X, y = load_iris(return_X_y=True)
        model = self._package.MLPClassifier(
            random_state=0, max_iter=10 if self._quick else 200
        )
        return {"fit": _seconds(model, X, y, 3)}

    def _grid(self) -> dict[str, float]:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import GridSearchCV

        X, y = load_digits(return_X_y=True)
        network = self._package.MLPClassifier(
            random_state=0, max_iter=2 if self._quick else 50
        )
        grid = QUICK_GRID if self._quick else GRID
        search = GridSearchCV(network, grid, cv=5, refit=False, n_jobs=self._n_jobs)
        return {"search": _seconds(search, X / 16, y, 1)}

    def _fixed(self) -> dict[str, float]:
        random = np.random.default_rng(0)
        X = random.standard_normal((20, 4))
        targets: dict[str, Any] = {"Classifier": X[:, 0] > 0, "Regressor": X[:, 0]}
        return {
            f"{solver} {kind.lower()}": _seconds(
                getattr(self._package, f"MLP{kind}")(
                    hidden_layer_sizes=(10,),
                    solver=solver,
                    max_iter=1,
                    random_state=0,
                ),
                X,
                y,
                5 if self._quick else 100,
            )
            for kind, y in targets.items()
            for solver in ("adam", "sgd")
        }


def _seconds(model: Any, X: Any, y: Any, repeats: int) -> float:
    """Median time of a fit."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        model.fit(X, y)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("--jobs", type=int, help="n_jobs of the grid search")
    asked = parsed(arguments)
    report = Report(asked, "Small data")
    duel(
        report,
        asked,
        "benchmarks.small:Small",
        {case: (case, asked.quick, asked.jobs) for case in ("iris", "grid", "fixed")},
    )
    report.end()


if __name__ == "__main__":
    main()
