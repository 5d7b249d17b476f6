"""The nets and the data of all benchmarks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

#: The penalty, the rates and the decay of all contestants: scikit-learn's defaults.
ALPHA = 1e-4
RATE = 1e-3
MOMENTUM = 0.9


@dataclass(frozen=True)
class Shape:
    """A net, the number of rows and how it is trained.

    Attributes
    ----------
    rows : int
        A multiple of `batch`, so that no contestant needs a second compilation for the
        rest.
    units : tuple of int
        Width of each layer.
    batch : int
        Rows of a step.
    epochs : int
        Of a timed run: enough for about half a second of scikit-learn.
    task : {"classes", "binary", "values"}
        What the last layer is for.
    solver : {"adam", "sgd"}
        sgd is with Nesterov's momentum.
    dropout : float
        Of the hidden layers.
    """

    rows: int
    units: tuple[int, ...]
    batch: int
    epochs: int
    task: str = "classes"
    solver: str = "adam"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "units", tuple(self.units))  # JSON knows lists only
        assert self.rows % self.batch == 0

    def __str__(self) -> str:
        units = "-".join(map(str, self.units))
        kind = " regression" if self.task == "values" else ""
        solver = "" if self.solver == "adam" else f" {self.solver}"
        dropout = f" dropout {self.dropout}" if self.dropout else ""
        return f"{units}{kind} b{self.batch}{solver}{dropout}"

    def smaller(self, parts: int) -> Shape:
        """What each of `parts` workers has: its part of the rows and of each step."""
        rows = self.rows // parts
        batch = self.batch // parts
        return dataclasses.replace(self, rows=rows - rows % batch, batch=batch)

    def quick(self) -> Shape:
        """A few steps of it, to see that everything runs."""
        return dataclasses.replace(
            self, rows=min(self.rows, 4 * self.batch), epochs=min(self.epochs, 3)
        )


SHAPES = (
    Shape(4000, (64, 100, 10), 32, 20),
    Shape(6400, (30, 50, 5), 64, 30, solver="sgd"),
    Shape(12800, (12, 64, 64, 1), 128, 20, task="values"),
    Shape(20000, (20, 100, 1), 200, 20, task="binary"),
    Shape(10000, (784, 100, 10), 200, 10),
    Shape(10240, (784, 256, 256, 10), 256, 6),
    Shape(10240, (784, 256, 256, 10), 1024, 6),
    Shape(8192, (512, 1024, 1024, 10), 1024, 4),
)


def chosen(
    patterns: str | None, quick: bool, shapes: Sequence[Shape] = SHAPES
) -> list[Shape]:
    """The shapes whose name holds one of the comma-separated patterns; all without.

    Raises
    ------
    SystemExit
        None does.
    """
    wanted = [p.strip() for p in patterns.split(",")] if patterns else [""]
    found = [s for s in shapes if any(p in str(s) for p in wanted)]
    if not found:
        names = "\n  ".join(map(str, shapes))
        raise SystemExit(f"no shape is like {patterns!r}; there are\n  {names}")
    return [s.quick() for s in found] if quick else found


def data(shape: Shape, dtype: str) -> tuple[Any, Any]:
    """Rows and targets that a net can learn in part.

    Returns
    -------
    X : ndarray of shape (rows, units[0])
        Of the given dtype.
    y : ndarray of shape (rows,)
        Labels as int64, or values of the given dtype.
    """
    random = np.random.default_rng(0)
    X = random.standard_normal((shape.rows, shape.units[0]), dtype=dtype)
    teacher = random.standard_normal((shape.units[0], shape.units[-1])) / np.sqrt(
        shape.units[0]
    )
    signal = X @ teacher.astype(dtype)
    signal += 0.5 * random.standard_normal(signal.shape, dtype=dtype)
    if shape.task == "values":
        return X, np.tanh(signal[:, 0])
    if shape.task == "binary":
        return X, (signal[:, 0] > 0).astype(np.int64)
    return X, signal.argmax(axis=1)


def estimator(package: Any, shape: Shape, epochs: int, **parameters: Any) -> Any:
    """A network of `package` that trains for exactly so many epochs."""
    kind = package.MLPRegressor if shape.task == "values" else package.MLPClassifier
    parameters = {"solver": shape.solver, "max_iter": epochs} | parameters
    if parameters["solver"] != "lbfgs":
        parameters |= {"batch_size": shape.batch, "n_iter_no_change": epochs + 1}
        if shape.dropout:
            parameters["dropout"] = shape.dropout
    return kind(
        hidden_layer_sizes=shape.units[1:-1], tol=0.0, random_state=0, **parameters
    )


def package(name: str) -> Any:
    """The module that has the two estimators."""
    if name == "sklearn":
        import sklearn.neural_network

        return sklearn.neural_network
    import skmlp

    return skmlp
