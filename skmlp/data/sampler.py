"""Where rows come from: what a shard takes of each minibatch.

A source holds the rows that a rank can see. `Source.shard` gives one shard's share of
them: minibatch by minibatch for training, block by block for a pass over all training
rows (L-BFGS) or over the validation rows.

`y` holds class codes (rows,), a 0/1 matrix or real targets (rows, n_outputs); `w` has
shape (rows,), or (0,) where rows have no weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from scipy import sparse

from skmlp.comm.base import cut
from skmlp.data.feistel import KeyedRows
from skmlp.data.shuffle import Order, order_of
from skmlp.model.metrics import weight_of
from skmlp.model.rows import SparseRows
from skmlp.plan import Plan

Array = np.ndarray[Any, np.dtype[Any]]
Block = tuple[Any, Array, Array]
Chunk = tuple[Array, Array, Array, Array, Array, Array]


#: Rows whose numbers are computed ahead, where an order is not kept as a whole.
WINDOW = 2**17


class ShardRows(ABC):
    """The rows of one shard."""

    #: The most rows that a minibatch or block brings.
    max_rows: int

    @abstractmethod
    def begin_epoch(self, order: Array | KeyedRows | None) -> None:
        """Take up the epoch's order: numbers of all training rows, or None."""

    @abstractmethod
    def take(self, batch: int) -> Block | None:
        """The shard's rows of a minibatch, or None if it has none.

        What it returns is valid until the next call.
        """

    @abstractmethod
    def numbers(self, batch: int) -> Array:
        """The numbers, among all rows of the fit, of what `take` returned last."""

    @abstractmethod
    def training_blocks(self) -> Iterator[Block]:
        """All training rows of the shard, in blocks of at most `max_rows`."""

    @abstractmethod
    def validation_blocks(self) -> Iterator[Block]:
        """All validation rows of the shard, in blocks of at most `max_rows`."""

    @abstractmethod
    def training_targets(self) -> Iterator[tuple[Array, Array]]:
        """Targets and weights of all training rows, in pieces of bounded size."""

    def training_weight(self, masked: bool) -> float:
        """Weight of the shard's training rows; see `skmlp.model.metrics.weight_of`."""
        return sum(weight_of(y, w, masked) for y, w in self.training_targets())


class Source(ABC):
    """Rows that a rank can see."""

    @abstractmethod
    def shard(self, plan: Plan, shard: int) -> ShardRows:
        """The rows of one shard."""

    @abstractmethod
    def row_order(self, plan: Plan) -> Order:
        """The order of the training rows, for a plan that shuffles."""


def block_rows(plan: Plan) -> int:
    """Rows of a block outside minibatches: enough for BLAS, and of bounded memory.

    Of a narrow net 512: the products of more rows are no faster on one thread of BLAS,
    and waking a second one for each of them takes longer than they do. Of a wide net a
    layer of a block has four million numbers: the gradient of each block is added to
    that of all, which takes as long as the product of some hundred rows.
    """
    widest = max(plan.units[1:])
    return 512 if widest < 256 else min(max(2**22 // widest, 256), 4096)


class RowTable:
    """Rows that are taken out of arrays by number.

    Parameters
    ----------
    X, y, w
        See the module.
    max_rows : int
        The most rows taken at once.
    """

    def __init__(self, X: Any, y: Array, w: Array, max_rows: int) -> None:
        self.max_rows = max_rows
        self._X, self._y, self._w = X, y, w
        self._sparse = (X.data, X.indices, X.indptr) if sparse.issparse(X) else None
        #: Whether the rows are an array's, in memory or in a file.
        self.dense = self._sparse is None
        # One buffer, made at the first use: rows in their own order need none.
        self._buffer: Array | None = None

    def _rows(self, rows: Array | slice) -> Any:
        """Some rows of X: a view for a slice, else a copy in the buffer."""
        if self._sparse is not None:
            if isinstance(rows, slice):
                rows = np.arange(rows.start, rows.stop, dtype=np.intp)
            return SparseRows(self._sparse, rows, self._X.shape[1])
        if isinstance(rows, slice):
            return self._X[rows]
        if self._buffer is None:
            self._buffer = np.empty((self.max_rows, self._X.shape[1]), self._X.dtype)
        # The numbers are in range by construction; "clip" lets take write straight
        # into the buffer.
        return self._X.take(rows, 0, self._buffer[: len(rows)], "clip")

    def _blocks(
        self, numbers: Array | KeyedRows | None, first: int, last: int
    ) -> Iterator[Block]:
        """The rows ``numbers[first:last]`` in blocks; of all rows if None."""
        for start in range(first, last, self.max_rows):
            rows: Array | slice = slice(start, min(start + self.max_rows, last))
            if numbers is not None:
                rows = numbers[rows]
            w = self._w[rows] if self._w.size else self._w
            yield self._rows(rows), self._y[rows], w


class GatheredRows(RowTable, ShardRows):
    """A shard that takes its rows out of arrays by number; see `RowTable`."""

    def __init__(self, X: Any, y: Array, w: Array, max_rows: int) -> None:
        super().__init__(X, y, w, max_rows)
        self._weighted = w.size > 0
        # What an epoch, or a window of its minibatches, takes: numbers in order (None
        # for all rows as they are), where each minibatch ends among them, the number of
        # the first one, and the targets and weights.
        self._taken: Array | None = None
        self._ends: Sequence[int] = ()
        self._first = 0
        self._epoch_y, self._epoch_w = y, w
        # Room for the rows of several minibatches, made at the first use.
        self._chunk: Array | None = None

    def _begin(self, taken: Array | None, ends: Sequence[int], first: int = 0) -> None:
        """Take up rows of an epoch: `taken`, cut at `ends`, which starts with 0."""
        self._ends, self._first = ends, first
        if taken is self._taken is None:
            return
        self._taken = taken
        if taken is None:
            self._epoch_y, self._epoch_w = self._y, self._w
            return
        if len(self._epoch_y) != len(taken) or self._epoch_y is self._y:
            self._epoch_y = np.empty((len(taken), *self._y.shape[1:]), self._y.dtype)
            self._epoch_w = np.empty(len(taken) if self._w.size else 0, self._w.dtype)
        self._y.take(taken, 0, self._epoch_y, "clip")
        if self._w.size:
            self._w.take(taken, 0, self._epoch_w, "clip")

    def take(self, batch: int) -> Block | None:
        """The shard's rows of a minibatch, or None if it has none."""
        batch -= self._first
        start, end = self._ends[batch], self._ends[batch + 1]
        if start == end:
            return None
        # Slices of the epoch's targets: taken all at once, they cost less.
        y = self._epoch_y[start:end]
        w = self._epoch_w[start:end] if self._weighted else self._epoch_w
        taken = self._taken
        return (
            self._rows(slice(start, end) if taken is None else taken[start:end]),
            y,
            w,
        )

    @property
    def in_memory(self) -> bool:
        """Whether the rows are an array's that compiled code can read by itself."""
        X = self._X
        return isinstance(X, np.ndarray) and X.flags.c_contiguous and X.flags.aligned

    def chunk(self, batch: int, most_rows: int, numbered: bool = False) -> Chunk:
        """The rows of as many whole minibatches, from `batch` on, as `most_rows` hold.

        They must be dense.

        Returns
        -------
        X, taken, numbers, y, w : ndarray
            `y` and `w` as `take` returns them. The rows are ``X[taken]``, or, where
            `taken` is empty, `X`; it is C-contiguous, and may be the user's own.
            `numbers`, if they are asked for, are those of the rows among all rows of
            the fit. Valid until the next call.
        ends : ndarray of intp
            Where each minibatch ends among them, after a 0; one at least.
        """
        batch -= self._first
        ends = self._ends
        start = ends[batch]
        last = bisect_right(ends, start + most_rows, batch + 2) - 1
        end = ends[last]
        y, w = self._epoch_y[start:end], self._epoch_w
        if self._weighted:
            w = w[start:end]
        taken = np.empty(0, np.intp)
        if self._taken is None:
            X = np.require(self._X[start:end], requirements=["C", "A"])
            y, w = y.copy(), w.copy()  # the user's own may be read-only
        elif self.in_memory:
            X, taken = self._X, np.ascontiguousarray(self._taken[start:end], np.intp)
        else:
            room = max(most_rows, end - start)
            if self._chunk is None or len(self._chunk) < room:
                self._chunk = np.empty((room, self._X.shape[1]), self._X.dtype)
            X = self._chunk[: end - start]
            self._X.take(self._taken[start:end], 0, X, "clip")
        numbers = np.empty(0, np.int64)
        if numbered:
            numbers = np.ascontiguousarray(self._numbers(start, end), np.int64)
        cuts = np.array(ends[batch : last + 1], np.int64) - start
        return X, taken, numbers, y, w, cuts

    def chunk_targets(self) -> Array:
        """No targets, of the kind of array that `chunk` returns."""
        return np.empty((0, *self._y.shape[1:]), self._y.dtype)

    @abstractmethod
    def _training_rows(self) -> Iterator[Array | slice]:
        """Where the training rows are, in pieces of bounded size if need be."""

    def training_targets(self) -> Iterator[tuple[Array, Array]]:
        """Targets and weights of all training rows; see `ShardRows`."""
        for rows in self._training_rows():
            stop = rows.stop if isinstance(rows, slice) else len(rows)
            for at in range(getattr(rows, "start", 0) or 0, stop, WINDOW):
                piece = slice(at, min(at + WINDOW, stop))
                some = piece if isinstance(rows, slice) else rows[piece]
                yield self._y[some], self._w[some] if self._weighted else self._w

    def numbers(self, batch: int) -> Array:
        """The numbers, among all rows of the fit, of what `take` returned last."""
        start, end = self._ends[batch - self._first : batch - self._first + 2]
        return self._numbers(start, end)

    def _numbers(self, start: int, end: int) -> Array:
        """The numbers, among all rows of the fit, of some that are taken."""
        return np.arange(start, end) if self._taken is None else self._taken[start:end]


class WindowedRows(GatheredRows):
    """Takes up an epoch in windows of whole minibatches, one after the other."""

    _plan: Plan
    #: Minibatches of a window.
    _window: int

    @abstractmethod
    def _pick(self, first: int, last: int) -> tuple[Array, Sequence[int]]:
        """Numbers of the rows of some minibatches, and where each ends, after a 0."""

    def _reach(self, batch: int) -> None:
        """Go on to the window that begins with a minibatch, unless it is there."""
        if not self._first <= batch < self._first + len(self._ends) - 1:
            last = min(batch + self._window, self._plan.n_batches)
            self._begin(*self._pick(batch, last), batch)

    def take(self, batch: int) -> Block | None:
        """The shard's rows of a minibatch, or None if it has none."""
        self._reach(batch)
        return super().take(batch)

    def chunk(self, batch: int, most_rows: int, numbered: bool = False) -> Chunk:
        """See `GatheredRows.chunk`; a chunk ends with its window."""
        self._reach(batch)
        return super().chunk(batch, most_rows, numbered)


@dataclass(frozen=True)
class SharedRows(Source):
    """All ranks see all rows: in one process, or mapped into several.

    Shard ``k`` of ``L`` takes the positions ``[k * m // L, (k + 1) * m // L)`` of a
    minibatch of ``m`` rows.

    Attributes
    ----------
    X : ndarray or csr_array of shape (n, n_features)
        All rows, in the training dtype.
    y, w : ndarray
        See the module.
    train, validation : ndarray of intp, KeyedRows or None
        Numbers of the rows for training and for validation; None without a split.
    known_order : Order or None
        The order from an earlier call, so that it need not be computed again.
    held_out : tuple of (X, y, w) or None
        Validation rows that are no part of `X`.
    """

    X: Any
    y: Array
    w: Array
    train: Array | KeyedRows | None = None
    validation: Array | KeyedRows | None = None
    known_order: Order | None = None
    held_out: tuple[Any, Array, Array] | None = None

    def shard(self, plan: Plan, shard: int) -> ShardRows:
        """The rows of one shard."""
        if plan.keyed_order or isinstance(self.train, KeyedRows):
            return _KeyedShard(self, plan, shard)
        return _SharedShard(self, plan, shard)

    def row_order(self, plan: Plan) -> Order:
        """The order of the training rows, for a plan that shuffles."""
        if self.known_order is not None:
            return self.known_order
        return order_of(plan, self.train)


class _SharedShard(GatheredRows):
    def __init__(self, source: SharedRows, plan: Plan, shard: int) -> None:
        in_batch = max(-(-plan.batch_size // plan.n_shards), 1)
        if plan.solver == "lbfgs":
            in_batch = 1
        in_block = 1
        if plan.solver == "lbfgs" or plan.n_validation:
            in_block = block_rows(plan)
        max_rows = max(in_batch, min(in_block, max(plan.n_rows, 1)))
        super().__init__(source.X, source.y, source.w, max_rows)
        self._source = source
        self._plan, self._shard = plan, shard
        self._prepare()
        self._training = cut(plan.n_rows, plan.n_shards, shard)
        self._validation = cut(plan.n_validation, plan.n_shards, shard)

    def _prepare(self) -> None:
        """Find what is the same in every epoch: the shard's positions in its order."""
        n_batches = self._plan.n_batches if self._plan.solver != "lbfgs" else 0
        parts, self._lengths = self._cut(0, n_batches)
        # None for all of them.
        self._positions = _join(parts) if self._plan.n_shards > 1 else None

    def _cut(self, first: int, last: int) -> tuple[list[tuple[int, int]], list[int]]:
        """The shard's positions in some minibatches, and where each ends in them."""
        parts = []
        for number in range(first, last):
            batch = self._plan.batch(number)
            part = cut(batch.stop - batch.start, self._plan.n_shards, self._shard)
            parts.append((batch.start + part.start, batch.start + part.stop))
        return parts, [0, *accumulate(stop - start for start, stop in parts)]

    def begin_epoch(self, order: Array | KeyedRows | None) -> None:
        """Take up the epoch's order."""
        taken = self._source.train if order is None else order
        assert not isinstance(taken, KeyedRows)
        if self._positions is not None:
            taken = self._positions if taken is None else taken[self._positions]
        self._begin(taken, self._lengths)

    def training_blocks(self) -> Iterator[Block]:
        """All training rows of the shard, in blocks."""
        part = self._training
        return self._blocks(self._source.train, part.start, part.stop)

    def validation_blocks(self) -> Iterator[Block]:
        """All validation rows of the shard, in blocks."""
        part = self._validation
        if self._source.held_out is not None:
            rows = RowTable(*self._source.held_out, self.max_rows)
            return rows._blocks(None, part.start, part.stop)
        return self._blocks(self._source.validation, part.start, part.stop)

    def _training_rows(self) -> Iterator[Array | slice]:
        numbers = self._source.train
        assert not isinstance(numbers, KeyedRows)
        yield self._training if numbers is None else numbers[self._training]


def _join(parts: Sequence[tuple[int, int]]) -> Array:
    """All numbers of some ranges."""
    return np.concatenate([np.empty(0, np.intp), *(np.arange(*part) for part in parts)])


class _KeyedShard(WindowedRows, _SharedShard):
    """A shard of an order that is computed, window by window."""

    def _prepare(self) -> None:
        plan = self._plan
        self._window = max(1, WINDOW * plan.n_shards // plan.batch_size)

    def begin_epoch(self, order: Array | KeyedRows | None) -> None:
        """Take up the epoch's order."""
        keyed = self._source.train if order is None else order
        assert isinstance(keyed, KeyedRows)
        self._keyed = keyed
        self._ends = ()

    def _pick(self, first: int, last: int) -> tuple[Array, Sequence[int]]:
        parts, ends = self._cut(first, last)
        return self._keyed[_join(parts)], ends

    def _training_rows(self) -> Iterator[Array | slice]:
        numbers, part = self._source.train, self._training
        for start in range(part.start, part.stop, WINDOW):
            rows = slice(start, min(start + WINDOW, part.stop))
            yield rows if numbers is None else numbers[rows]
