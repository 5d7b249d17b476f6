"""The epoch on a device: the arrays of any namespace of the array API standard.

Within an epoch nothing comes back from the device but four numbers. Order of the rows,
learning rates and dropout's masks are made here, and sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from skmlp.arrays import AnyArray, Array, Arrays, fetch
from skmlp.config import get_config
from skmlp.fused import joined, parts, plus_first, scaled, squared
from skmlp.kernels import reference
from skmlp.model.array_network import ArrayNetwork
from skmlp.model.layout import Views
from skmlp.optim.solvers import SOLVERS, Solver
from skmlp.plan import Plan
from skmlp.training.rank import Rank
from skmlp.training.steps import Steps

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
    def call(self) -> Any:
        """The step itself, as it is to be called."""
        return self.arrays.xp.compile(self) if self.arrays.compiled else self

    @cached_property
    def penalised(self) -> list[tuple[AnyArray, int]]:
        """For each part: 1 for trained weights, else 0; how many weights come first."""
        layout, ends = self.plan.layout, self.network.ends
        found = np.zeros(layout.size, self.plan.dtype)
        for run in layout.without(self.plan.frozen):
            found[run.start : min(run.stop, layout.n_weights)] = 1
        return [
            (self.arrays.send(found[start:stop]), min(stop, layout.n_weights) - start)
            for start, stop in pairwise(ends)
        ]

    def split(self, held: Sequence[AnyArray]) -> list[tuple[AnyArray, ...]]:
        """Cut flat vectors into what the step takes: for each part, one of each."""
        ends = self.network.ends
        return [*zip(*(parts(self.arrays.xp, x, ends) for x in held), strict=True)]

    def join(self, held: Sequence[tuple[AnyArray, ...]]) -> tuple[AnyArray, ...]:
        """The flat vectors of all parts."""
        xp = self.arrays.xp
        return tuple(joined(xp, x, x[0]) for x in zip(*held, strict=True))

    def __call__(
        self, held: Sequence[Any], rows: Any, numbers: Any, measures: bool
    ) -> tuple[list[tuple[AnyArray, ...]], AnyArray, AnyArray, Any]:
        """Return what is held after a step, the loss, the penalty's norm, the gradient.

        Parameters and moments are held, part by part. `numbers` are those of
        `Solver.settings_of`. Of the gradient, without the penalty, it is the squared
        norm if the step `measures` that; else the parts.
        """
        xp, solver, plan = self.arrays.xp, self.solver, self.plan
        divisor, *settings = numbers
        views = self.network.views([params for params, *_ in held])
        loss, gradients = self.network.gradient(views, rows, divisor)
        found = squared(gradients) if measures else [*gradients]
        norms, factor = [], solver.alpha / divisor
        for k, (penalised, n) in enumerate(self.penalised):
            if n > 0:
                weights = held[k][0][:n]
                if plan.frozen:
                    weights = weights * penalised[:n]
                norms.append(solver.norm(xp, weights))
                gradients[k] = plus_first(xp, gradients[k], factor, weights)
        scale: AnyArray = 1.0
        if plan.clip_norm is not None:
            size, most = xp.sqrt(squared(gradients)), plan.clip_norm
            scale = xp.where(size > most, most / size, xp.ones_like(size))
            gradients = [scaled(xp, g, scale) for g in gradients]
        moved = []
        for k, (params, *moments) in enumerate(held):
            given = gradients[k], moments, self.penalised[k][0], settings, scale
            moved.append(solver.move(xp, params, *given))
        return moved, loss, sum(norms[1:], norms[0]), found


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
        self._finite = True
        self._best: tuple[Array, AnyArray] | None = None
        if get_config()["torch_compile"] and arrays.name == "torch":
            arrays = replace(arrays, xp=arrays.xp.compat, compiled=True)
        self._step = ArrayStep(replace(plan, **_NOT_OF_STEPS), arrays)
        assert self._step.penalised is not None  # not made while it is compiled

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
        return self._network.views([self._model])

    def all_finite(self, part: Array, all_finite: Any) -> bool:
        """Whether the parameters on the device are finite."""
        return self._finite

    def run_epoch(self, rates: Sequence[float], step: int) -> Array:
        """All minibatches once."""
        done, total = 0, np.zeros(4)
        steps = enumerate(zip(rates, self._divisors, strict=True), step + 1)
        lines = [self._solver.settings_of(rate, k, by) for k, (rate, by) in steps]
        with self._arrays.quietly():
            while done < len(rates):
                chunk = self._rows.chunk(done, self._most_rows, bool(self._dropout))
                X, taken, numbers, y, w, ends = chunk
                rows, cuts = [taken if taken.size else X, y, w], ends.tolist()
                if self._dropout is not None:
                    rows += self._dropout.masks(step + done, numbers, cuts)
                before, done = done, done + len(ends) - 1
                given = self._step, self._held, X, rows, lines[before:done], cuts
                self._held, told = self._step.arrays.repeat(*given)
                for one in told:
                    total = fetch(one) + total * [1, 1, 0, 0]
        self._finite = bool(total[3])
        return total[None, :3]
