"""Rows that stay where they are: each shard sees its own, and no other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from skmlp.data.keyed import KeyedRows
from skmlp.data.order import Order, order_of
from skmlp.data.partitions import LocalRows
from skmlp.data.sources import Block, GatheredRows, ShardRows, Source, block_rows
from skmlp.data.split import split_rows
from skmlp.data.targets import class_weights_of, encode
from skmlp.plan import Plan

Array = np.ndarray[Any, np.dtype[Any]]
#: Numbers of rows: all of them, or computed when asked for.
Numbers = Array | KeyedRows


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
        """Numbers of the training and of the validation rows; None for all or none."""
        if plan.split is None and not plan.n_validation:
            return None, None
        if plan.split is None:
            last = plan.n_rows + plan.n_validation
            return KeyedRows(plan.n_rows), np.arange(plan.n_rows, last, dtype=np.intp)
        if self._split is None:
            self._split = split_rows(plan.split)
        return self._split

    def shard(self, plan: Plan, shard: int) -> ShardRows:
        """The rows of one shard."""
        return _PlacedShard(self._rows[shard], plan, *self.split(plan))

    def row_order(self, plan: Plan) -> Order:
        """The order of the training rows, for a plan that shuffles."""
        # Validation rows of their own come last: the others keep their numbers.
        return order_of(plan, None if plan.split is None else self.split(plan)[0])


class _PlacedShard(GatheredRows):
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
        self._ranges = rows.ranges
        self._plan = plan
        self._n_local = n_local
        self._n_all = plan.n_rows + plan.n_validation
        self._train = None if train is None else self._here(train)
        self._validation = np.empty(0, np.intp)
        if validation is not None:
            self._validation = self._here(validation)
        self._all_train = train
        self._natural: tuple[Array, list[int]] | None = None

    @cached_property
    def _local_of(self) -> Array:
        """For each row of all, its place here, or -1."""
        local = np.full(self._n_all, -1, np.int32)
        at = 0
        for start, count in self._ranges:
            local[start : start + count] = np.arange(at, at + count, dtype=np.int32)
            at += count
        return local

    @cached_property
    def _number_of(self) -> Array:
        """For each place here, its row's number; for dropout alone."""
        return self._own_numbers

    def numbers(self, batch: int) -> Array:
        """The numbers, among all rows of the fit, of what `take` returned last."""
        return self._number_of[super().numbers(batch)]

    @property
    def _own_numbers(self) -> Array:
        """The numbers of the rows here, rising."""
        runs = [np.arange(start, start + count) for start, count in self._ranges]
        return np.concatenate([np.empty(0, np.intp), *runs])

    def _here(self, numbers: Numbers) -> Array:
        """Those of some rows that lie here, by their place."""
        if isinstance(numbers, KeyedRows):
            return numbers.places(self._own_numbers)[0]
        local = self._local_of[numbers]
        return local[local >= 0].astype(np.intp)

    def _sort_out(self, order: Numbers) -> tuple[Array, list[int]]:
        """Our rows in the epoch's order, and where each minibatch ends in them."""
        if isinstance(order, KeyedRows):
            # Each row is asked for its position: other shards' rows cost nothing.
            taken, positions = order.places(self._own_numbers)
        else:
            local = self._local_of[order]
            positions = np.flatnonzero(local >= 0)
            taken = local[positions].astype(np.intp)
        starts = np.arange(self._plan.n_batches + 1) * self._plan.batch_size
        ends = np.searchsorted(positions, starts).tolist()
        return taken, ends

    def begin_epoch(self, order: Numbers | None) -> None:
        """Take up the epoch's order."""
        if order is not None:
            self._begin(*self._sort_out(order))
            return
        if self._natural is None:
            every = self._all_train
            if every is None:
                every = KeyedRows(self._plan.n_rows)  # as they are
            self._natural = self._sort_out(every)
        self._begin(*self._natural)

    def training_blocks(self) -> Iterator[Block]:
        """All training rows of the shard, in blocks."""
        n = self._n_local if self._train is None else len(self._train)
        return self._blocks(self._train, 0, n)

    def validation_blocks(self) -> Iterator[Block]:
        """All validation rows of the shard, in blocks."""
        return self._blocks(self._validation, 0, len(self._validation))

    def _training_rows(self) -> Iterator[Array | slice]:
        yield slice(self._n_local) if self._train is None else self._train
