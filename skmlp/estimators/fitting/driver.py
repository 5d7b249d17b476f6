"""The one path of all calls: from parameters and data to fitted attributes."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from skmlp.estimators import array_support
from skmlp.estimators.advice import quality, timing_report
from skmlp.estimators.fitting import (
    callback_support,
    fitted_attributes,
    hyperparameters,
    initial_state,
)
from skmlp.estimators.fitting.hyperparameters import Hyperparameters
from skmlp.estimators.fitting.initial_state import Start
from skmlp.estimators.fitting.inputs import Input, dispatched, is_dask
from skmlp.estimators.fitting.judge import Judge
from skmlp.estimators.fitting.resume import resume_of
from skmlp.estimators.fitting.rows import Rows
from skmlp.estimators.fitting.rows_here import RowsHere
from skmlp.estimators.targets.target import Target
from skmlp.plan import Plan
from skmlp.state import Record
from skmlp.training import lbfgs, supervisor
from skmlp.training.supervisor import Supervisor


def fit(estimator: Any, given: Input, epochs: int | None = None) -> None:
    """Train an estimator; `epochs` are those of `partial_fit`, None in `fit`."""
    began = time.monotonic()
    asked = hyperparameters.read(estimator, given, epochs)
    deadline = None if asked.max_time is None else began + asked.max_time
    with _rows(estimator, asked, given) as rows:
        target: Target = estimator._target
        n_outputs = target.n_outputs(rows.n_columns)
        n_inputs, encoding = rows.n_features, asked.plan["encoding"]
        if encoding is not None:
            n_inputs = encoding.check(n_inputs, rows.sparse)
        units = (n_inputs, *asked.hidden_sizes, n_outputs)
        rows.check_size(units, asked.plan["solver"])
        start = initial_state.draw(
            estimator,
            asked,
            units,
            rows.dtype,
            rows.n_rows,
            None if rows.n_held_out else rows.strata,
            callback_support.drawn_from(estimator),
        )
        plan = _plan(estimator, asked, target, units, rows, start)
        hyperparameters.warn_unused(estimator, rows.n_held_out > 0)
        with (
            rows.ranks(plan, start) as (plan, launcher),
            Supervisor(launcher, print if asked.verbose else None) as ranks,
        ):
            judge = rows.judge(plan, start, ranks)
            records = _train(estimator, asked, plan, start, ranks, judge, deadline)
            told = {"verbose": asked.verbose, "n_jobs": asked.n_jobs}
            timing_report.end(estimator, ranks, plan, records, **told)
        array_support.end(estimator)


@contextmanager
def _rows(estimator: Any, asked: Hyperparameters, given: Input) -> Iterator[Rows]:
    if any(map(is_dask, given)):
        if (arrays := dispatched(given.X)) is not None:
            raise TypeError(
                f"X is an array of {arrays}, and the rest is on Dask: skmlp does not "
                "train on devices of a cluster"
            )
        from skmlp.estimators.fitting import rows_on_dask

        with rows_on_dask.loaded(estimator, asked, given) as rows:
            yield rows
    else:
        yield RowsHere(estimator, asked, given)


def _plan(
    estimator: Any,
    asked: Hyperparameters,
    target: Target,
    units: tuple[int, ...],
    rows: Rows,
    start: Start,
) -> Plan:
    """The plan of one shard."""
    n_rows, n_validation = rows.n_rows, rows.n_held_out
    if start.train is not None:
        n_rows, n_validation = len(start.train), len(start.validation)
    batch_size = n_rows
    if asked.stochastic:
        batch_size = min(asked.batch_size or 200, n_rows)
        if asked.batch_size is not None and asked.batch_size > n_rows:
            warnings.warn(
                "Got `batch_size` less than 1 or larger than sample size. "
                "It is going to be clipped",
                stacklevel=2,
            )
    if isinstance(asked.scoring, str) and asked.scoring != "loss":
        target.check_scoring(asked.scoring)
    # R2 would draw all of several quantiles to the mean.
    by_loss = asked.scoring is not None or target.loss == "quantiles"
    first_epoch = 0
    if asked.mode == "partial_fit" and not start.first:
        first_epoch = resume_of(estimator).get("schedule_epoch", 0)
    return Plan(
        **asked.plan,
        units=units,
        loss=target.loss,
        loss_settings=target.settings,
        masked=target.masked,
        dtype=np.dtype(rows.dtype).name,
        batch_size=batch_size,
        n_rows=n_rows,
        weighted=rows.weighted,
        split=start.split,
        n_validation=n_validation if asked.stochastic else 0,
        scoring="driver" if asked.scorer else "loss" if by_loss else "default",
        order_rng=start.order_rng,
        keyed_order=start.keyed_order,
        dropout_key=start.dropout_key,
        first_epoch=first_epoch,
    )


def _train(
    estimator: Any,
    asked: Hyperparameters,
    plan: Plan,
    start: Start,
    ranks: Supervisor,
    judge: Judge | None,
    deadline: float | None,
) -> Sequence[Record]:
    """Train on the ranks, until `deadline` at most, and adopt what comes out."""
    estimator.n_shards_ = plan.n_shards
    watch = callback_support.of(estimator, plan, start, ranks)
    baseline = quality.Baseline(ranks, plan)
    initial_state.put_constant(asked, plan, start, baseline)
    if not asked.stochastic:
        minimum = lbfgs.minimize(
            ranks,
            plan,
            start.params,
            asked.max_fun,
            show=bool(asked.verbose is True or asked.verbose >= 1),
            watch=watch,
            deadline=deadline,
            unit=baseline.unit,
        )
        as_bad = baseline.judge_minimum(minimum)
        fitted_attributes.minimum(estimator, plan, start, minimum)
        timing_report.tell_iterations(minimum.records)
        records = minimum.records
    else:
        first = [initial_state.first_state(estimator, plan, start)]
        done: list[Record] = []
        # From here on the supervisor has the parameters; nobody else holds them.
        start.params, start.best_params = np.empty(0), None
        if watch is not None:
            first[0], done = watch.resumed(first[0])
        if judge is not None and plan.early_stopping:
            judge.check(first[0])
        show = fitted_attributes.printer(plan, len(done), asked.verbose)
        if hasattr(estimator, "_beside"):
            show = estimator._beside.checked(show)
        outcome = supervisor.train(
            ranks, plan, first.pop(), show, watch, done, score=judge, deadline=deadline
        )
        as_bad = baseline.judge(outcome)
        fitted_attributes.outcome(estimator, plan, start, outcome, judge)
        records = outcome.records
    quality.tell(estimator, baseline, as_bad)
    return records
