"""From an estimator's parameters and data to a plan, a run, and fitted attributes."""

from __future__ import annotations

import sys
import time
import warnings
from dataclasses import replace
from numbers import Integral

import numpy as np
from scipy import sparse
from sklearn.utils.validation import _check_sample_weight

from skmlp import kernels as kernel_sets
from skmlp.comm.base import Shards
from skmlp.config import get_config
from skmlp.cores import usable_cores
from skmlp.data.sampler import SharedRows
from skmlp.estimators.fitting import (
    callback_support,
    fitted_attributes,
    hyperparameters,
    initial_state,
    judge,
    layer_options,
    quality,
    timing_report,
    validation_rows,
)
from skmlp.estimators.fitting.hyperparameters import hidden_sizes
from skmlp.estimators.targets import class_weights, real_targets, regression_losses
from skmlp.launch import policy
from skmlp.launch.local_launcher import LocalLauncher
from skmlp.optim.solvers import SOLVERS
from skmlp.plan import Plan
from skmlp.training import build, fused_epoch, lbfgs
from skmlp.training import supervisor as training_supervisor
from skmlp.training.protocol import Launcher
from skmlp.training.rank import most_bytes


def is_first(estimator, incremental):
    """Whether a fit begins with new parameters."""
    return not hasattr(estimator, "coefs_") or (
        not estimator.warm_start and not incremental
    )


def fit(estimator, X, y, sample_weight, held_out, *, incremental, epochs=1):
    """Train an estimator; see its `fit` and `partial_fit`.

    `held_out` is (X_val, y_val, sample_weight_val), of None where there are none.
    """
    began = time.monotonic()
    check_early(estimator, incremental, sample_weight, held_out, epochs)
    options = {
        "first": is_first(estimator, incremental),
        "incremental": incremental,
        "epochs": epochs if incremental else None,
        "deadline": None if estimator.max_time is None else began + estimator.max_time,
    }
    if any(is_dask(given) for given in (X, y, sample_weight, *held_out)):
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
        w = check_weights(_check_sample_weight(sample_weight, X))
    validation = validation_rows.of_this_process(
        estimator, given, held_out, X, y.shape[1:], w.size > 0
    )
    if validation.held_out is not None and validation.held_out[2].size and not w.size:
        w = np.ones(X.shape[0])
    w = _class_weighted(estimator, y, w, validation)
    place = policy.choose(estimator.n_jobs)
    if place.kind == "dask":
        from skmlp.estimators.fitting import dask_driver

        return dask_driver.fit_rows(estimator, X, y, w, validation, place, **options)
    return fit_here(estimator, X, y, w, validation, place, **options)


def _class_weighted(estimator, y, w, validation):
    """Weights with those of the classes in them, if there are any."""
    if getattr(estimator, "class_weight", None) is None:
        return w
    rows = check_weights(class_weights.weighted(estimator, y, w))
    if validation.held_out is not None:
        X_val, y_val, w_val = validation.held_out
        w_val = class_weights.weighted(estimator, y_val, w_val, like=y)
        validation.held_out = X_val, y_val, w_val
    return rows


def fit_here(
    estimator, X, y, w, validation, place, *, first, incremental, epochs, deadline
):
    """Train on this host."""
    units = layer_units(estimator, X.shape[1], y)
    start = initial_state.begin(estimator, units, X.dtype, first, incremental)
    if validation.held_out is None:
        initial_state.split(
            estimator,
            start,
            X.shape[0],
            lambda: initial_state.packed_labels(estimator, units, y),
        )
    initial_state.order(estimator, start, X.shape[0], incremental)
    plan = make_plan(
        estimator,
        units,
        X.dtype,
        X.shape[0],
        w.size > 0,
        start,
        epochs,
        validation.n_rows,
    )
    plan, place = settle(estimator, plan, place, not sparse.issparse(X))
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
    with supervised(estimator, launcher(plan, rows, place)) as supervisor:
        return run(estimator, supervisor, plan, start, score, deadline)


def is_dask(data):
    """Whether it is a Dask collection, a future, or a list of such.

    Dask is not imported for the question.
    """
    dask = sys.modules.get("dask.base")
    if dask is None:
        return False
    distributed = sys.modules.get("distributed.client")

    def on_dask(one):
        future = distributed is not None and isinstance(one, distributed.Future)
        return future or dask.is_dask_collection(one)

    if isinstance(data, (list, tuple)):
        return bool(data) and all(map(on_dask, data))
    return on_dask(data) or hasattr(data, "is_dask_parts")


def check_early(estimator, incremental, sample_weight, held_out, epochs):
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


NO_WEIGHT = (
    "Sample weights must contain at least one non-zero number, and their sum must be "
    "greater than zero; it is {:g}."
)


def check_weights(w):
    """Refuse weights that add up to nothing."""
    total = w.sum(dtype=np.float64)
    if total <= 0:
        raise ValueError(NO_WEIGHT.format(total))
    return w


def layer_units(estimator, n_features, y):
    """Width of each layer."""
    n_outputs = regression_losses.n_outputs(estimator, y.shape[1] if y.ndim == 2 else 1)
    return (n_features, *hidden_sizes(estimator), n_outputs)


def make_plan(estimator, units, dtype, n_rows, weighted, start, epochs, n_held_out):
    """Read the hyper-parameters: nobody below the estimators does.

    Parameters
    ----------
    estimator : BaseMLP
        Its parameters.
    units : tuple of int
        Width of each layer.
    dtype : dtype
        The training dtype.
    n_rows : int
        Rows, with those that are set aside.
    weighted : bool
        The rows have weights.
    start : Start
        For the split and the order of the rows.
    epochs : int or None
        Of `partial_fit`; None for `fit`.
    n_held_out : int
        Validation rows that are not among those.

    Returns
    -------
    Plan
        Of one shard.
    """
    n_validation = n_held_out
    if start.train is not None:
        n_rows, n_validation = len(start.train), len(start.validation)
    batch_size = n_rows
    if estimator.solver in SOLVERS:
        if estimator.batch_size == "auto":
            batch_size = min(200, n_rows)
        else:
            if estimator.batch_size > n_rows:
                warnings.warn(
                    "Got `batch_size` less than 1 or larger than sample size. "
                    "It is going to be clipped",
                    stacklevel=2,
                )
            batch_size = int(np.clip(estimator.batch_size, 1, n_rows))
    plan = Plan(
        units=units,
        activation=hyperparameters.activations(estimator, len(units) - 2),
        loss=estimator._loss_name(),
        loss_settings=regression_losses.settings(estimator),
        masked=real_targets.masked(estimator),
        solver=estimator.solver,
        dtype=np.dtype(dtype).name,
        alpha=float(estimator.alpha),
        batch_size=batch_size,
        n_rows=n_rows,
        weighted=weighted,
        learning_rate=estimator.learning_rate,
        learning_rate_init=float(estimator.learning_rate_init),
        power_t=float(estimator.power_t),
        momentum=float(estimator.momentum),
        nesterovs_momentum=bool(estimator.nesterovs_momentum),
        beta_1=float(estimator.beta_1),
        beta_2=float(estimator.beta_2),
        epsilon=float(estimator.epsilon),
        max_iter=int(estimator.max_iter if epochs is None else epochs),
        tol=float(estimator.tol),
        tol_scale=estimator.tol_scale,
        n_iter_no_change=float(estimator.n_iter_no_change),
        early_stopping=estimator.solver in SOLVERS and bool(estimator.early_stopping),
        split=start.split,
        n_validation=n_validation if estimator.solver in SOLVERS else 0,
        scoring=validation_rows.scoring_of(estimator),
        incremental=epochs is not None,
        order_rng=start.order_rng,
        keyed_order=start.keyed_order,
        frozen=layer_options.frozen(estimator, len(units) - 1),
        kernels=kernel_sets.resolve(get_config()["kernels"]),
        dropout=hyperparameters.dropout(estimator, len(units) - 2),
        dropout_key=start.dropout_key,
        weight_decay=float(estimator.weight_decay),
        l1_ratio=float(estimator.l1_ratio),
        rho=float(estimator.rho),
        **hyperparameters.training(estimator, start, epochs is not None),
    )
    hyperparameters.warn_unused(estimator, n_held_out > 0)
    return plan


def settle(estimator, plan, place, dense):
    """Decide how many shards, the BLAS threads of each, and the lanes of a single one.

    `dense` says that the rows are no sparse matrix.
    """
    kept = callback_support.layout(estimator)
    if kept is not None:
        return keep_layout(plan, place, kept, dense)
    here = plan
    if dense and fused_epoch.can_run(plan):
        shapes = plan.units, plan.batch_size, plan.n_rows, plan.dtype
        here = replace(plan, lanes=policy.lanes(*shapes))
    if place.kind == "process":
        return here, place
    n_shards = place.n_ranks
    if get_config()["ranks"] != "as_asked":
        n_shards = policy.worthwhile(place, plan.units, plan.batch_size, plan.dtype)
        if policy.lanes_do(here.lanes, n_shards):
            n_shards = 1
        timing_report.tell_fewer(estimator, n_shards, place.n_ranks, plan.batch_size)
    if n_shards == 1:
        return here, policy.HERE
    threads = max(1, usable_cores() // n_shards)
    plan = replace(plan, n_shards=n_shards, blas_threads=threads)
    return plan, replace(place, n_ranks=n_shards)


def keep_layout(plan, place, kept, dense):
    """Take up the shards of an earlier fit, with as many ranks as are here."""
    plan = replace(plan, **kept)
    if not (dense and fused_epoch.can_run(plan)):
        plan = replace(plan, lanes=1)
    if plan.n_shards == 1:
        return plan, policy.HERE
    kind = "threads" if place.kind == "process" else place.kind
    n_ranks = min(place.n_ranks or 1, plan.n_shards)
    return plan, replace(place, kind=kind, n_ranks=n_ranks)


def launcher(plan, rows, place) -> Launcher:
    """How the ranks on this host start."""
    n_ranks = place.n_ranks
    shards = Shards(tuple(k * n_ranks // plan.n_shards for k in range(plan.n_shards)))
    if place.kind == "process":
        from skmlp.launch.in_process import InProcessGang

        return LocalLauncher(lambda: InProcessGang(build.on_source, plan, rows))
    from skmlp.launch.in_process import ThreadGang

    what = build.on_source, plan, rows, shards
    limits = {"backend": place.backend, "blas_threads": plan.blas_threads}
    if place.kind == "threads":
        return LocalLauncher(lambda: ThreadGang(*what, **limits))
    from skmlp.launch.loky.process_group import LokyGang

    here = {**limits, "backend": "threading"}
    limits["max_bytes"] = most_bytes(plan)
    limits["worker_timeout"] = get_config()["worker_timeout"]
    return LocalLauncher(
        lambda: LokyGang(*what, **limits), lambda: ThreadGang(*what, **here)
    )


def supervised(estimator, launcher):
    """Who looks after a fit's gangs."""
    return training_supervisor.Supervisor(
        launcher, print if estimator.verbose else None
    )


def run(estimator, supervisor, plan, start, score, deadline):
    """Train in gangs and adopt what comes out.

    `score` is the `Judge` that scores a state, if not the ranks do; `deadline` is when
    to end, by `time.monotonic`.
    """
    estimator.n_shards_ = plan.n_shards
    watch = callback_support.of(estimator, plan, start, supervisor)
    baseline = quality.Baseline(supervisor, plan)
    initial_state.put_constant(estimator, plan, start, baseline)
    if plan.solver not in SOLVERS:
        minimum = lbfgs.minimize(
            supervisor,
            plan,
            start.params,
            int(estimator.max_fun),
            show=bool(estimator.verbose is True or estimator.verbose >= 1),
            watch=watch,
            deadline=deadline,
            unit=baseline.unit,
        )
        as_bad = baseline.judge_minimum(minimum)
        fitted_attributes.minimum(estimator, plan, start, minimum)
        quality.tell(estimator, baseline, as_bad)
        timing_report.tell(minimum.records, show=bool(estimator.verbose))
        return timing_report.ranks(estimator, supervisor)
    first, records = [initial_state.first_state(estimator, plan, start)], []
    # From here on the supervisor has the parameters; nobody else holds them.
    start.params = start.best_params = None
    if watch is not None:
        first[0], records = watch.resumed(first[0])
    if score is not None and plan.early_stopping:
        score.check(first[0])
    outcome = training_supervisor.train(
        supervisor,
        plan,
        first.pop(),
        fitted_attributes.printer(plan, len(records))
        if estimator.verbose
        else fitted_attributes.silent,
        watch,
        records,
        score=score,
        deadline=deadline,
    )
    as_bad = baseline.judge(outcome)
    fitted_attributes.outcome(estimator, plan, start, outcome, score)
    quality.tell(estimator, baseline, as_bad)
    timing_report.tell(outcome.records, show=bool(estimator.verbose))
    return timing_report.ranks(estimator, supervisor)
