"""Where a training run stands: a value of plain arrays and numbers.

Training is a function from state to state, so a retry or a resume is the same call
again. A state travels as a few flat arrays (`TrainState.to_arrays`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace

import numpy as np

from skmlp.arrays import Array

# Why a run ended.
RUNNING = 0
STANDSTILL = 1
RATE_TOO_SMALL = 2
ALL_EPOCHS = 3
DIVERGED = 4
OUT_OF_TIME = 5


@dataclass(frozen=True)
class Record:
    """One epoch, for the curves and for people.

    Attributes
    ----------
    loss : float
        Running mean of the minibatches' objectives.
    score : float
        Validation score; NaN too where there is none.
    learning_rate : float
        Of this epoch.
    standstill : int
        1 if the patience ran out at the end of this epoch.
    next_rate : float
        Learning rate of the next epoch.
    seconds : float
        Wall-clock time.
    computing : tuple of float
        Of these, the seconds that each rank has spent outside the exchanges with the
        others; one for each rank of the group that ran this epoch.
    validation_loss : float
        Weighted mean of the loss of the validation rows, without penalty; NaN too
        where there are none.
    gradient_norm : float
        Of the epoch's last minibatch: the Euclidean norm of the gradient of the loss,
        without penalty, before clipping.
    """

    loss: float
    score: float
    learning_rate: float
    standstill: int
    next_rate: float
    seconds: float
    computing: tuple[float, ...] = ()
    validation_loss: float = math.nan
    gradient_norm: float = math.nan

    @property
    def communicating(self) -> float:
        """Seconds in which no rank computed: those that the busiest one lacks."""
        return max(self.seconds - max(self.computing, default=self.seconds), 0.0)

    @property
    def waiting(self) -> tuple[float, ...]:
        """Seconds that each rank has waited for the busiest one."""
        longest = max(self.computing, default=0.0)
        return tuple(longest - seconds for seconds in self.computing)


@dataclass
class TrainState:
    """All that changes while training.

    Attributes
    ----------
    params : ndarray of shape (size,)
        The flat vector.
    moments : tuple of ndarray of shape (size,)
        The optimizer's.
    best_params : ndarray of shape (size,) or (0,)
        Parameters of the best validation score; empty without early stopping.
    epoch : int
        Finished epochs of this run.
    step : int
        Steps that the moments have seen.
    samples_seen : int
        Rows seen, over all runs of a warm start.
    learning_rate : float
        Of the next epoch.
    no_improvement : int
        Epochs since the last improvement by more than the tolerance.
    best : float
        Best loss, or best validation score.
    shuffles : int
        How often the order was shuffled since the plan's `order_rng`.
    status : int
        `RUNNING` or why the run ended.
    rng : tuple of (bytes, int) or None
        State of the twister after the last shuffle.
    records : list of Record
        The epochs since the state was last handed on, all of them by one group.
    """

    params: Array
    moments: tuple[Array, ...]
    learning_rate: float
    best: float
    best_params: Array = field(default_factory=lambda: np.empty(0))
    epoch: int = 0
    step: int = 0
    samples_seen: int = 0
    no_improvement: int = 0
    shuffles: int = 0
    status: int = RUNNING
    rng: tuple[bytes, int] | None = None
    records: list[Record] = field(default_factory=list)

    def copy(self) -> TrainState:
        """The same state, with arrays of its own."""
        return replace(
            self,
            params=self.params.copy(),
            moments=tuple(moment.copy() for moment in self.moments),
            best_params=self.best_params.copy(),
        )

    def to_arrays(self, *, lean: bool = False) -> tuple[Array, ...]:
        """Flat arrays, without copying the large ones.

        With `lean`, moments that are zero, as those of a new run are, stay empty.
        """
        moments = self.moments
        if lean:
            moments = tuple(m if m.any() else m[:0] for m in moments)
        key, pos = self.rng if self.rng is not None else (b"", -1)
        n_ranks = len(self.records[0].computing) if self.records else 0
        counts = [getattr(self, name) for name in _COUNTS]
        integers = np.array([len(moments), n_ranks, pos, *counts], np.int64)
        reals = [self.learning_rate, self.best]
        for record in self.records:
            reals += [*(getattr(record, n) for n in _OF_RECORD), *record.computing]
        return (
            np.concatenate([integers, np.frombuffer(key, np.uint32)]),
            np.array(reals, np.float64),
            self.params,
            self.best_params,
            *moments,
        )

    @classmethod
    def from_arrays(cls, arrays: tuple[Array, ...]) -> TrainState:
        """The inverse of `to_arrays`; the large arrays are not copied."""
        integers, reals, params, best_params, *moments = arrays
        n_words = 3 + len(_COUNTS)
        n_moments, n_ranks, pos, *counts = integers[:n_words].tolist()
        if len(moments) != n_moments:
            raise ValueError(
                f"the state has {len(moments)} moments, it should have {n_moments}"
            )
        rows = reals[2:].reshape(-1, len(_OF_RECORD) + n_ranks).tolist()
        return cls(
            params=params,
            moments=tuple(moments),
            learning_rate=float(reals[0]),
            best=float(reals[1]),
            best_params=best_params,
            rng=(integers[n_words:].astype(np.uint32).tobytes(), pos)
            if pos >= 0
            else None,
            records=[_record(row) for row in rows],
            **dict(zip(_COUNTS, counts, strict=True)),
        )


#: The whole numbers of a state.
_COUNTS = "epoch", "step", "samples_seen", "no_improvement", "shuffles", "status"
#: What a record holds beside a number for each rank.
_OF_RECORD = [field.name for field in fields(Record) if field.name != "computing"]


def _record(row: list[float]) -> Record:
    numbers = dict(zip(_OF_RECORD, row, strict=False))
    standstill, computing = int(numbers.pop("standstill")), row[len(_OF_RECORD) :]
    return Record(**numbers, standstill=standstill, computing=tuple(computing))
