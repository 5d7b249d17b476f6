"""From an estimator's parameters and data to a plan, a run, and fitted attributes."""

from __future__ import annotations

import time
from numbers import Integral
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.utils.validation import _check_sample_weight

from skmlp.data.sampler import SharedRows
from skmlp.estimators.fitting import (
    hyperparameters,
    initial_state,
    inputs,
    judge,
    layer_options,
    run,
    validation_rows,
)
from skmlp.estimators.fitting.hyperparameters import hidden_sizes
from skmlp.estimators.fitting.inputs import HeldOut
from skmlp.estimators.fitting.validation_rows import Validation
from skmlp.estimators.targets import class_weights, regression_losses
from skmlp.launch import policy
from skmlp.launch.policy import Place
from skmlp.model.layout import Array


def is_first(estimator: Any, incremental: bool) -> bool:
    """Whether a fit begins with new parameters."""
    return not hasattr(estimator, "coefs_") or (
        not estimator.warm_start and not incremental
    )


def fit(
    estimator: Any,
    X: Any,
    y: Any,
    sample_weight: Any,
    held_out: HeldOut,
    *,
    incremental: bool,
    epochs: int = 1,
) -> Any:
    """Train an estimator; see its `fit` and `partial_fit`.

    `held_out` is (X_val, y_val, sample_weight_val), of None where there are none.
    """
    began = time.monotonic()
    check_early(estimator, incremental, sample_weight, held_out, epochs)
    options: dict[str, Any] = {
        "first": is_first(estimator, incremental),
        "incremental": incremental,
        "epochs": epochs if incremental else None,
        "deadline": None if estimator.max_time is None else began + estimator.max_time,
    }
    if any(inputs.is_dask(given) for given in (X, y, sample_weight, *held_out)):
        from skmlp.dask.seceded import thread_given_back
        from skmlp.estimators.fitting import dask_driver

        with thread_given_back():
            return dask_driver.fit(estimator, X, y, sample_weight, held_out, **options)
    given = X, y
    X, y = estimator._check_targets(
        X, y, incremental=incremental, reset=options["first"]
    )
    if sparse.issparse(X):
        X = X.tocsr()
    w = np.empty(0, X.dtype)
    if sample_weight is not None:
        w = inputs.check_weights(_check_sample_weight(sample_weight, X))
    validation = validation_rows.of_this_process(
        estimator, given, held_out, X, y.shape[1:], w.size > 0
    )
    if validation.held_out is not None and validation.held_out[2].size and not w.size:
        w = np.ones(X.shape[0])
    w = _class_weighted(estimator, y, w, validation)
    place = policy.choose(estimator.n_jobs)
    if place.kind == "dask":
        from skmlp.estimators.fitting import dask_driver

        done = dask_driver.fit_rows(estimator, X, y, w, validation, place, **options)
        if done is not None:
            return done
        place = policy.HERE
    return fit_here(estimator, X, y, w, validation, place, **options)


def _class_weighted(estimator: Any, y: Any, w: Array, validation: Validation) -> Array:
    """Weights with those of the classes in them, if there are any."""
    if getattr(estimator, "class_weight", None) is None:
        return w
    rows = inputs.check_weights(class_weights.weighted(estimator, y, w))
    if validation.held_out is not None:
        X_val, y_val, w_val = validation.held_out
        w_val = class_weights.weighted(estimator, y_val, w_val, like=y)
        validation.held_out = X_val, y_val, w_val
    return rows


def fit_here(
    estimator: Any,
    X: Any,
    y: Any,
    w: Array,
    validation: Validation,
    place: Place,
    *,
    first: bool,
    incremental: bool,
    epochs: int | None,
    deadline: float | None,
) -> Any:
    """Train on this host."""
    units = run.layer_units(estimator, X.shape[1], y)
    start = initial_state.begin(estimator, units, X.dtype, first, incremental)
    if validation.held_out is None:
        initial_state.split(
            estimator,
            start,
            X.shape[0],
            lambda: initial_state.packed_labels(estimator, units, y),
        )
    initial_state.order(estimator, start, X.shape[0], incremental)
    plan = run.make_plan(
        estimator,
        units,
        X.dtype,
        X.shape[0],
        w.size > 0,
        start,
        epochs,
        validation.n_rows,
    )
    plan, place = run.settle(estimator, plan, place, not sparse.issparse(X))
    held_out = validation.held_out
    if held_out is not None:
        held_out = (*held_out[:2], held_out[2].astype(X.dtype, copy=False))
    rows = SharedRows(
        X,
        y,
        w.astype(X.dtype, copy=False),
        start.train,
        start.validation,
        start.known_order if place.kind != "processes" else None,
        held_out,
    )
    score = judge.judge(estimator, plan, validation, X, w, start)
    with run.supervised(estimator, run.launcher(plan, rows, place)) as supervisor:
        return run.run(estimator, supervisor, plan, start, score, deadline)


def check_early(
    estimator: Any,
    incremental: bool,
    sample_weight: Any,
    held_out: HeldOut,
    epochs: Any,
) -> None:
    """What needs no data to be wrong."""
    class_weight = getattr(estimator, "class_weight", None)
    weighted = sample_weight is not None or class_weight is not None
    hyperparameters.check(estimator, len(hidden_sizes(estimator)))
    regression_losses.check(estimator)
    layer_options.frozen(estimator, len(hidden_sizes(estimator)) + 1)
    validation_rows.check(estimator, held_out, incremental, weighted)
    if not isinstance(epochs, Integral) or epochs < 1:
        raise ValueError(f"epochs={epochs!r} must be a whole number of 1 or more")
    class_weights.check(class_weight, incremental)
