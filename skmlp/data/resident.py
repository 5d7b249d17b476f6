"""Rows that stay where they are: each shard sees its own, and no other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from skmlp.data.feistel import KeyedRows
from skmlp.data.partitions import LocalRows
from skmlp.data.row_index import Ranges
from skmlp.data.sampler import (
    Block,
    ShardRows,
    Source,
    WindowedRows,
    block_rows,
)
from skmlp.data.shuffle import Order, order_of
from skmlp.data.split import split_rows
from skmlp.data.targets import class_weights_of, encode
from skmlp.plan import Plan

Array = np.ndarray[Any, np.dtype[Any]]
#: Numbers of rows: all of them, or computed when asked for.
Numbers = Array | KeyedRows

#: Rows of a shard, about, that are picked out of the order at once; and numbers of the
#: order that are looked at in one go. What that takes counts where the data is small.
WINDOW = 2**15
PIECE = 2**14


class PartitionRows(Source):
    """The rows of this rank's shards.

    A shard takes those rows of each minibatch that lie in its ranges.

    Parameters
    ----------
    rows : mapping from shard to LocalRows
        In the training dtype; labels as they came if the plan has classes.
    """

    def __init__(self, rows: Mapping[int, LocalRows]) -> None:
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

    def shard(self, plan: Plan, shard: int) -> ShardRows:
        """The rows of one shard."""
        return _PlacedShard(self._rows[shard], plan, *self.split(plan))

    def row_order(self, plan: Plan) -> Order:
        """The order of the training rows, for a plan that shuffles."""
        # Every rank has the order of all rows: in half of the memory of intp.
        return order_of(plan, self.split(plan)[0], np.int32)


class _PlacedShard(WindowedRows):
    def __init__(
        self,
        rows: LocalRows,
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
        in_block = 1
        if plan.solver == "lbfgs" or plan.n_validation:
            in_block = block_rows(plan)
        super().__init__(
            rows.X,
            y,
            w.astype(rows.X.dtype, copy=False),
            max(1, min(max(in_batch, in_block), n_local)),
        )
        self._ranges = Ranges(rows.ranges, plan.n_rows + plan.n_validation)
        self._plan = plan
        # The places of our rows; None for the first ones.
        self._train: Array | None = None
        if train is None or validation is None:
            self._n_train = self._ranges.count_below(plan.n_rows)
            self._validation = np.arange(self._n_train, n_local, dtype=np.intp)
        else:
            self._train = self._here(train)
            self._n_train = len(self._train)
            self._validation = self._here(validation)
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
        if isinstance(numbers, KeyedRows):
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
                    every = KeyedRows(self._plan.n_rows)  # as they are
                self._natural = self._sort_out(every)
            self._begin(*self._natural)

    def training_blocks(self) -> Iterator[Block]:
        """All training rows of the shard, in blocks."""
        return self._blocks(self._train, 0, self._n_train)

    def validation_blocks(self) -> Iterator[Block]:
        """All validation rows of the shard, in blocks."""
        return self._blocks(self._validation, 0, len(self._validation))

    def _training_rows(self) -> Iterator[Array | slice]:
        yield slice(self._n_train) if self._train is None else self._train
