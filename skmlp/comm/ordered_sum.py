"""Sums in an order that the number of shards fixes: what all communicators share.

The order is part of the result. Of few shards, ``total = parts[0] + parts[1]``, then
``total += parts[2]`` and so on; of many, a tree over the numbers of the shards. The
bits do not depend on which rank holds a shard, nor on how the numbers travelled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from skmlp.arrays import Array

#: A function with its arguments, ready to be called in every step.
BoundCall = tuple[Callable[..., Any], tuple[Array, ...]]

#: ``(k, other)``: the sum at shard `other` is added to the one at shard k. At the end,
#: the sum of all is at shard 0.
Additions = Sequence[tuple[int, int]]

#: The sum of more shards is a tree, and no rank talks to all others: see
#: `skmlp.comm.halving`. As many as save more time than they cost, for a step with its
#: two latencies over few ranks takes `2 * log2(n)` of them over many.
MOST_IN_A_ROW = 16


def is_tree(n_shards: int) -> bool:
    """Whether the parts of so many shards are summed as a tree."""
    return n_shards > MOST_IN_A_ROW


def row_additions(n_shards: int) -> Additions:
    """All parts are added to the first one, in their order."""
    return [(0, k) for k in range(1, n_shards)]


def tree_additions(n_shards: int) -> Additions:
    """As in `skmlp.comm.halving`: parts of a distance are added, which then halves."""
    n_nodes = 1 << (n_shards - 1).bit_length()
    distances = [n_nodes >> i for i in range(1, n_nodes.bit_length())]
    return [
        (k, k + distance)
        for distance in distances
        for k in range(min(distance, n_shards - distance))
    ]


def additions(n_shards: int) -> Additions:
    """The additions of so many shards."""
    return (tree_additions if is_tree(n_shards) else row_additions)(n_shards)


def sum_calls(parts: Sequence[Array], out: Array) -> list[BoundCall]:
    """The calls that leave the sum of `parts`, in their order, in `out`.

    `parts` has one array of shape (n,) for each shard; `out`, of shape (n,), overlaps
    with none of them.
    """
    if out.size == 0:
        return []
    if len(parts) == 1:
        return [(np.copyto, (out, parts[0]))]
    calls: list[BoundCall] = [(np.add, (parts[0], parts[1], out))]
    calls += [(np.add, (out, part, out)) for part in parts[2:]]
    return calls


def sum_table(table: Array, order: Additions) -> Array:
    """Sum the rows of `table`, of shape (n_shards, k), in this order."""
    rows = table.copy()
    for k, other in order:
        rows[k] += rows[other]
    total: Array = rows[0].copy()
    return total


def check_buffers(parts: Sequence[Array], flat: Array, n_own: int) -> None:
    """Raise ValueError unless there are `n_own` parts, flat and like `flat`."""
    if len(parts) != n_own:
        raise ValueError(f"this rank holds {n_own} shards and got {len(parts)} parts")
    for array in (*parts, flat):
        if array.ndim != 1 or not array.flags.c_contiguous:
            raise ValueError("an exchange takes flat, contiguous arrays")
        if array.shape != flat.shape or array.dtype != flat.dtype:
            raise ValueError(
                f"the parts and the flat array must be alike: {array.size} of "
                f"{array.dtype} and {flat.size} of {flat.dtype}"
            )


def check_table(table: Array, n_shards: int) -> None:
    """Raise ValueError unless `table` is contiguous, with a row for each shard."""
    if table.ndim != 2 or len(table) != n_shards or not table.flags.c_contiguous:
        raise ValueError(
            f"a table to sum is contiguous, of shape ({n_shards}, k), not {table.shape}"
        )
