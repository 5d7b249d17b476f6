"""JAX with the whole epoch compiled: a scan over the minibatches.

NumPy draws the order of the rows, which is part of the time; compiling is not.
"""

from __future__ import annotations

import statistics
import time
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import cases
from benchmarks.cases import Shape
from benchmarks.child import Contestant


def raw_prediction(params: Any, X: Any) -> Any:
    """The net without its last activation."""
    for W, b in params[:-1]:
        X = jax.nn.relu(X @ W + b)
    W, b = params[-1]
    return X @ W + b


def loss_of(params: Any, X: Any, y: Any, task: str) -> Any:
    """The mean over the rows, and scikit-learn's penalty."""
    z = raw_prediction(params, X)
    if task == "classes":
        of_rows = jax.nn.logsumexp(z, axis=1) - jnp.take_along_axis(
            z, y[:, None], axis=1
        ).squeeze(1)
    elif task == "binary":
        of_rows = jax.nn.softplus(z[:, 0]) - y * z[:, 0]
    else:
        of_rows = 0.5 * (z[:, 0] - y) ** 2
    penalty = sum((W**2).sum() for W, _ in params)
    return of_rows.mean() + 0.5 * cases.ALPHA * penalty / len(X)


def adam(params: Any, moments: Any, gradient: Any, t: Any) -> tuple[Any, Any]:
    """Kingma and Ba, "Adam", 2015, in scikit-learn's order."""
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, moments[0], gradient)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, moments[1], gradient)
    rate = cases.RATE * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    params = jax.tree.map(
        lambda p, m, v: p - (rate * m / (jnp.sqrt(v) + 1e-8)).astype(p.dtype),
        params,
        first,
        second,
    )
    return params, (first, second)


def sgd(params: Any, moments: Any, gradient: Any, t: Any) -> tuple[Any, Any]:
    """With Nesterov's momentum, as scikit-learn writes it."""
    mu, rate = cases.MOMENTUM, cases.RATE
    velocity = jax.tree.map(lambda v, g: mu * v - rate * g, moments[0], gradient)
    params = jax.tree.map(
        lambda p, v, g: p + mu * v - rate * g, params, velocity, gradient
    )
    return params, (velocity,)


_OPTIMIZERS: dict[str, Any] = {"adam": (adam, 2), "sgd": (sgd, 1)}


def epoch(
    state: Any, X: Any, y: Any, order: Any, *, task: str, solver: str
) -> tuple[Any, Any]:
    """All steps of an epoch.

    Parameters
    ----------
    state : tuple
        Parameters, moments, number of steps.
    X, y : array
        All rows.
    order : array of shape (steps, batch)
        Which rows each step takes.
    task, solver : str
        See `benchmarks.cases.Shape`.
    """
    update, _ = _OPTIMIZERS[solver]

    def step(state: Any, rows: Any) -> tuple[Any, Any]:
        params, moments, t = state
        loss, gradient = jax.value_and_grad(loss_of)(params, X[rows], y[rows], task)
        params, moments = update(params, moments, gradient, t + 1)
        return (params, moments, t + 1), loss

    state, losses = jax.lax.scan(step, state, order)
    return state, losses.mean()


class Jax(Contestant):
    """One process."""

    def prepare(self, shape: dict[str, Any], dtype: str) -> None:
        """Make data and parameters, and compile."""
        jax.config.update("jax_enable_x64", dtype == "float64")
        self._shape = Shape(**shape)
        X, y = cases.data(self._shape, dtype)
        self._X, self._y = jnp.asarray(X), jnp.asarray(y)
        self._random = np.random.default_rng(0)
        units = self._shape.units
        params = []
        for i, o in pairwise(units):
            bound = np.sqrt(6.0 / (i + o))
            W = self._random.uniform(-bound, bound, (i, o)).astype(dtype)
            params.append((jnp.asarray(W), jnp.zeros(o, dtype)))
        _, n_moments = _OPTIMIZERS[self._shape.solver]
        moments = tuple(jax.tree.map(jnp.zeros_like, params) for _ in range(n_moments))
        self._state = (params, moments, jnp.zeros((), dtype))
        self._epoch = jax.jit(
            partial(epoch, task=self._shape.task, solver=self._shape.solver),
            donate_argnums=0,
        )
        self.run(1)

    def run(self, epochs: int) -> dict[str, float]:
        """Time epochs."""
        seconds = []
        rows = np.arange(self._shape.rows, dtype=np.int32)
        for _ in range(epochs):
            began = time.perf_counter()
            self._random.shuffle(rows)
            order = rows.reshape(-1, self._shape.batch)
            self._state, loss = self._epoch(self._state, self._X, self._y, order)
            loss.block_until_ready()
            seconds.append(time.perf_counter() - began)
        return {
            "epoch": statistics.median(seconds),
            "fit": sum(seconds) / epochs,
            "loss": float(loss),
        }
