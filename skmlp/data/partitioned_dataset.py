"""Rows that stay where they are: each shard sees its own, and no other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from skmlp.arrays import Array
from skmlp.data.feistel import KeyedIndices
from skmlp.data.partitions import ShardData
from skmlp.data.sampler import Dataset, Numbers, RowTable, ShardSampler, block_rows
from skmlp.data.shuffle import Order, order_of
from skmlp.data.split import split_rows
from skmlp.data.targets import class_weights_of, encode
from skmlp.plan import Plan

#: Rows of a shard, about, that are picked out of the order at once; and numbers of the
#: order that are looked at in one go. What that takes counts where the data is small.
WINDOW = 2**15
PIECE = 2**14

#: Buckets for each range of rows: the more, the fewer rows must be searched for.
BUCKETS = 16


class PartitionedDataset(Dataset):
    """The rows of this rank's shards; labels as they came if a plan has classes.

    A shard takes those rows of each minibatch that lie in its ranges.
    """

    def __init__(self, rows: Mapping[int, ShardData]) -> None:
        self._rows = rows
        self._split: tuple[Numbers, Numbers] | None = None

    def split(self, plan: Plan) -> tuple[Numbers | None, Numbers | None]:
        """Numbers of the training and of the validation rows, where they are mixed.

        None otherwise: validation rows of their own come after those for training.
        """
        if plan.split is None:
            return None, None
        if self._split is None:
            self._split = split_rows(plan.split)
        return self._split

    def shard(self, plan: Plan, shard: int) -> ShardSampler:
        """The rows of one shard."""
        return _PartitionedSampler(self._rows[shard], plan, *self.split(plan))

    def row_order(self, plan: Plan) -> Order:
        """The order of the training rows, for a plan that shuffles."""
        # Every rank has the order of all rows: in half of the memory of intp.
        return order_of(plan, self.split(plan)[0], np.int32)


class _PartitionedSampler(ShardSampler):
    def __init__(
        self,
        rows: ShardData,
        plan: Plan,
        train: Numbers | None,
        validation: Numbers | None,
    ) -> None:
        kind = plan.loss_entry.target
        y = rows.y
        if kind == "real" or plan.classes is not None:
            y = encode(kind, plan.classes, y, rows.X.dtype)
        w = rows.w
        if plan.class_weights:
            of_classes = class_weights_of(plan.class_weights, y)
            w = w * of_classes if w.size else of_classes
        n_local = rows.X.shape[0]
        in_batch = 1 if plan.solver == "lbfgs" else plan.batch_size
        w = w.astype(rows.X.dtype, copy=False)
        max_rows = max(1, min(max(in_batch, block_rows(plan)), n_local))
        super().__init__(plan, RowTable(plan, rows.X, y, w, max_rows))
        self._ranges = Ranges(rows.ranges, plan.n_rows + plan.n_validation)
        if train is None or validation is None:
            self._n_train = self._ranges.count_below(plan.n_rows)
            self._training = None, 0, self._n_train
            self._validation = None, self._n_train, n_local
        else:
            places, others = self._here(train), self._here(validation)
            self._n_train = len(places)
            self._training = places, 0, self._n_train
            self._validation = others, 0, len(others)
        self._all_train = train
        self._natural: tuple[Array, list[int]] | None = None
        # The epoch's order of all rows, of which our own are picked out in windows of
        # whole minibatches: all at once, they would take 8 bytes each. None if they
        # have been.
        self._order: Array | None = None
        self._window = max(1, WINDOW * plan.n_shards // max(plan.batch_size, 1))

    def _numbers(self, start: int, end: int) -> Array:
        """The numbers, among all rows of the fit, of some that are taken."""
        return self._ranges.numbers(super()._numbers(start, end))

    def _here(self, numbers: Numbers) -> Array:
        """Those of some rows that lie here, by their place."""
        if isinstance(numbers, KeyedIndices):
            return numbers.places(self._ranges.all_numbers())[0]
        found = [np.empty(0, np.intp)]
        for at in range(0, len(numbers), PIECE):
            places = self._ranges.places(numbers[at : at + PIECE])
            found.append(places[places >= 0])
        return np.concatenate(found)

    def _sort_out(self, order: Numbers) -> tuple[Array, list[int]]:
        """Our rows in an order, and where each minibatch ends in them."""
        n_batches = self._plan.n_batches
        if isinstance(order, np.ndarray):
            return self._pick_from(order, 0, n_batches)
        # Each row is asked for its position: other shards' rows cost nothing.
        taken, positions = order.places(self._ranges.all_numbers())
        starts = np.arange(n_batches + 1) * self._plan.batch_size
        return taken, np.searchsorted(positions, starts).tolist()

    def _pick(self, first: int, last: int) -> tuple[Array, list[int]]:
        assert self._order is not None  # else all minibatches are one window
        return self._pick_from(self._order, first, last)

    def _pick_from(
        self, order: Array, first: int, last: int
    ) -> tuple[Array, list[int]]:
        """Our rows of some minibatches, and where each ends in them, after a 0."""
        starts = np.arange(first, last + 1) * self._plan.batch_size
        begin, stop = starts[0], min(starts[-1], len(order))
        # As much room as they may need: what is not written, is not there.
        taken = np.empty(min(self._n_train, stop - begin), np.intp)
        ends = np.empty(len(starts), np.intp)
        count = done = 0
        # In pieces: what is found on the way takes a multiple of what is kept.
        for at in range(begin, stop, PIECE):
            places = self._ranges.places(order[at : min(at + PIECE, stop)])
            positions = np.flatnonzero(places >= 0)
            some = slice(done, done := int(np.searchsorted(starts, at + PIECE)))
            ends[some] = count + np.searchsorted(positions, starts[some] - at)
            taken[count : count + len(positions)] = places[positions]
            count += len(positions)
        ends[done:] = count
        return taken[:count], ends.tolist()

    def begin_epoch(self, order: Numbers | None) -> None:
        """Take up the epoch's order."""
        self._order = None
        if isinstance(order, np.ndarray):
            self._order, self._ends = order, ()
        elif order is not None:
            self._taken = None  # before the new one takes its room
            self._begin(*self._sort_out(order))
        else:
            if self._natural is None:
                every = self._all_train
                if every is None:
                    every = KeyedIndices(self._plan.n_rows)  # as they are
                self._natural = self._sort_out(every)
            self._begin(*self._natural)


class Ranges:
    """From a row's number to its place here, and back, for some ranges of rows.

    A table of all rows would take 4 bytes for each of them on every rank; this one
    takes its room by the number of ranges. `ranges` are the first number and count of
    each run of successive rows, rising, none of them empty; `n_rows` are the rows in
    all, here and elsewhere.
    """

    def __init__(self, ranges: Sequence[tuple[int, int]], n_rows: int) -> None:
        self._starts = np.array([start for start, _ in ranges], np.intp)
        self._counts = counts = np.array([count for _, count in ranges], np.intp)
        self._bases = np.cumsum(counts) - counts
        # Where something else begins: rows that lie here, or rows that don't. What is
        # to be added to their numbers: for the latter, so much that they are negative.
        edges = np.column_stack([self._starts, self._starts + counts]).ravel()
        self._edges = np.concatenate([np.zeros(1, np.intp), edges])
        self._shifts = np.full(len(self._edges), -n_rows - 1, np.intp)
        self._shifts[1::2] = self._bases - self._starts
        self._ends = np.concatenate([edges, [n_rows]])
        # The stretch at the first number of each bucket.
        size = n_rows // (BUCKETS * len(self._edges)) + 1
        self._bits = size.bit_length()
        firsts = np.arange(0, n_rows + 1, 1 << self._bits)
        self._guess = self._stretch(firsts).astype(np.int32)

    def count_below(self, number: int) -> int:
        """How many of the rows here have a lower number."""
        below = np.clip(number - self._starts, 0, self._counts)
        return int(below.sum())

    def _stretch(self, numbers: Array) -> Array:
        return np.asarray(np.searchsorted(self._edges, numbers, "right") - 1)

    def places(self, numbers: Array) -> Array:
        """The place of each row, or a negative number if it is elsewhere."""
        stretch = self._guess[numbers >> self._bits]
        late = np.flatnonzero(numbers >= self._ends[stretch])
        if late.size:
            stretch[late] = self._stretch(numbers[late])
        return np.asarray(self._shifts[stretch] + numbers)

    def numbers(self, places: Array) -> Array:
        """The number of the row at each place."""
        run = np.searchsorted(self._bases, places, "right") - 1
        return np.asarray(places + (self._starts - self._bases)[run])

    def all_numbers(self) -> Array:
        """The numbers of all rows here, in the order of their places."""
        return self.numbers(np.arange(self._counts.sum(), dtype=np.intp))
