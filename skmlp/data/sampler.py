"""Where rows come from: what a shard takes of each minibatch.

A source holds the rows that a rank can see. `Dataset.shard` gives one shard's share of
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

from skmlp.arrays import Array, arrays_of
from skmlp.comm.base import cut
from skmlp.data.feistel import KeyedIndices
from skmlp.data.shuffle import Order, order_of
from skmlp.model.input_encoding import EncodedRows
from skmlp.model.rows import SparseRows
from skmlp.plan import Plan

#: Numbers of rows: all of them, or computed when asked for.
Numbers = Array | KeyedIndices
Block = tuple[Any, Array, Array]
#: Targets and weights of pieces of the rows.
Targets = Iterator[tuple[Array, Array]]
Chunk = tuple[Array, Array, Array, Array, Array, Array]


#: Rows whose numbers are computed ahead, where an order is not kept as a whole.
WINDOW = 2**17


class Dataset(ABC):
    """Rows that a rank can see."""

    @abstractmethod
    def shard(self, plan: Plan, shard: int) -> ShardSampler:
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
    if plan.solver != "lbfgs" and not plan.n_validation:
        return 1  # there are no blocks
    widest = max(plan.units[1:])
    return 512 if widest < 256 else min(max(2**22 // widest, 256), 4096)


class RowTable:
    """Rows that are taken out of arrays by number, at most `max_rows` at once.

    X may lie on a device (`arrays`), and so do its rows then. Rows are encoded when
    they are taken, if the plan has an encoding.
    """

    def __init__(self, plan: Plan, X: Any, y: Array, w: Array, max_rows: int) -> None:
        self.max_rows = max_rows
        self.X, self.y, self.w = X, y, w
        if plan.encoding is not None:
            self.X = EncodedRows(X, plan.encoding, plan.kernels)
        self.arrays = arrays_of(X)
        self._sparse = (X.data, X.indices, X.indptr) if sparse.issparse(X) else None
        #: Whether the rows are an array's, in memory or in a file.
        self.dense = self._sparse is None
        # One buffer, made at the first use: rows in their own order need none.
        self._buffer: Array | None = None

    def rows(self, rows: Array | slice) -> Any:
        """Some rows of X: a view for a slice, else a copy in the buffer."""
        if self._sparse is not None:
            if isinstance(rows, slice):
                rows = np.arange(rows.start, rows.stop, dtype=np.intp)
            return SparseRows(self._sparse, rows, self.X.shape[1])
        if isinstance(rows, slice):
            return self.X[rows] if self.arrays is None else self.X[rows, :]
        if self.arrays is not None:
            return self.arrays.xp.take(self.X, self.arrays.send(rows), axis=0)
        if self._buffer is None:
            self._buffer = np.empty((self.max_rows, self.X.shape[1]), self.X.dtype)
        # The numbers are in range by construction; "clip" lets take write straight
        # into the buffer.
        return self.X.take(rows, 0, self._buffer[: len(rows)], "clip")

    def blocks(self, numbers: Numbers | None, first: int, last: int) -> Iterator[Block]:
        """The rows ``numbers[first:last]`` in blocks; of all rows if None."""
        for rows in _slices(numbers, first, last, self.max_rows):
            yield self.rows(rows), self.y[rows], self.w[rows] if self.w.size else self.w

    def targets(
        self, numbers: Numbers | None, first: int, last: int, step: int
    ) -> Targets:
        """Targets and weights of rows as in `blocks`, in pieces of so many."""
        for rows in _slices(numbers, first, last, step):
            yield self.y[rows], self.w[rows] if self.w.size else self.w


def _slices(
    numbers: Numbers | None, first: int, last: int, step: int
) -> Iterator[Array | slice]:
    for start in range(first, last, step):
        rows = slice(start, min(start + step, last))
        yield rows if numbers is None else numbers[rows]


class ShardSampler(ABC):
    """The rows of one shard, which are taken out of arrays by number."""

    #: The shard's rows for training and for validation: see `RowTable.blocks`.
    _training: tuple[Numbers | None, int, int]
    _validation: tuple[Numbers | None, int, int]
    #: Minibatches that are taken up at once, where an epoch is taken up in windows.
    _window = 1

    def __init__(self, plan: Plan, table: RowTable) -> None:
        self._plan, self._table = plan, table
        #: The most rows that a minibatch or block brings.
        self.max_rows = table.max_rows
        #: Whether the rows are an array's, and where they lie if it is none of numpy.
        self.dense, self.arrays = table.dense, table.arrays
        self._held_out = table
        # What an epoch, or a window of its minibatches, takes: numbers in order (None
        # for all rows as they are), where each minibatch ends among them, the number of
        # the first one, and the targets and weights.
        self._taken: Array | None = None
        self._ends: Sequence[int] = ()
        self._first = 0
        self._epoch_y, self._epoch_w = table.y, table.w
        # Room for the rows of several minibatches, made at the first use.
        self._chunk: Array | None = None

    @abstractmethod
    def begin_epoch(self, order: Numbers | None) -> None:
        """Take up the epoch's order: numbers of all training rows, or None."""

    @abstractmethod
    def _pick(self, first: int, last: int) -> tuple[Array, Sequence[int]]:
        """Numbers of the rows of some minibatches, and where each ends, after a 0."""

    def _begin(self, taken: Array | None, ends: Sequence[int], first: int = 0) -> None:
        """Take up rows of an epoch: `taken`, cut at `ends`, which starts with 0."""
        self._ends, self._first = ends, first
        if taken is self._taken is None:
            return
        self._taken = taken
        y, w = self._table.y, self._table.w
        if taken is None:
            self._epoch_y, self._epoch_w = y, w
            return
        if len(self._epoch_y) != len(taken) or self._epoch_y is y:
            self._epoch_y = np.empty((len(taken), *y.shape[1:]), y.dtype)
            self._epoch_w = np.empty(len(taken) if w.size else 0, w.dtype)
        y.take(taken, 0, self._epoch_y, "clip")
        if w.size:
            w.take(taken, 0, self._epoch_w, "clip")

    def _reach(self, batch: int) -> None:
        """Go on to the window that begins with a minibatch, unless it is there."""
        if not self._first <= batch < self._first + len(self._ends) - 1:
            last = min(batch + self._window, self._plan.n_batches)
            self._begin(*self._pick(batch, last), batch)

    def take(self, batch: int) -> Block | None:
        """The shard's rows of a minibatch, or None if it has none.

        What it returns is valid until the next call.
        """
        self._reach(batch)
        batch -= self._first
        start, end = self._ends[batch], self._ends[batch + 1]
        if start == end:
            return None
        # Slices of the epoch's targets: taken all at once, they cost less.
        w, taken = self._epoch_w, self._taken
        return (
            self._table.rows(slice(start, end) if taken is None else taken[start:end]),
            self._epoch_y[start:end],
            w[start:end] if w.size else w,
        )

    @property
    def in_memory(self) -> bool:
        """Whether the rows are an array's that compiled code can read by itself."""
        X = self._table.X
        return isinstance(X, np.ndarray) and X.flags.c_contiguous and X.flags.aligned

    def chunk(self, batch: int, most_rows: int, numbered: bool = False) -> Chunk:
        """The rows of as many whole minibatches, from `batch` on, as `most_rows` hold.

        Returns (X, taken, numbers, y, w, ends), valid until the next call. The rows,
        which must be dense, are ``X[taken]``, or, where `taken` is empty, `X`; it is
        C-contiguous, unless it lies on a device, and may be the user's own. `numbers`,
        if they are asked for, are those of the rows among all rows of the fit. `ends`
        are where each minibatch ends among them, after a 0: one at least. A chunk ends
        with its window.
        """
        self._reach(batch)
        batch -= self._first
        ends = self._ends
        start = ends[batch]
        last = bisect_right(ends, start + most_rows, batch + 2) - 1
        end = ends[last]
        y, w = self._epoch_y[start:end], self._epoch_w
        if w.size:
            w = w[start:end]
        taken = np.empty(0, np.intp)
        if self._taken is None:
            X = self._table.rows(slice(start, end))
            if self.arrays is None:
                X = np.require(X, requirements=["C", "A"])
                y, w = y.copy(), w.copy()  # the user's own may be read-only
        elif self.in_memory or self.arrays is not None:
            X = self._table.X
            taken = np.ascontiguousarray(self._taken[start:end], np.intp)
        else:
            room, table = max(most_rows, end - start), self._table.X
            if self._chunk is None or len(self._chunk) < room:
                self._chunk = np.empty((room, table.shape[1]), table.dtype)
            X = self._chunk[: end - start]
            table.take(self._taken[start:end], 0, X, "clip")
        numbers = np.empty(0, np.int64)
        if numbered:
            numbers = np.ascontiguousarray(self._numbers(start, end), np.int64)
        cuts = np.array(ends[batch : last + 1], np.int64) - start
        return X, taken, numbers, y, w, cuts

    def chunk_targets(self) -> Array:
        """No targets, of the kind of array that `chunk` returns."""
        return np.empty((0, *self._table.y.shape[1:]), self._table.y.dtype)

    def training_blocks(self) -> Iterator[Block]:
        """All training rows of the shard, in blocks of at most `max_rows`."""
        return self._table.blocks(*self._training)

    def validation_blocks(self) -> Iterator[Block]:
        """All validation rows of the shard, in blocks of at most `max_rows`."""
        return self._held_out.blocks(*self._validation)

    def training_targets(self) -> Targets:
        """Targets and weights of all training rows, in pieces of bounded size."""
        return self._table.targets(*self._training, WINDOW)

    def validation_targets(self) -> Targets:
        """Targets and weights of all validation rows, as `validation_blocks` cuts."""
        return self._held_out.targets(*self._validation, self.max_rows)

    def numbers(self, batch: int) -> Array:
        """The numbers, among all rows of the fit, of what `take` returned last."""
        start, end = self._ends[batch - self._first : batch - self._first + 2]
        return self._numbers(start, end)

    def _numbers(self, start: int, end: int) -> Array:
        """The numbers, among all rows of the fit, of some that are taken."""
        return np.arange(start, end) if self._taken is None else self._taken[start:end]


@dataclass(frozen=True)
class SharedDataset(Dataset):
    """All ranks see all rows: in one process, or mapped into several.

    Shard ``k`` of ``L`` takes the positions ``[k * m // L, (k + 1) * m // L)`` of a
    minibatch of ``m`` rows. `train` and `validation` are numbers of rows, None without
    a split; `known_order` is the order from an earlier call, so that it need not be
    computed again; `held_out` (X, y, w) are validation rows that are no part of `X`.
    """

    X: Any
    y: Array
    w: Array
    train: Array | KeyedIndices | None = None
    validation: Array | KeyedIndices | None = None
    known_order: Order | None = None
    held_out: tuple[Any, Array, Array] | None = None

    def shard(self, plan: Plan, shard: int) -> ShardSampler:
        """The rows of one shard."""
        return _SharedSampler(self, plan, shard)

    def row_order(self, plan: Plan) -> Order:
        """The order of the training rows, for a plan that shuffles."""
        if self.known_order is not None:
            return self.known_order
        return order_of(plan, self.train)


class _SharedSampler(ShardSampler):
    def __init__(self, source: SharedDataset, plan: Plan, shard: int) -> None:
        in_batch = max(-(-plan.batch_size // plan.n_shards), 1)
        if plan.solver == "lbfgs":
            in_batch = 1
        max_rows = max(in_batch, min(block_rows(plan), max(plan.n_rows, 1)))
        rows = source.X, source.y, source.w
        super().__init__(plan, RowTable(plan, *rows, max_rows))
        self._train, self._shard = source.train, shard
        part = cut(plan.n_rows, plan.n_shards, shard)
        self._training = source.train, part.start, part.stop
        part = cut(plan.n_validation, plan.n_shards, shard)
        self._validation = source.validation, part.start, part.stop
        if source.held_out is not None:
            self._held_out = RowTable(plan, *source.held_out, max_rows)
            self._validation = None, part.start, part.stop
        # The shard's positions in each epoch's order (None for all of them), and where
        # each minibatch ends among them; or, of an order that is computed row by row,
        # window by window.
        self._positions: Array | None = None
        self._lengths: list[int] | None = None
        self._keyed: KeyedIndices | None = None
        self._window = max(1, WINDOW * plan.n_shards // max(plan.batch_size, 1))

    def _cut(self, first: int, last: int) -> tuple[list[tuple[int, int]], list[int]]:
        """The shard's positions in some minibatches, and where each ends in them."""
        parts = []
        for number in range(first, last):
            batch = self._plan.batch(number)
            part = cut(batch.stop - batch.start, self._plan.n_shards, self._shard)
            parts.append((batch.start + part.start, batch.start + part.stop))
        return parts, [0, *accumulate(stop - start for start, stop in parts)]

    def begin_epoch(self, order: Numbers | None) -> None:
        """Take up the epoch's order."""
        taken = self._train if order is None else order
        if isinstance(taken, KeyedIndices):
            self._keyed, self._ends = taken, ()
            return
        if self._lengths is None:
            parts, self._lengths = self._cut(0, self._plan.n_batches)
            if self._plan.n_shards > 1:
                self._positions = _join(parts)
        if self._positions is not None:
            taken = self._positions if taken is None else taken[self._positions]
        self._begin(taken, self._lengths)

    def _pick(self, first: int, last: int) -> tuple[Array, Sequence[int]]:
        assert self._keyed is not None  # else an epoch is one window
        parts, ends = self._cut(first, last)
        return self._keyed[_join(parts)], ends


def _join(parts: Sequence[tuple[int, int]]) -> Array:
    """All numbers of some ranges."""
    return np.concatenate([np.empty(0, np.intp), *(np.arange(*part) for part in parts)])
