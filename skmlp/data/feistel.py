"""Rows in an order that is computed when asked for, by a keyed bijection.

A permutation of all rows costs each rank time and memory in proportion to all rows.
A bijection of [0, n) that is computed number by number costs nothing for the others:
from positions to rows where a rank sees all rows, and back where it holds only some.

References
----------
Luby and Rackoff, "How to construct pseudorandom permutations from pseudorandom
functions", SIAM J. Computing 17, 1988: the Feistel network of keyed rounds.
Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002: cycle-walking.
Mitchell, Stokes, Frank and Holmes, "Bandwidth-optimal random shuffling for GPUs", ACM
Trans. Parallel Computing 9, 2022: such bijections as shuffles, halves of unequal width.
Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014:
the multipliers of the round function.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skmlp.arrays import Array

#: Twice what the theory asks of ideal rounds: ours are cheap ones.
ROUNDS = 8

#: Numbers computed at once: they and their scratch stay within the cache.
PIECE = 2**14

_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


class Bijection:
    """A pseudorandom permutation of [0, n), never written out; n is at most 2**62.

    Alternating rounds change one half of a number's bits by a function of the other
    half. Numbers have the bits of ``n - 1``; a result that is not below n goes
    through again (cycle-walking), for less than half of the numbers. `key` is the
    secret, 16 bytes; another `number` gives an unrelated permutation: an epoch's.
    """

    def __init__(self, n: int, key: bytes, number: int) -> None:
        self.n = n
        bits = max((n - 1).bit_length(), 2)
        self._low = bits // 2
        self._high = bits - self._low
        words = np.frombuffer(key, "<u4")
        sequence = np.random.SeedSequence(words, spawn_key=(number,))
        self._keys = [int(k) for k in sequence.generate_state(ROUNDS, np.uint64)]

    def rows(self, positions: Array) -> Array:
        """The row at each of some positions, an array of numbers in [0, n)."""
        return self._walk(positions, range(ROUNDS))

    def positions(self, rows: Array) -> Array:
        """The inverse of `rows`."""
        return self._walk(rows, range(ROUNDS - 1, -1, -1))

    def _walk(self, numbers: Array, rounds: range) -> Array:
        out = np.empty(len(numbers), np.uint64)
        for at in range(0, len(numbers), PIECE):
            piece = out[at : at + PIECE]
            piece[:] = numbers[at : at + PIECE]
            self._mix(piece, rounds)
            outside = np.flatnonzero(piece >= self.n)
            while outside.size:
                again = piece[outside]
                self._mix(again, rounds)
                piece[outside] = again
                outside = outside[again >= self.n]
        return out.view(np.int64).astype(np.intp, copy=False)

    def _mix(self, numbers: Array, rounds: range) -> None:
        """Take numbers through the rounds, in place."""
        shift = np.uint64(self._low)
        high, low = numbers >> shift, numbers & np.uint64(2**self._low - 1)
        mixed, scratch = np.empty_like(numbers), np.empty_like(numbers)
        for k in rounds:
            of, to, width = (high, low, self._low) if k % 2 else (low, high, self._high)
            np.add(of, np.uint64(self._keys[k]), out=mixed)
            np.multiply(mixed, np.uint64(_FIRST), out=mixed)
            np.right_shift(mixed, np.uint64(32), out=scratch)
            np.bitwise_xor(mixed, scratch, out=mixed)
            np.multiply(mixed, np.uint64(_SECOND), out=mixed)
            # The upper bits of a product depend on all bits of its factors.
            np.right_shift(mixed, np.uint64(64 - width), out=mixed)
            np.bitwise_xor(to, mixed, out=to)
        np.left_shift(high, shift, out=numbers)
        np.bitwise_or(numbers, low, out=numbers)


@dataclass(frozen=True, eq=False)
class KeyedIndices:
    """Numbers of `count` rows, in an order: an array that is computed when looked at.

    `shuffle` is a bijection of [0, count): their order. `split` is one of all rows, of
    which these are the rows at its positions from `first` on.
    """

    count: int
    shuffle: Bijection | None = None
    split: Bijection | None = None
    first: int = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, where: slice | Array) -> Array:
        if isinstance(where, slice):
            where = np.arange(*where.indices(self.count), dtype=np.intp)
        rows = where
        if self.shuffle is not None:
            rows = self.shuffle.rows(rows)
        if self.split is not None:
            rows = self.split.rows(rows + self.first)
        return rows

    def shuffled(self, shuffle: Bijection) -> KeyedIndices:
        """The same rows in another order."""
        return KeyedIndices(self.count, shuffle, self.split, self.first)

    def places(self, rows: Array) -> tuple[Array, Array]:
        """Indices into `rows` of those that are among these, and where they stand.

        Both in the order of the places, which rise.
        """
        places = rows
        if self.split is not None:
            places = self.split.positions(rows) - self.first
        which = np.flatnonzero((places >= 0) & (places < self.count))
        places = places[which]
        if self.shuffle is not None:
            places = self.shuffle.positions(places)
        in_order = np.argsort(places)
        return which[in_order], places[in_order]
