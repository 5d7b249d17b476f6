"""Dropout of a network's layers: which masks, and the buffers that they need."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np

from skmlp.arrays import Array
from skmlp.model.rows import SparseRows

#: A function and its arguments.
Call = tuple[Any, tuple[Any, ...]]


class Dropout:
    """The masks of one shard's minibatches.

    They are a function of the key, the step, the layer, the row's number among all rows
    and the unit: the model does not depend on who trains which rows. `rates` are the
    shares dropped of the features and of each hidden layer, `widths` how many there
    are.
    """

    def __init__(
        self,
        rates: Sequence[float],
        widths: Sequence[int],
        key: tuple[int, int],
        kernels: ModuleType,
        dtype: np.dtype[Any],
        max_rows: int,
    ) -> None:
        self._mask, self._csr_dropout = kernels.dropout_mask, kernels.csr_dropout
        self._rates = rates
        self._stream = np.array([*key, 0], dtype=np.uint64)
        self._numbers = np.zeros(max_rows, np.int64)
        self._masks = [
            np.empty((max_rows if rate else 0, width), dtype)
            for rate, width in zip(rates, widths, strict=True)
        ]
        self._dropped = [np.empty_like(mask) for mask in self._masks[1:]]
        self._sparse: list[Array] = []

    def begin(self, step: int, numbers: Array) -> None:
        """Take up a minibatch: its step, and the numbers of the rows that come."""
        self._stream[2] = step
        self._numbers[: len(numbers)] = numbers

    def _settings(self, layer: int) -> tuple[int, float]:
        """Threshold of the random words, and what the units that stay are scaled by."""
        rate = self._rates[layer]
        return round(rate * 2**32), 1.0 / (1.0 - rate)

    def masks(self, step: int, numbers: Array, ends: Sequence[int]) -> list[Any]:
        """New masks of minibatches, by layer; None where nothing is dropped.

        `step` is that of the first one; `ends` are where each ends, after a 0.
        """
        found: list[Any] = [None] * len(self._rates)
        for layer in np.flatnonzero(self._rates).tolist():
            room, settings = self._masks[layer], self._settings(layer)
            mask = np.empty((len(numbers), room.shape[1]), room.dtype)
            for k, (a, b) in enumerate(pairwise(ends)):
                self._stream[2] = step + k
                self._mask(mask[a:b], numbers[a:b], self._stream, layer, *settings)
            found[layer] = mask
        return found

    def layer(self, layer: int, a: Array) -> tuple[Array, Array | None, list[Call]]:
        """What a hidden layer `a`, from 1 on, gives to the next one under dropout.

        Returns what the next layer is to see (`a` itself without dropout), the mask by
        which the gradient by it is multiplied (or None), and the calls that write both.
        """
        if not self._rates[layer]:
            return a, None, []
        rows = len(a)
        mask, dropped = self._masks[layer][:rows], self._dropped[layer - 1][:rows]
        settings = (self._numbers[:rows], self._stream, layer, *self._settings(layer))
        calls: list[Call] = [
            (self._mask, (mask, *settings)),
            (np.multiply, (a, mask, dropped)),
        ]
        return dropped, mask, calls

    def features(self, X: Array | SparseRows) -> Array | SparseRows:
        """The minibatch itself, its features dropped; a copy, valid until the next."""
        if not self._rates[0]:
            return X
        rows, settings = X.shape[0], self._settings(0)
        numbers = self._numbers[:rows]
        if isinstance(X, SparseRows):
            return self._stored(X, numbers, settings)
        mask = self._masks[0][:rows]
        self._mask(mask, numbers, self._stream, 0, *settings)
        return np.multiply(X, mask, out=mask)

    def _stored(
        self, X: SparseRows, numbers: Array, settings: tuple[int, float]
    ) -> SparseRows:
        data, indices, indptr = X.parts
        n_stored = int((indptr[X.rows + 1] - indptr[X.rows]).sum())
        if not self._sparse or len(self._sparse[0]) < n_stored:
            room = n_stored + n_stored // 4
            self._sparse = [np.empty(room, data.dtype), np.empty(room, indices.dtype)]
        kept, columns = self._sparse
        parts = (kept, columns, np.empty(len(X.rows) + 1, indptr.dtype))
        self._csr_dropout(*X.parts, X.rows, numbers, self._stream, *settings, *parts)
        return SparseRows(parts, np.arange(len(X.rows)), X.shape[1])
