"""The networks of a table: the rows of each, its training, and its scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import update_wrapper
from typing import Any

import numpy as np
from joblib.parallel import get_active_backend

from skmlp.arrays import Array
from skmlp.cores import usable_cores
from skmlp.tabular import columns
from skmlp.tabular.beside import Beside
from skmlp.threads import blas_threads_allowed


@dataclass(frozen=True)
class Rows:
    """Rows that members share: what `TableEncoder.columns` gives, targets, weights."""

    #: An array, or a `skmlp.tabular.on_dask.Partitioned`.
    X: Any
    y: Array
    weights: Array | None
    #: The raw rows and targets, for a scorer, if there is one; None on Dask.
    shown: tuple[Any, Any] | None = None

    @property
    def on_dask(self) -> bool:
        """Whether the features lie on a cluster."""
        return not isinstance(self.X, np.ndarray)

    def take(self, rows: Array) -> Rows:
        """Those at some indices."""
        X = self.X.take(rows) if self.on_dask else self.X[rows]
        weights = None if self.weights is None else self.weights[rows]
        shown = self.shown and tuple(columns.take(one, rows) for one in self.shown)
        return Rows(X, self.y[rows], weights, shown)

    @staticmethod
    def joined(parts: Sequence[Rows]) -> Rows:
        """The targets and weights of several, one after the other."""
        weights = [part.weights for part in parts if part.weights is not None]
        return Rows(
            None,
            np.concatenate([part.y for part in parts]),
            np.concatenate(weights) if weights else None,
        )

    def given(self) -> tuple[Any, Any, Any]:
        """Features, targets and weights as a network takes them."""
        if self.on_dask:
            X = self.X
            return X.delayed(), X.split(self.y), X.split(self.weights)
        return self.X, self.y, self.weights

    def with_weight(self) -> Rows:
        """Those that count: a row of weight 0 is as one that is not there."""
        if self.weights is None or self.weights.all() or not self.weights.any():
            return self
        return self.take(np.flatnonzero(self.weights))


class ScorerOfTables:
    """A scorer as a network calls it; the user's own gets the rows of the table.

    Parameters
    ----------
    estimator : BaseTabularMLP
        It predicts by the network alone.
    scorer : callable
        The user's.
    scoring : str or callable
        What it was set by; messages show it.
    shown : tuple or None
        The raw rows and targets; None on Dask, where rows stay on the workers.
    """

    def __init__(self, estimator: Any, scorer: Any, scoring: Any, shown: Any) -> None:
        # Its signature is that of the scorer, which is checked before training.
        update_wrapper(self, scorer)
        self.estimator, self.scorer, self.scoring = estimator, scorer, scoring
        self.shown = shown

    def __repr__(self) -> str:
        return repr(self.scoring)

    def __call__(self, network: Any, X: Any, y: Array, **weights: Any) -> Any:
        """Return the score of a network; its rows are known, and encoded once."""
        model = self.estimator._alone(network)
        rows, targets = self.shown or (X, self.estimator._decoded(y))

        def finished(table: Any, finish: Any) -> Any:
            if table is not rows:
                return type(model)._finished(model, table, finish)
            return finish(model._output(network, X)[None])

        model._finished = finished
        return self.scorer(model, rows, targets, **weights)


def train(
    number: int,
    network: Any,
    rows: Rows,
    held_out: Array | None,
    validation: Rows | None,
    first: Mapping[str, Any],
    judged: tuple[Any, Any] | None,
    told: str,
    beside: Beside,
) -> Any:
    """Train one member; at module level, so that worker processes can.

    It learns from all `rows` but `held_out`. `first` are further arguments of a first
    `partial_fit`, `judged` the estimator and the scorer of ``network.scoring``, if it
    has one. `told` is part of the line that says at the end how it went: "of 6".
    """
    options = dict(first)
    if validation is None and held_out is not None:
        validation = rows.take(held_out)
        others = np.delete(np.arange(len(rows.y)), held_out)
        rows = replace(rows, shown=None).take(others)
    scoring = network.scoring
    if validation is None:
        network.set_params(early_stopping=False, scoring=None)
    else:
        names = "X_val", "y_val", "sample_weight_val"
        options |= zip(names, validation.given(), strict=True)
        if judged is not None:
            network.scoring = ScorerOfTables(*judged, scoring, validation.shown)
    # Not `fit`: here all epochs are wanted, which is nothing to warn of.
    epochs = network.max_iter
    with beside.training(network):
        network.partial_fit(*rows.given(), epochs=epochs, **options)
    if validation is not None:
        network.scoring = scoring  # without the rows
    if told:
        curve = getattr(network, "validation_loss_curve_", None) or network.loss_curve_
        told = f"Network {number + 1} {told}: {network.n_iter_} epochs"
        print(f"{told}, best loss {min(curve):.4f}", flush=True)
    return network


def members_at_once(n_jobs: int | None, n_members: int) -> int | None:
    """How many members joblib trains at the same time.

    As joblib says; where nobody says anything, one for each core of this process that
    BLAS may use: a core of its own serves a member better than parts of all steps.
    """
    _, of_context = get_active_backend(prefer="threads")
    if n_jobs is not None or of_context != 1:
        return n_jobs
    return min(n_members, usable_cores(), blas_threads_allowed() or 1)


def held_out_rows(
    n: int, n_members: int, fraction: float, strata: Array | None, rng: Any
) -> list[Array | None]:
    """The rows that each member holds out: successive runs of one random order.

    Of each stratum every member holds out the same share, rounded down; so a class of
    few rows stays with all of them. Together the members hold out as many different
    rows as there can be. Sorted indices; None where there are too few rows.
    """
    groups = [np.arange(n)]
    if strata is not None:
        groups = [np.flatnonzero(strata == s) for s in np.unique(strata)]
    parts: list[list[Array]] = [[] for _ in range(n_members)]
    for group in groups:
        order = group[rng.permutation(len(group))]
        size = int(fraction * len(group))
        for k in range(n_members):
            where = (k * size + np.arange(size)) % len(group)
            parts[k].append(order[where])
    joined = [np.sort(np.concatenate(part)) for part in parts]
    return [part if len(part) else None for part in joined]
