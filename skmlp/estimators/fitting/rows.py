"""The rows of a fit, checked, as the driver sees them wherever they are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from skmlp.estimators.fitting.initial_state import Start
from skmlp.estimators.fitting.judge import Judge
from skmlp.plan import Plan
from skmlp.training.protocol import Launcher
from skmlp.training.supervisor import Supervisor


class Rows(ABC):
    """What two adapters make of an estimator's input: `rows_here`, `rows_on_dask`."""

    #: Training rows, with those that a split will set aside.
    n_rows: int
    #: Validation rows of their own.
    n_held_out: int
    n_features: int
    #: Of the targets.
    n_columns: int
    dtype: np.dtype[Any]
    weighted: bool
    sparse: bool

    def check_size(self, units: tuple[int, ...], solver: str) -> None:
        """MemoryError if the ranks can't hold such a network."""
        return

    @abstractmethod
    def strata(self) -> bytes | None:
        """The bits of a binary target, by which a split is stratified."""

    @abstractmethod
    def ranks(
        self, plan: Plan, start: Start
    ) -> AbstractContextManager[tuple[Plan, Launcher]]:
        """Decide where to train; the plan for it, and what starts the ranks."""

    @abstractmethod
    def judge(self, plan: Plan, start: Start, supervisor: Supervisor) -> Judge | None:
        """What scores a state, if the ranks do not."""
