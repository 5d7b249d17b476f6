"""Sums in the order of the shards: the arithmetic that all communicators share.

The order is part of the result. ``total = parts[0] + parts[1]``, then
``total += parts[2]`` and so on, one whole shard after the other: the bits do not depend
on which rank holds a shard, nor on how the numbers travelled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from skmlp.comm.base import Array

#: A function with its arguments, ready to be called in every step.
BoundCall = tuple[Callable[..., Any], tuple[Array, ...]]


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


def sum_table(table: Array) -> Array:
    """Sum the rows of `table`, of shape (n_shards, k), from the first to the last."""
    total: Array = table[0].copy()
    for row in table[1:]:
        total += row
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
