"""From an estimator to its plan, the ranks that train it, and fitted attributes."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np

from skmlp import kernels as kernel_sets
from skmlp.comm.base import Shards
from skmlp.config import get_config
from skmlp.cores import usable_cores
from skmlp.estimators.advice import quality, timing_report
from skmlp.estimators.fitting import (
    callback_support,
    fitted_attributes,
    hyperparameters,
    initial_state,
    layer_options,
    validation_rows,
)
from skmlp.estimators.fitting.hyperparameters import hidden_sizes
from skmlp.estimators.fitting.judge import Judge
from skmlp.estimators.targets import real_targets, regression_losses
from skmlp.launch import policy
from skmlp.launch.in_process import InProcessGroup
from skmlp.launch.local_launcher import LocalLauncher
from skmlp.launch.policy import Place
from skmlp.optim.solvers import SOLVERS
from skmlp.plan import Plan
from skmlp.state import Record
from skmlp.training import build, fused_epoch, lbfgs
from skmlp.training import supervisor as training_supervisor
from skmlp.training.protocol import Launcher, RankGroup
from skmlp.training.rank import most_bytes
from skmlp.training.supervisor import Supervisor


def layer_units(estimator: Any, n_features: int, y: Any) -> tuple[int, ...]:
    """Width of each layer."""
    n_outputs = regression_losses.n_outputs(estimator, y.shape[1] if y.ndim == 2 else 1)
    return (n_features, *hidden_sizes(estimator), n_outputs)


def make_plan(
    estimator: Any,
    units: tuple[int, ...],
    dtype: Any,
    n_rows: int,
    weighted: bool,
    start: Any,
    epochs: int | None,
    n_held_out: int,
) -> Plan:
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


def settle(estimator: Any, plan: Plan, place: Place, dense: bool) -> tuple[Plan, Place]:
    """Decide how many shards, the BLAS threads of each, and the parts of a step.

    `dense` says that the rows are no sparse matrix.
    """
    kept = callback_support.layout(estimator)
    if kept is not None:
        return keep_layout(plan, place, kept, dense)
    here = plan
    if dense and fused_epoch.can_run(plan):
        shapes = plan.units, plan.batch_size, plan.n_rows, plan.dtype
        here = replace(plan, step_parts=policy.step_parts(*shapes))
    if place.kind == "process":
        return here, place
    n_asked = n_shards = place.n_ranks or 1
    if get_config()["ranks"] != "as_asked":
        n_shards = policy.worthwhile(place, plan.units, plan.batch_size, plan.dtype)
        if policy.step_threads_do(here.step_parts, n_shards):
            n_shards = 1
        timing_report.tell_fewer(estimator, n_shards, n_asked, plan.batch_size)
    if n_shards == 1:
        return here, policy.HERE
    threads = max(1, usable_cores() // n_shards)
    plan = replace(plan, n_shards=n_shards, blas_threads=threads)
    return plan, replace(place, n_ranks=n_shards)


def keep_layout(
    plan: Plan, place: Place, kept: dict[str, Any], dense: bool
) -> tuple[Plan, Place]:
    """Take up the shards of an earlier fit, with as many ranks as are here."""
    plan = replace(plan, **kept)
    if not (dense and fused_epoch.can_run(plan)):
        plan = replace(plan, step_parts=1)
    if plan.n_shards == 1:
        return plan, policy.HERE
    return plan, replace(place, n_ranks=min(place.n_ranks or 1, plan.n_shards))


def launcher(plan: Plan, rows: Any, place: Place) -> Launcher:
    """How the ranks on this host start."""
    n_ranks, n_shards = place.n_ranks or 1, plan.n_shards

    def here() -> RankGroup:
        limit = plan.blas_threads
        return InProcessGroup(build.on_source, plan, rows, n_shards, limit)

    if place.kind == "process":
        return LocalLauncher(here)
    from skmlp.launch.loky.process_group import LokyGroup

    def processes() -> RankGroup:
        return LokyGroup(
            build.on_source,
            plan,
            rows,
            Shards(tuple(k * n_ranks // n_shards for k in range(n_shards))),
            backend=place.backend,
            blas_threads=plan.blas_threads,
            max_bytes=most_bytes(plan),
            worker_timeout=get_config()["worker_timeout"],
        )

    return LocalLauncher(processes, here)


def supervised(estimator: Any, launcher: Launcher) -> Supervisor:
    """Who looks after a fit's groups."""
    return training_supervisor.Supervisor(
        launcher, print if estimator.verbose else None
    )


def run(
    estimator: Any,
    supervisor: Supervisor,
    plan: Plan,
    start: Any,
    score: Judge | None,
    deadline: float | None,
) -> Any:
    """Train in groups and adopt what comes out.

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
        timing_report.tell_iterations(minimum.records)
        return timing_report.end(estimator, supervisor, plan, minimum.records)
    first = [initial_state.first_state(estimator, plan, start)]
    records: list[Record] = []
    # From here on the supervisor has the parameters; nobody else holds them.
    start.params, start.best_params = np.empty(0), None
    if watch is not None:
        first[0], records = watch.resumed(first[0])
    if score is not None and plan.early_stopping:
        score.check(first[0])
    outcome = training_supervisor.train(
        supervisor,
        plan,
        first.pop(),
        fitted_attributes.printer(estimator, plan, len(records)),
        watch,
        records,
        score=score,
        deadline=deadline,
    )
    as_bad = baseline.judge(outcome)
    fitted_attributes.outcome(estimator, plan, start, outcome, score)
    quality.tell(estimator, baseline, as_bad)
    return timing_report.end(estimator, supervisor, plan, outcome.records)
