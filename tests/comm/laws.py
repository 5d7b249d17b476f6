"""What every communicator must do, as functions that a rank runs.

They are module-level, so that ranks in other processes can run them too.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np

from skmlp.comm.base import Communicator

N_STEPS = 4


def part(dtype: Any, size: int, step: int, shard: int) -> np.ndarray:
    """A shard's part in a step, of such magnitudes that the order of a sum shows."""
    n = min(size, 10_007)
    rng = np.random.RandomState([n, step, shard])
    values = rng.randn(n) * 10.0 ** rng.randint(-6, 7, n)
    return np.resize(values.astype(dtype), size)


def sum_of(
    dtype: Any, size: int, step: int, n_shards: int, tree: bool = False
) -> np.ndarray:
    """The sum of all parts, in the order of the shards or as a tree."""
    parts = [part(dtype, size, step, k) for k in range(n_shards)]
    return tree_sum(parts, 0, 1) if tree else reduce(np.add, parts)


def tree_sum(parts: list[np.ndarray], first: int, distance: int) -> np.ndarray:
    """The sum of every so many-th part: of every second one, and the ones between."""
    if first + distance >= len(parts):
        return parts[first]
    return tree_sum(parts, first, 2 * distance) + tree_sum(
        parts, first + distance, 2 * distance
    )


def steps(
    comm: Communicator, dtype: Any, size: int, n_steps: int = N_STEPS
) -> list[np.ndarray]:
    """The flat array after each of some steps that store the sum in it."""
    own = comm.own_shards
    flat = np.zeros(size, dtype)
    parts = [np.zeros(size, dtype) for _ in own]
    exchange = comm.exchange(parts, flat)
    history = []
    for step in range(n_steps):
        for k, array in zip(own, parts, strict=True):
            array[:] = part(dtype, size, step, k)
        exchange.reduce_scatter()
        for segment, total in zip(exchange.segments, exchange.totals, strict=True):
            flat[segment] = total
        exchange.all_gather()
        history.append(flat.copy())
    return history


def segments(comm: Communicator, size: int) -> list[slice]:
    """The segments of an exchange of `size`."""
    flat = np.zeros(size)
    parts = [np.zeros(size) for _ in comm.own_shards]
    return comm.exchange(parts, flat).segments


def row_sums(comm: Communicator, width: int, n_calls: int) -> list[np.ndarray]:
    """The sums of a table that is filled anew, and at once, for each call."""
    n_shards = comm.shards.n_shards
    table = np.full((n_shards, width), np.nan)
    sums = []
    for call in range(n_calls):
        for k in comm.own_shards:
            table[k] = part(np.float64, width, call, k)
        sums.append(comm.all_reduce(table))
    return sums
