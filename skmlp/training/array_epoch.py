"""The epoch on a device: the arrays of any namespace of the array API standard.

Within an epoch nothing comes back from the device but three sums. Order of the rows,
learning rates and dropout's masks are made here, and sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from skmlp.arrays import AnyArray, Arrays, fetch
from skmlp.config import get_config
from skmlp.fused import plus_first, scaled
from skmlp.kernels import reference
from skmlp.model.array_network import ArrayNetwork
from skmlp.model.layout import Views
from skmlp.optim.solvers import SOLVERS, Solver
from skmlp.plan import Plan
from skmlp.training.rank import Rank
from skmlp.training.steps import Steps

Array = np.ndarray[Any, np.dtype[Any]]

#: Bytes of the rows, with their masks, that are taken at once.
_BYTES = 2**26
#: Fields of a plan that its steps do not depend on.
_NOT_OF_STEPS: dict[str, Any] = {
    **dict.fromkeys(("split", "schedule", "order_rng", "dropout_key"), None),
    **dict.fromkeys(("n_rows", "batch_size", "max_iter"), 1),
    **{"n_validation": 0, "first_epoch": 0, "learning_rate": "constant"},
}


@dataclass(frozen=True)
class ArrayStep:
    """The step of a plan: a function of its arguments, which a library may compile.

    Equal ones are the same function.
    """

    plan: Plan
    arrays: Arrays

    @cached_property
    def network(self) -> ArrayNetwork:
        """What computes the gradient."""
        return ArrayNetwork(self.arrays, self.plan)

    @cached_property
    def solver(self) -> Solver:
        """What moves the parameters."""
        return SOLVERS[self.plan.solver](self.plan, reference)

    @cached_property
    def penalised(self) -> AnyArray:
        """1 for trained weights, else 0."""
        layout = self.plan.layout
        found = np.zeros(layout.size, self.plan.dtype)
        for run in layout.without(self.plan.frozen):
            found[run.start : min(run.stop, layout.n_weights)] = 1
        return self.arrays.send(found)

    def __call__(
        self, held: Sequence[AnyArray], rows: Any, numbers: Any, measures: bool
    ) -> tuple[tuple[AnyArray, ...], tuple[AnyArray, AnyArray, AnyArray]]:
        """Return what is held after a step, the loss, and two norms.

        Parameters and moments are held. `numbers` are those of `Solver.settings_of`.
        The norms are that of the penalty, and the squared one of the gradient if it
        `measures` that.
        """
        xp, solver, plan = self.arrays.xp, self.solver, self.plan
        params, *moments = held
        divisor, *settings = numbers
        views = self.network.views(params)
        loss, gradient = self.network.gradient(views, rows, divisor)
        square = gradient @ gradient if measures else loss
        n_weights = plan.layout.n_weights
        weights = params[:n_weights]
        if plan.frozen:
            weights = weights * self.penalised[:n_weights]
        norm, factor = solver.norm(xp, weights), solver.alpha / divisor
        gradient = plus_first(xp, gradient, factor, weights)
        scale: AnyArray = 1.0
        if plan.clip_norm is not None:
            size, most = xp.sqrt(gradient @ gradient), plan.clip_norm
            scale = xp.where(size > most, most / size, xp.ones_like(size))
            gradient = scaled(xp, gradient, scale)
        given = gradient, moments, self.penalised, settings, scale
        params, moments = solver.move(xp, params, *given)
        return (params, *moments), (loss, norm, square)


class ArrayEpoch(Steps):
    """All steps of an epoch of one shard, on the device where its rows lie."""

    def __init__(self, rank: Rank, solver: Solver, moments: Sequence[Array]) -> None:
        (shard,), plan, network = rank.shards, rank.plan, rank.network
        assert isinstance(network, ArrayNetwork)
        self._rows, self._dropout, self._network = shard.rows, shard.dropout, network
        arrays = self._arrays = network.arrays
        self._plan, self._solver, self._divisors = plan, solver, rank.divisors()
        dropped = [n for n, rate in zip(plan.units, plan.dropout, strict=False) if rate]
        width = plan.units[0] + sum(dropped) + plan.units[-1]
        self._most_rows = max(plan.batch_size, _BYTES // width // rank.params.itemsize)
        self._host: Sequence[Array] = (rank.params, *moments)
        self._held: tuple[AnyArray, ...] = ()
        self._best: tuple[Array, AnyArray] | None = None
        compiled = get_config()["torch_compile"] and arrays.name == "torch"
        if compiled:
            arrays = replace(arrays, xp=arrays.xp.compat, compiled=True)
        step = ArrayStep(replace(plan, **_NOT_OF_STEPS), arrays)
        assert step.penalised is not None  # not made while it is compiled
        self._step = arrays.xp.compile(step) if compiled else step
        self._stepping = step.arrays

    def load(self) -> None:
        """Send the rank's arrays to the device."""
        self._held, self._best = tuple(map(self._arrays.send, self._host)), None

    def fetch(self) -> None:
        """Bring what the epochs have made of them."""
        pairs = [*zip(self._host, self._held, strict=True)]
        for ours, there in [*pairs, *([self._best] if self._best else [])]:
            np.copyto(ours, fetch(there))
        self._best = None

    def keep_best(self, best: Array, model: Array) -> None:
        """Keep a copy of the model, on the device."""
        self._best = best, self._arrays.xp.asarray(self._model, copy=True)

    @property
    def _model(self) -> AnyArray:
        return self._held[0 if self._plan.average is None else -1]

    def model_views(self, views: Views) -> Views:
        """Those of the model on the device."""
        return self._network.views(self._model)

    def all_finite(self, part: Array, all_finite: Any) -> bool:
        """Whether the parameters on the device are finite."""
        xp = self._arrays.xp
        return bool(xp.all(xp.isfinite(self._held[0])))

    def run_epoch(self, rates: Sequence[float], step: int) -> Array:
        """All minibatches once."""
        done, total = 0, np.zeros(3)
        steps = enumerate(zip(rates, self._divisors, strict=True), step + 1)
        lines = [self._solver.settings_of(rate, k, by) for k, (rate, by) in steps]
        with self._arrays.quietly():
            while done < len(rates):
                chunk = self._rows.chunk(done, self._most_rows, bool(self._dropout))
                X, _, numbers, y, w, ends = chunk
                rows, cuts, masks = [X, *self._network.targets(y, w)], ends.tolist(), []
                if self._dropout is not None:
                    masks = self._dropout.masks(step + done, numbers, cuts)
                rows += [self._arrays.send(mask, copy=False) for mask in masks]
                before, done = done, done + len(ends) - 1
                given = rows, lines[before:done], cuts
                self._held, sums = self._stepping.repeat(self._step, self._held, *given)
                total = fetch(sums) + total * [1, 1, 0]
        return total.reshape(1, 3)
