"""What a column holds, in little data: found for parts of the rows, then joined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from skmlp.arrays import Array
from skmlp.tabular.columns import Column

#: Numbers of a part of the rows that are kept; of more, so many quantiles.
MOST_NUMBERS = 2**14


@dataclass(frozen=True)
class Summary:
    """What a column holds.

    Attributes
    ----------
    name : str
        Of the column.
    is_number : bool
        Whether it holds numbers.
    n_missing : int
        Rows without a value.
    values, weights : ndarray
        The numbers, sorted, each for so many rows.
    counts : Counter
        The rows of each category; None is a missing one.
    """

    name: str
    is_number: bool
    n_missing: int
    values: Array
    weights: Array
    counts: Counter[str | None]

    @staticmethod
    def of(column: Column) -> Summary:
        """Summarise the rows of one place."""
        if not column.is_number:
            counts: Counter[str | None] = Counter(column.values.tolist())
            nothing = np.empty(0)
            return Summary(column.name, False, counts[None], nothing, nothing, counts)
        known = np.sort(column.values[~np.isnan(column.values)])
        n_missing, n = len(column.values) - len(known), len(known)
        if n > MOST_NUMBERS:
            known = np.quantile(known, np.linspace(0, 1, MOST_NUMBERS))
        weights = np.full(len(known), n / max(len(known), 1))
        return Summary(column.name, True, n_missing, known, weights, Counter())

    @staticmethod
    def joined(parts: Sequence[Summary]) -> Summary:
        """Put together those of several parts of the rows.

        Raises
        ------
        ValueError
            It holds numbers in one part and texts in another one.
        """
        # A part where all is missing is of either kind.
        kinds = {one.is_number for one in parts if not one.is_number or len(one.values)}
        name = parts[0].name
        if len(kinds) > 1:
            raise ValueError(
                f"column {name!r} holds numbers in some partitions and texts in "
                "others: give it one type, for example with astype"
            )
        values = np.concatenate([one.values for one in parts])
        order = np.argsort(values, kind="stable")
        weights = np.concatenate([one.weights for one in parts])[order]
        counts: Counter[str | None] = Counter()
        for one in parts:
            counts.update(one.counts)
        n_missing = sum(one.n_missing for one in parts)
        is_number = kinds != {False}
        if not is_number:
            counts[None] = n_missing
        return Summary(name, is_number, n_missing, values[order], weights, counts)

    def levelled(self, most: float) -> Summary:
        """Different numbers, none of which counts for more than about a share of all.

        It is for more numbers than ``1 / most``.
        """
        values, where = np.unique(self.values, return_inverse=True)
        weights = np.bincount(where, self.weights, len(values))
        for _ in range(20):  # what is taken off makes the others' shares greater
            weights = np.minimum(weights, most * weights.sum())
        return replace(self, values=values, weights=weights)

    def quantiles(self, levels: Sequence[float] | Array) -> Array:
        """Those of the numbers, between them on a line."""
        if (self.weights == 1).all():
            exact: Array = np.quantile(self.values, levels)
            return exact
        ends = np.cumsum(self.weights)
        # Of the rows that a number stands for, it is the one in the middle.
        at = (ends - self.weights / 2 - 0.5) / max(ends[-1] - 1, 1)
        found: Array = np.interp(levels, at, self.values)
        return found

    def categories(self, least: int, rare: str) -> list[str | None]:
        """Those of at least so many rows, and `rare` if there are others."""
        common = [text for text, count in self.counts.items() if count >= least]
        texts = sorted(text for text in common if text is not None and text != rare)
        few = any(0 < count < least for count in self.counts.values())
        more: list[str | None] = [rare] if few or not common or rare in common else []
        return [*texts, *([None] if None in common else []), *more]
