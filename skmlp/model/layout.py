"""Where each layer's parameters stand in the flat vector.

The flat vector holds all weight matrices, layer by layer and row by row, then all
biases: ``[W_0, W_1, ..., b_0, b_1, ...]``. The weights, which alone carry the L2
penalty, are thus a prefix, and the order is that of scikit-learn's L-BFGS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from skmlp.arrays import Array

Views = list[tuple[Array, Array]]


@dataclass(frozen=True)
class Layout:
    """The shapes of a network, whose `units` are from the features to the outputs."""

    units: tuple[int, ...]

    @cached_property
    def shapes(self) -> list[tuple[int, int]]:
        """``(fan_in, fan_out)`` of each weight matrix."""
        return list(pairwise(self.units))

    @cached_property
    def n_weights(self) -> int:
        """Length of the prefix that holds the weight matrices."""
        return sum(fan_in * fan_out for fan_in, fan_out in self.shapes)

    @cached_property
    def size(self) -> int:
        """Length of the flat vector."""
        return self.n_weights + sum(self.units[1:])

    def views(self, flat: Array) -> Views:
        """The pairs ``(W, b)`` of all layers, as views of `flat`."""
        pairs = zip(self.slices(), self.shapes, strict=True)
        return [(flat[W].reshape(shape), flat[b]) for (W, b), shape in pairs]

    def slices(self) -> list[tuple[slice, slice]]:
        """Where the weights and the biases of each layer stand."""
        slices, start, bias = [], 0, self.n_weights
        for fan_in, fan_out in self.shapes:
            stop = start + fan_in * fan_out
            slices.append((slice(start, stop), slice(bias, bias + fan_out)))
            start, bias = stop, bias + fan_out
        return slices

    def without(self, layers: Sequence[int]) -> list[slice]:
        """The longest runs of parameters, rising, that are of no layer in `layers`."""
        gaps = sorted(
            (part.start, part.stop)
            for layer, pair in enumerate(self.slices())
            for part in pair
            if layer in layers
        )
        ends = [0, *(stop for _, stop in gaps)]
        starts = [*(start for start, _ in gaps), self.size]
        runs = zip(ends, starts, strict=True)
        return [slice(start, stop) for start, stop in runs if start < stop]

    def pack(
        self,
        coefs: Sequence[Array],
        intercepts: Sequence[Array],
        dtype: np.dtype[Any],
    ) -> Array:
        """A new flat vector with copies of the layers' arrays."""
        flat = np.empty(self.size, dtype=dtype)
        for (W, b), coef, intercept in zip(
            self.views(flat), coefs, intercepts, strict=True
        ):
            W[...] = coef
            b[...] = intercept
        return flat


#: ``layout_of(units)`` is the layout, the same one each time: it is asked for often.
layout_of = lru_cache(Layout)
