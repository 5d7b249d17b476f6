"""The interface between the ranks of a fit.

Shapes and conventions
----------------------
A fit is cut into ``n_shards`` shards; each rank holds one or more of them
(``Shards.held_by``). A *flat* array is a one-dimensional, C-contiguous float array
of the model's size. Segment ``k`` of a flat array of size ``S`` is
``[k * S // n_shards, (k + 1) * S // n_shards)``; the rank that holds shard ``k`` sums
segment ``k`` and takes the optimizer's step on it.

The order of all sums is fixed by the number of shards (`skmlp.comm.ordered_sum`),
whichever ranks hold them: every rank gets the same bits, and a shard that moves to
another rank changes nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from skmlp.arrays import Array


class CommError(RuntimeError):
    """A rank could not go on because of another one."""


class Aborted(CommError):
    """The ranks were told to stop; another rank, or the driver, has the cause."""


class PeerLost(CommError):
    """A rank is gone, or gave no sign of life within the time limit."""


@dataclass(frozen=True)
class Shards:
    """Which rank holds which shard.

    ``holders[k]`` is the rank that holds shard ``k``. Every rank from 0 to
    ``n_ranks - 1`` holds at least one.
    """

    holders: tuple[int, ...]

    @property
    def n_shards(self) -> int:
        """Count of shards."""
        return len(self.holders)

    @property
    def n_ranks(self) -> int:
        """Count of ranks."""
        return max(self.holders) + 1

    def held_by(self, rank: int) -> tuple[int, ...]:
        """The shards of one rank, in rising order."""
        return tuple(k for k, holder in enumerate(self.holders) if holder == rank)

    def segment(self, shard: int, size: int) -> slice:
        """The slice of a flat array of `size` that belongs to `shard`."""
        return cut(size, self.n_shards, shard)

    def segments_of(self, rank: int, size: int) -> list[slice]:
        """The segments of one rank, in the order of its shards."""
        return [self.segment(k, size) for k in self.held_by(rank)]


def cut(size: int, n_parts: int, part: int) -> slice:
    """Part `part` of ``range(size)`` cut into `n_parts` as evenly as can be."""
    return slice(part * size // n_parts, (part + 1) * size // n_parts)


class Exchange(ABC):
    """A step's reduce-scatter and all-gather, bound to their buffers once per fit.

    Attributes
    ----------
    segments : list of slice
        The segments of this rank, one for each of its shards, in shard order.
    totals : list of ndarray
        After `reduce_scatter`, ``totals[i]`` is the sum over all shards of
        ``segments[i]``.
    seconds : float
        Time spent in both so far; 0 for a single rank.
    """

    segments: list[slice]
    totals: list[Array]
    #: Of the model's size; ``totals`` are views of it.
    total: Array
    seconds: float = 0.0

    @abstractmethod
    def reduce_scatter(self) -> None:
        """Sum every shard's part, in the shards' order, into `totals`.

        When it returns, all ranks have finished computing their parts, so the flat
        array may be written. Parts must not be written before `all_gather` returns.
        """

    @abstractmethod
    def all_gather(self) -> None:
        """Bring the flat array's segments from their holders to all ranks."""


class Communicator(ABC):
    """How one rank reaches the others. All ranks call the same verbs in one order.

    Attributes
    ----------
    rank : int
        This rank, from 0. Rank 0 answers for all.
    shards : Shards
        Which rank holds which shard.
    """

    rank: int
    shards: Shards

    @property
    def own_shards(self) -> tuple[int, ...]:
        """The shards that this rank holds."""
        return self.shards.held_by(self.rank)

    @abstractmethod
    def exchange(self, parts: Sequence[Array], flat: Array) -> Exchange:
        """Bind a step's two collectives to their buffers.

        `parts` has one flat array for each of `own_shards`, its part of the sum;
        `Exchange.all_gather` completes `flat`, of the same size and dtype.
        """

    @abstractmethod
    def all_reduce(self, table: Array) -> Array:
        """Sum the rows of a small table, with the same bits for all.

        `table` is float64 of shape (n_shards, k). The rows of `own_shards` hold this
        rank's values; the other rows are overwritten with those of their holders. The
        result, of shape (k,), is a new array.
        """

    @abstractmethod
    def abort(self, reason: str) -> None:
        """Make every rank's current and next verb raise `Aborted`. From any thread."""

    @abstractmethod
    def close(self) -> None:
        """Give back what the communicator holds; a second call does nothing."""
