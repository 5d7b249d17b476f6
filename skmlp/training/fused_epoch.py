"""The epoch of a single shard as few compiled calls, each of many minibatches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from skmlp.arrays import Array
from skmlp.optim.solvers import Solver
from skmlp.training.compiled_steps import CompiledSteps
from skmlp.training.rank import Rank
from skmlp.training.steps import Steps


class FusedEpoch(Steps):
    """All steps of an epoch of one shard, in compiled calls."""

    def __init__(self, rank: Rank, solver: Solver, moments: Sequence[Array]) -> None:
        from skmlp.kernels import epoch

        (shard,) = rank.shards
        self._steps = CompiledSteps(rank, solver, moments, clips=True)
        self.threads = self._steps.threads
        self._rows, self._total = shard.rows, shard.totals
        self._divisors, self._sums = np.array(rank.divisors()), self._steps.sums()
        stages = [epoch.GRADIENT, epoch.REDUCE | epoch.UPDATE]
        if rank.plan.clip_norm is not None:
            stages = [epoch.GRADIENT, epoch.REDUCE | epoch.NORM, epoch.UPDATE]
        self._stages = np.array(stages, np.int64)
        self._segments = self._steps.segments(0, shard.part.size)
        self._X: Array | None = None
        self._address = 0

    def run_epoch(self, rates: Sequence[float], step: int) -> Array:
        """All minibatches once."""
        steps, done = self._steps, 0
        self._sums.fill(0.0)
        numbers = steps.solver.numbers(self._divisors, rates, step)
        while done < len(numbers):
            chunk = self._rows.chunk(done, steps.most_rows, steps.numbered)
            X, *rows, ends = chunk
            if X is not self._X:
                self._X, self._address = X, X.ctypes.data
            before, done = done, done + len(ends) - 1
            steps.run(
                self._stages,
                self._segments,
                self._total,
                (self._address, *rows),
                steps.cuts(ends),
                numbers[before:done],
                self._sums,
            )
        total: Array = self._sums[:, :3].sum(axis=0, keepdims=True)
        total[0, 2] /= self._divisors[-1] ** 2
        return total

    def close(self) -> None:
        """End the step threads."""
        self._steps.close()
