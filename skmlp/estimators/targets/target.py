"""What a network learns, and how it becomes predictions: one class for each kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from skmlp.arrays import Array
from skmlp.data.partitions import PartStats


class Target(ABC):
    """Labels or values as the loss takes them, and back."""

    #: See `skmlp.model.losses.entry`, and the fields of `skmlp.plan.Plan`.
    loss: Any
    settings: tuple[float, ...] = ()
    heads: tuple[int, ...] = ()
    masked: bool = False
    #: Of classes: the labels of each column of encoded targets.
    labels: list[Array] | None = None

    @abstractmethod
    def n_outputs(self, n_columns: int) -> int:
        """Width of the last layer for so many columns of targets."""

    @abstractmethod
    def check_validation(self, estimator: Any, X: Any, y: Any) -> tuple[Any, Array]:
        """Validate rows of a validation set; return them, with y encoded."""

    @abstractmethod
    def check_stats(self, stats: PartStats) -> None:
        """Check the targets of a validation set that lies on workers."""

    @abstractmethod
    def decode(self, y: Array) -> Any:
        """Make encoded targets, as a table of numbers, what the caller would give."""

    def check_scoring(self, scoring: str) -> None:
        """ValueError if scikit-learn's scorers can't score such predictions."""
        return

    @abstractmethod
    def scored(self, y: Any, n_outputs: int) -> Any:
        """A table of targets to be scored in blocks; None for scikit-learn's score."""

    @abstractmethod
    def compared(self, raw: Array, y: Array) -> tuple[Array, Array]:
        """Predictions and encoded targets of a block; unknown labels are wrong ones."""
