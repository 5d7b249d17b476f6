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
from sklearn.base import is_classifier
from sklearn.utils import check_random_state

from skmlp.data import shuffle as orders
from skmlp.data.split import split_rows
from skmlp.estimators.advice.quality import Baseline
from skmlp.estimators.fitting import (
    callback_support,
    fitted_attributes,
    hyperparameters,
    layer_options,
)
from skmlp.model import initializers
from skmlp.model.layout import Array, Layout
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

    Attributes
    ----------
    params : ndarray
        The flat vector.
    first : bool
        The parameters are new.
    goes_on : bool
        The order of the rows and the key of dropout's masks follow those of the call
        before.
    best_params : ndarray or None
        What has predicted up to now, where the run goes on from other parameters.
    rng : RandomState or None
        The caller's; None for a seed.
    state : tuple or None
        Where the twister of a seed stands after the draws up to now.
    drawn_from : tuple or None
        Where the twister stood before the first draw; None if it is none.
    dropout_key : tuple of (int, int) or None
        Of the masks; None without dropout.
    order_rng : tuple or None
        State before the first shuffle; None without shuffling.
    shuffles : int
        Shuffles that earlier calls have done since.
    keyed_order : bool
        There are too many rows for scikit-learn's order and split.
    known_order : RowOrder or None
        The order that an earlier call left.
    split : Split or None
        How rows are set aside for early stopping.
    train, validation : ndarray, KeyedRows or None
        Row numbers of the split.
    split_record : tuple or None
        Row count and random state before the split, for later warm starts.
    """

    params: Array
    first: bool
    goes_on: bool
    best_params: Array | None = None
    rng: np.random.RandomState | None = None
    state: State | None = None
    drawn_from: State | None = None
    dropout_key: tuple[int, int] | None = None
    order_rng: State | None = None
    shuffles: int = 0
    keyed_order: bool = False
    known_order: orders.Order | None = None
    split: Split | None = None
    train: Any = None
    validation: Any = None
    split_record: tuple[int, State] | None = None


def begin(
    estimator: Any, units: tuple[int, ...], dtype: Any, first: bool, incremental: bool
) -> Start:
    """Draw or take over the first parameters."""
    layout = Layout(units)
    if not first:
        check_shapes(estimator, layout, incremental)
    seed = estimator.random_state
    seeded = isinstance(seed, Integral)
    found = callback_support.drawn_from(estimator) if seed is None else None
    if found is not None:
        rng = np.random.RandomState(0)
        set_twister_state(rng, found)
    else:
        rng = seeded_twister(seed) if seeded else check_random_state(seed)
    twister = isinstance(rng._bit_generator, np.random.MT19937)
    drawn_from = twister_state(rng) if twister else None
    if first:
        hidden = hyperparameters.for_first_weights(estimator, len(units) - 2)
        params = initializers.uniform(layout, hidden, rng, dtype)
    else:
        params = layout.pack(estimator.coefs_, estimator.intercepts_, dtype)
    by_score = estimator.solver in SOLVERS and estimator.early_stopping
    goes_on = incremental or bool(by_score and estimator.warm_start)
    start = Start(params, first, goes_on, drawn_from=drawn_from)
    if seeded:
        start.state = twister_state(rng)
    else:
        start.rng = rng
    if first:
        layer_options.put_given(estimator, layout, params)
    elif start.goes_on and not incremental:
        go_on_from_last(estimator, start)
    if not twister:
        # The orders of the rows are defined for the Mersenne twister alone.
        start.rng = np.random.RandomState(rng.randint(2**31 - 1))
    return start


def put_constant(estimator: Any, plan: Plan, start: Start, baseline: Baseline) -> None:
    """Begin with the output biases at the constant prediction, if that is wanted.

    Not where it has no such number: of an output without known targets, or a mean of 0
    under a logarithm. A class that no row has counts as half a row.
    """
    own = plan.loss_entry.output == "exp" and plan.loss != "poisson"
    given = estimator.intercepts_init
    wanted = own or estimator.output_bias_init == "mean"
    if not (start.first and wanted) or (given is not None and given[-1] is not None):
        return
    raw, bias = baseline.raw, plan.layout.views(start.params)[-1][1]
    if plan.loss_entry.target != "real":
        least = np.log(2 * plan.n_rows)
        raw = np.clip(raw, -least, least)
    elif plan.loss_entry.output != "identity":
        raw = np.where(np.abs(raw) < FARTHEST, raw, np.nan)
    np.copyto(bias, raw, where=np.isfinite(raw), casting="same_kind")


def go_on_from_last(estimator: Any, start: Start) -> None:
    """Go on from the last parameters of a fit that stopped early, not from its best.

    Weights that the user has changed since win over both, and have no score yet.
    """
    last, of_best = getattr(estimator, "_last_params", (None, None))
    if last is None:
        return
    if fitted_attributes.fingerprint(estimator) == of_best:
        start.best_params = start.params
        start.params = last.astype(start.params.dtype, copy=False)
    else:
        estimator.best_validation_score_ = None


def _twister(start: Start) -> np.random.RandomState:
    """What the next draws come from."""
    if start.rng is not None:
        return start.rng
    assert start.state is not None
    return twister_at(start.state)


def _position(start: Start) -> State:
    """Where the twister stands."""
    return start.state or twister_state(_twister(start))


def _keep_drawing(start: Start, rng: np.random.RandomState) -> None:
    """After some draws from `rng`: the next ones follow them."""
    if start.rng is None:
        start.state = twister_state(rng)


def check_shapes(estimator: Any, layout: Layout, incremental: bool) -> None:
    """Refuse to go on with parameters of another network."""
    have = [np.shape(W) for W in estimator.coefs_]
    want = [tuple(shape) for shape in layout.shapes]
    biases = [np.shape(b) for b in estimator.intercepts_]
    if have == want and biases == [(width,) for width in layout.units[1:]]:
        return
    what = "partial_fit" if incremental else "warm_start"
    raise ValueError(
        f"{what} goes on with the layers of the fitted model, whose weights have the "
        f"shapes {have}; the parameters and the data now ask for {want}. Set "
        "hidden_layer_sizes back, or fit a new estimator."
    )


def packed_labels(estimator: Any, units: tuple[int, ...], y: Array) -> bytes | None:
    """The bits of the target by which the split is stratified, if it is."""
    if not is_classifier(estimator) or units[-1] != 1:
        return None
    return np.packbits(y != 0).tobytes()


def split(
    estimator: Any, start: Start, n_rows: int, labels: Callable[[], bytes | None]
) -> None:
    """Set rows aside for early stopping, with scikit-learn's draws."""
    if estimator.solver not in SOLVERS or not estimator.early_stopping:
        return
    record: tuple[int, State] | None = getattr(estimator, "_split_record", None)
    # The same rows as before are set aside: the model has trained on the others.
    again = not start.first and record is not None and record[0] == n_rows
    if not again:
        record = n_rows, _position(start)
    assert record is not None
    start.split_record = record
    keyed = is_many(n_rows)
    start.split = Split(
        n_rows,
        float(estimator.validation_fraction),
        record[1],
        None if keyed else labels(),
        keyed,
    )
    rng = twister_at(record[1]) if again else _twister(start)
    start.train, start.validation = split_rows(start.split, rng)
    _keep_drawing(start, rng)


def dropout_key(
    estimator: Any, start: Start, incremental: bool
) -> tuple[int, int] | None:
    """Draw the key of dropout's masks; `partial_fit` goes on with the one it has.

    A warm start, whose steps are counted anew, takes the next key.
    """
    n_hidden = len(hyperparameters.hidden_sizes(estimator))
    if not hyperparameters.dropout(estimator, n_hidden):
        return None
    known: tuple[int, int] | None = getattr(estimator, "_dropout_key", None)
    if start.goes_on and not start.first and known is not None:
        return known if incremental else (known[0], (known[1] + 1) % 2**32)
    rng = _twister(start)
    words = rng.randint(0, 2**32, size=2, dtype=np.uint32)
    _keep_drawing(start, rng)
    return int(words[0]), int(words[1])


def is_many(n_rows: int) -> bool:
    """Whether there are too many rows for scikit-learn's order and split.

    It is asked here alone; the ranks read the answer in the plan.
    """
    return n_rows > orders.EXACT_ROWS


def order(estimator: Any, start: Start, n_rows: int, incremental: bool) -> None:
    """Where the order of the rows begins, or goes on."""
    start.dropout_key = dropout_key(estimator, start, incremental)
    if estimator.solver not in SOLVERS or not estimator.shuffle:
        return
    start.order_rng = _position(start)
    start.keyed_order = is_many(n_rows)
    if not start.goes_on:
        return
    if start.train is not None:
        n_rows = len(start.train)
    record = getattr(estimator, "_order_record", None)
    drawn = estimator.random_state is None or isinstance(
        estimator.random_state, np.random.RandomState
    )
    if (
        record is not None
        and record["n_rows"] == n_rows
        # Where somebody else has drawn from it, another order begins.
        and not (drawn and start.order_rng != record["rng"])
    ):
        start.order_rng = record["start"]
        start.shuffles = record["shuffles"]
        known = getattr(estimator, "_row_order", None)
        if known is not None and np.array_equal(known.base, start.train):
            start.known_order = known
    if start.known_order is None and not start.keyed_order:
        start.known_order = orders.RowOrder(n_rows, start.order_rng, start.train)


def first_state(estimator: Any, plan: Plan, start: Start) -> TrainState:
    """Where the run begins: anew, or where an earlier call ended."""
    size, dtype = start.params.size, start.params.dtype
    state = TrainState(
        params=start.params,
        moments=first_moments(plan, start.params),
        learning_rate=plan.learning_rate_init,
        best=-np.inf if plan.early_stopping else np.inf,
        best_params=np.empty(0, dtype),
        shuffles=start.shuffles,
    )
    if plan.early_stopping:
        best_params = start.best_params
        state.best_params = start.params if best_params is None else best_params
    if start.first:
        return state
    state.samples_seen = getattr(estimator, "t_", 0)
    state.no_improvement = getattr(estimator, "_no_improvement_count", 0)
    best = getattr(
        estimator,
        "best_validation_score_" if plan.early_stopping else "best_loss_",
        None,
    )
    if plan.incremental and plan.early_stopping:
        # Each call has a validation set of its own.
        state.no_improvement = 0
    elif best is not None:
        state.best = best
    known = getattr(estimator, "_moments", None)
    if (
        plan.incremental
        and known is not None
        and estimator._moments_of == plan.solver
        and len(known) == n_moments(plan)
        and known[0].size == size
    ):
        state.moments = tuple(m.astype(dtype, copy=False) for m in known)
        if plan.average is not None:
            go_on_averaging(estimator, state)
        state.step = estimator._optimizer_step
        if estimator._learning_rate_from == plan.learning_rate_init:
            state.learning_rate = estimator._learning_rate
        elif SOLVERS[plan.solver].scheduled:
            rate = plan.learning_rate_init
            state.learning_rate = schedules.after_epoch(
                plan.learning_rate, rate, rate, state.samples_seen, plan.power_t
            )
    return state


def first_moments(plan: Plan, params: Array) -> tuple[Array, ...]:
    """Nothing but zeros, and the mean of the parameters, if they are averaged."""
    # Not `zeros_like`, which writes them: these take no memory until they are written.
    moments = [np.zeros(params.shape, params.dtype) for _ in range(n_moments(plan))]
    if plan.average is not None:
        np.copyto(moments[-1], params)
    return tuple(moments)


def go_on_averaging(estimator: Any, state: TrainState) -> None:
    """Go on from what was averaged, or from the user's weights if these are new."""
    raw = getattr(estimator, "_raw_params", None)
    *moments, mean = state.moments
    if raw is not None and np.array_equal(state.params, mean):
        state.params = raw.astype(mean.dtype, copy=False)
    else:
        state.moments = (*moments, state.params.copy())
