"""What a run begins with: parameters, split, order of the rows, moments.

Everything that draws from the estimator's random state is here, in scikit-learn's
sequence: first weights, split, shuffles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.utils import assert_all_finite, check_random_state

from skmlp.arrays import Array, fetch
from skmlp.data import shuffle as orders
from skmlp.data.split import split_rows
from skmlp.estimators.advice.quality import Baseline
from skmlp.estimators.fitting.hyperparameters import Hyperparameters
from skmlp.estimators.fitting.resume import Resume, fingerprint, resume_of
from skmlp.model import initializers
from skmlp.model.layout import Layout, layout_of
from skmlp.optim import schedules
from skmlp.optim.solvers import SOLVERS
from skmlp.plan import Plan, Split
from skmlp.rng_state import (
    State,
    seeded_twister,
    set_twister_state,
    twister_at,
    twister_state,
)
from skmlp.state import TrainState
from skmlp.training.constant import FARTHEST
from skmlp.training.segments import n_moments


@dataclass
class Start:
    """What a run begins with, drawn from the estimator and its random state.

    `first`: the parameters are new. `goes_on`: the order of the rows and the key of
    dropout's masks follow those of the call before. `best_params`: what has predicted
    up to now, where the run goes on from other parameters. `rng`: the caller's; None
    for a seed, whose twister stands at `state`. `drawn_from`: where the twister stood
    before the first draw; None if it is none. `train` and `validation`: row numbers of
    a split. The other fields are those of `skmlp.plan.Plan` and `TrainState`.
    """

    params: Array
    first: bool
    goes_on: bool
    rng: np.random.RandomState | None
    state: State | None
    drawn_from: State | None
    best_params: Array | None = None
    dropout_key: tuple[int, int] | None = None
    order_rng: State | None = None
    shuffles: int = 0
    keyed_order: bool = False
    known_order: orders.Order | None = None
    split: Split | None = None
    train: Any = None
    validation: Any = None

    def twister(self) -> np.random.RandomState:
        """What the next draws come from."""
        if self.rng is not None:
            return self.rng
        assert self.state is not None
        return twister_at(self.state)

    def position(self) -> State:
        """Where the twister stands."""
        return self.state or twister_state(self.twister())

    def drawn(self, rng: np.random.RandomState) -> None:
        """After some draws from `rng`: the next ones follow them."""
        if self.rng is None:
            self.state = twister_state(rng)


def draw(
    estimator: Any,
    asked: Hyperparameters,
    units: tuple[int, ...],
    dtype: Any,
    n_rows: int,
    strata: Callable[[], bytes | None] | None,
    drawn_from: State | None,
) -> Start:
    """Draw or take over what a run begins with.

    `strata` gives the bits by which a split is stratified; None where the validation
    rows are others. A checkpoint without a seed goes on from `drawn_from`.
    """
    resume = resume_of(estimator)
    start = _first_params(estimator, asked, resume, layout_of(units), dtype, drawn_from)
    if asked.early_stopping and strata is not None:
        _split(asked, resume, start, n_rows, strata)
    if asked.plan["dropout"]:
        start.dropout_key = _dropout_key(asked, resume, start)
    if asked.shuffle:
        _order(asked, resume, start, n_rows, getattr(estimator, "_row_order", None))
    return start


def _first_params(
    estimator: Any,
    asked: Hyperparameters,
    resume: Resume,
    layout: Layout,
    dtype: Any,
    found: State | None,
) -> Start:
    if not asked.first:
        _check_shapes(estimator, layout, asked)
    seed = asked.random_state
    seeded = isinstance(seed, Integral)
    if seed is None and found is not None:
        rng = np.random.RandomState(0)
        set_twister_state(rng, found)
    else:
        rng = seeded_twister(seed) if seeded else check_random_state(seed)
    twister = isinstance(rng._bit_generator, np.random.MT19937)
    drawn_from = twister_state(rng) if twister else None
    if asked.first:
        params = initializers.uniform(layout, asked.first_activations, rng, dtype)
        _put_given(asked, layout, params)
    else:
        coefs, intercepts = map(fetch, estimator.coefs_), estimator.intercepts_
        params = layout.pack([*coefs], [*map(fetch, intercepts)], dtype)
    state = twister_state(rng) if seeded else None
    if not twister:
        # The orders of the rows are defined for the Mersenne twister alone.
        rng = np.random.RandomState(rng.randint(2**31 - 1))
    by_score = asked.early_stopping and asked.mode != "fit"
    goes_on = asked.mode == "partial_fit" or by_score
    start = Start(
        params, asked.first, goes_on, None if seeded else rng, state, drawn_from
    )
    if by_score and asked.mode == "warm_start" and not asked.first:
        _go_on_from_last(estimator, resume, start)
    return start


def _check_shapes(estimator: Any, layout: Layout, asked: Hyperparameters) -> None:
    """Refuse to go on with parameters of another network."""
    have = [np.shape(W) for W in estimator.coefs_]
    want = [tuple(shape) for shape in layout.shapes]
    biases = [np.shape(b) for b in estimator.intercepts_]
    if have == want and biases == [(width,) for width in layout.units[1:]]:
        return
    raise ValueError(
        f"{asked.mode} goes on with the layers of the fitted model, whose weights have "
        f"the shapes {have}; the parameters and the data now ask for {want}. Set "
        "hidden_layer_sizes back, or fit a new estimator."
    )


def _put_given(asked: Hyperparameters, layout: Layout, params: Array) -> None:
    """Write `coefs_init` and `intercepts_init` over what was drawn."""
    views = layout.views(params)
    all_given = {
        "coefs_init": asked.coefs_init,
        "intercepts_init": asked.intercepts_init,
    }
    for i, (name, given) in enumerate(all_given.items()):
        if given is None:
            continue
        if len(given) != len(views):
            raise ValueError(
                f"{name} must have one array, or None, for each of the {len(views)} "
                f"layers, but it has {len(given)}"
            )
        for layer, (value, pair) in enumerate(zip(given, views, strict=True)):
            if value is not None:
                _put(f"{name}[{layer}]", value, pair[i])


def _put(name: str, value: Any, place: Array) -> None:
    value = np.asarray(fetch(value))
    if value.shape != place.shape:
        raise ValueError(
            f"{name} has the shape {value.shape}, but the layer it is for has "
            f"{place.shape}"
        )
    if value.dtype.kind not in "fiub":
        raise ValueError(f"{name} must hold real numbers, but has dtype {value.dtype}")
    place[...] = value
    assert_all_finite(place, input_name=name)


def _go_on_from_last(estimator: Any, resume: Resume, start: Start) -> None:
    """Go on from the last parameters of a fit that stopped early, not from its best.

    Weights that the user has changed since win over both, and have no score yet.
    """
    if "last_params" not in resume:
        return
    last, of_best = resume["last_params"]
    if fingerprint(estimator) == of_best:
        start.best_params = start.params
        start.params = last.astype(start.params.dtype, copy=False)
    else:
        estimator.best_validation_score_ = None


def _split(
    asked: Hyperparameters,
    resume: Resume,
    start: Start,
    n_rows: int,
    strata: Callable[[], bytes | None],
) -> None:
    """Set rows aside for early stopping, with scikit-learn's draws."""
    drawn, again = resume.get("split"), False
    if not start.first and drawn is not None:
        # The same rows as before are set aside: the model has trained on the others.
        again = drawn[0] == n_rows
    rng_state = drawn[1] if drawn is not None and again else start.position()
    keyed = is_many(n_rows)
    labels = None if keyed else strata()
    start.split = Split(n_rows, asked.validation_fraction, rng_state, labels, keyed)
    rng = twister_at(rng_state) if again else start.twister()
    start.train, start.validation = split_rows(start.split, rng)
    start.drawn(rng)


def _dropout_key(
    asked: Hyperparameters, resume: Resume, start: Start
) -> tuple[int, int]:
    """Draw the key of dropout's masks; `partial_fit` goes on with the one it has.

    A warm start, whose steps are counted anew, takes the next key.
    """
    known = resume.get("dropout_key")
    if start.goes_on and not start.first and known is not None:
        anew = asked.mode != "partial_fit"
        return (known[0], (known[1] + 1) % 2**32) if anew else known
    rng = start.twister()
    words = rng.randint(0, 2**32, size=2, dtype=np.uint32)
    start.drawn(rng)
    return int(words[0]), int(words[1])


def is_many(n_rows: int) -> bool:
    """Whether there are too many rows for scikit-learn's order and split.

    It is asked here alone; the ranks read the answer in the plan.
    """
    return n_rows > orders.EXACT_ROWS


def _order(
    asked: Hyperparameters, resume: Resume, start: Start, n_rows: int, known: Any
) -> None:
    """Where the order of the rows begins, or goes on; `known` is the last call's."""
    start.order_rng, start.keyed_order = start.position(), is_many(n_rows)
    if not start.goes_on:
        return
    if start.train is not None:
        n_rows = len(start.train)
    record = resume.get("order")
    seed = asked.random_state
    drawn = seed is None or isinstance(seed, np.random.RandomState)
    if (
        record is not None
        and record["n_rows"] == n_rows
        # Where somebody else has drawn from it, another order begins.
        and not (drawn and start.order_rng != record["rng"])
    ):
        start.order_rng = record["order_rng"]
        start.shuffles = record["shuffles"]
        if known is not None and np.array_equal(known.base, start.train):
            start.known_order = known
    if start.known_order is None and not start.keyed_order:
        start.known_order = orders.RowOrder(n_rows, start.order_rng, start.train)


# -- with the plan, and the ranks at work ----------------------------------------------


def put_constant(
    asked: Hyperparameters, plan: Plan, start: Start, baseline: Baseline
) -> None:
    """Begin with the output biases at the constant prediction, if that is wanted.

    Not where it has no such number: of an output without known targets, or a mean of 0
    under a logarithm. A class that no row has counts as half a row.
    """
    own = plan.loss_entry.output == "exp" and plan.loss != "poisson"
    given = asked.intercepts_init
    wanted = own or asked.output_bias_init == "mean"
    if not (start.first and wanted) or (given is not None and given[-1] is not None):
        return
    raw, bias = baseline.constant[0], plan.layout.views(start.params)[-1][1]
    if plan.loss_entry.target != "real":
        least = np.log(2 * plan.n_rows)
        raw = np.clip(raw, -least, least)
    elif plan.loss_entry.output != "identity":
        raw = np.where(np.abs(raw) < FARTHEST, raw, np.nan)
    np.copyto(bias, raw, where=np.isfinite(raw), casting="same_kind")


def first_state(estimator: Any, plan: Plan, start: Start) -> TrainState:
    """Where the run begins: anew, or where an earlier call ended."""
    state = TrainState(
        params=start.params,
        moments=_first_moments(plan, start.params),
        learning_rate=plan.learning_rate_init,
        best=-np.inf if plan.early_stopping else np.inf,
        best_params=np.empty(0, start.params.dtype),
        shuffles=start.shuffles,
    )
    if plan.early_stopping:
        best_params = start.best_params
        state.best_params = start.params if best_params is None else best_params
    if start.first:
        return state
    state.samples_seen = getattr(estimator, "t_", 0)
    best = "best_validation_score_" if plan.early_stopping else "best_loss_"
    if not (plan.incremental and plan.early_stopping):
        # Else each call has a validation set of its own.
        state.no_improvement = getattr(estimator, "_no_improvement_count", 0)
        known = getattr(estimator, best, None)
        state.best = state.best if known is None else known
    if plan.incremental:
        _go_on_stepping(resume_of(estimator), plan, state)
    return state


def _go_on_stepping(resume: Resume, plan: Plan, state: TrainState) -> None:
    """Take over moments and learning rate, if they are of the same solver."""
    moments = resume.get("moments", [])
    if (
        resume.get("solver") != plan.solver
        or len(moments) != n_moments(plan)
        or any(m.size != state.params.size for m in moments)
    ):
        return
    dtype = state.params.dtype
    state.moments = tuple(m.astype(dtype, copy=False) for m in moments)
    if plan.average is not None:
        # From what was averaged, or from the user's weights if these are new.
        *own, mean = state.moments
        raw = resume.get("raw_params")
        if raw is not None and np.array_equal(state.params, mean):
            state.params = raw.astype(dtype, copy=False)
        else:
            state.moments = (*own, state.params.copy())
    state.step = resume["step"]
    rate = plan.learning_rate_init
    if resume["learning_rate_init"] == rate:
        state.learning_rate = resume["learning_rate"]
    elif SOLVERS[plan.solver].scheduled:
        seen = state.samples_seen
        state.learning_rate = schedules.after_epoch(
            plan.learning_rate, rate, rate, seen, plan.power_t
        )


def _first_moments(plan: Plan, params: Array) -> tuple[Array, ...]:
    """Nothing but zeros, and the mean of the parameters, if they are averaged."""
    # Not `zeros_like`, which writes them: these take no memory until they are written.
    moments = [np.zeros(params.shape, params.dtype) for _ in range(n_moments(plan))]
    if plan.average is not None:
        np.copyto(moments[-1], params)
    return tuple(moments)
