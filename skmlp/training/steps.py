"""How a rank does the steps of an epoch: the interface of three ways."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from skmlp.arrays import Array
from skmlp.kernels.step_threads import StepThreads
from skmlp.model.layout import Views


class Steps(ABC):
    """Steps on the parameters and moments of a rank.

    `model` is what the model will have, the parameters or their mean, and `best` what
    it had in the best epoch. All of them are numpy's. Steps that keep them elsewhere
    while they train `load` them first, and `fetch` them at the end of a round.
    """

    threads: StepThreads | None = None

    @abstractmethod
    def run_epoch(self, rates: Sequence[float], step: int) -> Array:
        """All minibatches once, each with its learning rate, after `step` steps.

        Returns an array of shape (own shards, 3): the sum of the loss, that of the
        squared norms of the penalised parameters before each step, and the squared norm
        of the last minibatch's gradient.
        """

    def load(self) -> None:
        """Take up the rank's arrays."""
        return

    def fetch(self) -> None:
        """Bring the rank's arrays up to date."""
        return

    def keep_best(self, best: Array, model: Array) -> None:
        """Keep the model as the best one."""
        np.copyto(best, model)

    def model_views(self, views: Views) -> Views:
        """Where the model is; `views` are those of the rank's array."""
        return views

    def all_finite(self, part: Array, all_finite: Any) -> bool:
        """Whether the parameters of a segment are; `part` is the rank's."""
        return bool(all_finite(part))

    def close(self) -> None:
        """End what runs beside them."""
        return
