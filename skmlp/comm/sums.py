"""Sums in the order of the shards: the arithmetic that all communicators share.

The order is part of the result. ``total = parts[0] + parts[1]``, then
``total += parts[2]`` and so on, one whole shard after the other: whoever holds the
shards, and however the numbers travelled, the bits are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from skmlp.comm.base import Array

#: A function and its arguments, made ready when the buffers are bound.
Call = tuple[Callable[..., Any], tuple[Array, ...]]


def sum_calls(parts: Sequence[Array], out: Array) -> list[Call]:
    """List the calls that leave the sum of `parts`, in their order, in `out`.

    Parameters
    ----------
    parts : sequence of ndarray of shape (n,)
        One for each shard, in the order of the shards.
    out : ndarray of shape (n,)
        Overlaps with none of `parts`.
    """
    if out.size == 0:
        return []
    if len(parts) == 1:
        return [(np.copyto, (out, parts[0]))]
    calls: list[Call] = [(np.add, (parts[0], parts[1], out))]
    calls += [(np.add, (out, part, out)) for part in parts[2:]]
    return calls


def sum_table(table: Array) -> Array:
    """Sum the rows of `table`, of shape (n_shards, k), from the first to the last."""
    total: Array = table[0].copy()
    for row in table[1:]:
        total += row
    return total


def check_buffers(parts: Sequence[Array], flat: Array, n_own: int) -> None:
    """Make sure that the buffers of an exchange are what the interface asks for.

    Raises
    ------
    ValueError
        There is not one part for each of the rank's `n_own` shards; or an array is not
        flat and contiguous, or differs from `flat` in size or dtype.
    """
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
    """Make sure that `table` has a row for each shard, or raise ValueError."""
    if table.ndim != 2 or len(table) != n_shards or not table.flags.c_contiguous:
        raise ValueError(
            f"a table to sum is contiguous, of shape ({n_shards}, k), not {table.shape}"
        )
