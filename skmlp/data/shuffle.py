"""Which rows when: the order of the rows in each epoch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from skmlp.arrays import Array
from skmlp.data.feistel import Bijection, KeyedIndices
from skmlp.plan import Plan
from skmlp.rng_state import State, twister_at, twister_state

#: Rows of a fit up to which their order and split are scikit-learn's. At this limit a
#: `RowOrder` takes 0.16 GB, and over a second an epoch, on each rank by itself; see
#: docs/decisions/0009-order-of-many-rows.rst.
EXACT_ROWS = 20_000_000

#: More shuffles than are ever asked for: a Ctrl-C has ended one halfway.
_IN_BETWEEN = 2**63

#: Numbers that are written at once.
PIECE = 2**16


class Order(ABC):
    """The order of the rows in each epoch."""

    #: The twister's state after all draws up to now.
    rng: State

    @abstractmethod
    def seek(self, shuffles: int) -> Array | KeyedIndices:
        """The rows in the order after so many shuffles: that of an epoch, from 1."""


class RowOrder(Order):
    """The order of scikit-learn: a shuffle of the order of the epoch before.

    A function of the twister's first state (`start`) and of the count of shuffles; what
    it has computed it keeps, and asked for an earlier order it begins again. `base` are
    the numbers of the training rows among all rows; all rows if left out.
    """

    def __init__(
        self,
        n_rows: int,
        start: State,
        base: Array | None = None,
        dtype: Any = np.intp,
    ) -> None:
        self._start = start
        self.base = base
        self._order = np.empty(n_rows, dtype)
        self._rewind()

    def _rewind(self) -> None:
        self.rng, self._done = self._start, 0
        if self.base is None:
            for at in range(0, len(self._order), PIECE):
                piece = self._order[at : at + PIECE]
                piece[:] = np.arange(at, at + len(piece))
        else:
            np.copyto(self._order, self.base)

    def seek(self, shuffles: int) -> Array:
        """The rows in the order after so many shuffles.

        Parameters
        ----------
        shuffles : int
            The number of the epoch, from 1.

        Returns
        -------
        ndarray of shape (n_rows,)
            Valid until the next call.
        """
        if shuffles < self._done:
            self._rewind()
        while self._done < shuffles:
            # In place: the draws don't look at what they move, so it is the same as
            # scikit-learn's taking by a shuffled index, in a fourth of the memory.
            rng = twister_at(self.rng)
            done, self._done = self._done, _IN_BETWEEN
            rng.shuffle(self._order)
            self.rng, self._done = twister_state(rng), done + 1
        return self._order


class KeyedOrder(Order):
    """The order of very many rows: of each epoch a bijection of its own.

    It costs nothing to begin, nothing to go back, and no memory. One draw from the
    twister gives the key of all epochs. `base` are the training rows; all if left out.
    """

    def __init__(
        self, n_rows: int, start: State, base: KeyedIndices | None = None
    ) -> None:
        self.base = KeyedIndices(n_rows) if base is None else base
        rng = twister_at(start)
        self._key = rng.bytes(16)
        self.rng = twister_state(rng)

    def seek(self, shuffles: int) -> KeyedIndices:
        """The rows in the order of an epoch, from 1; 0 for the order of the split."""
        if shuffles == 0:
            return self.base
        return self.base.shuffled(Bijection(len(self.base), self._key, shuffles))


def order_of(
    plan: Plan, base: Array | KeyedIndices | None = None, dtype: Any = np.intp
) -> Order:
    """The order of the training rows, for a plan that shuffles.

    `base` are the training rows, as `skmlp.data.split.split_rows` gives them; all rows
    if left out. `dtype` is that of the numbers in an order that is kept as a whole.
    """
    assert plan.order_rng is not None
    if plan.keyed_order:
        assert not isinstance(base, np.ndarray)
        return KeyedOrder(plan.n_rows, plan.order_rng, base)
    assert not isinstance(base, KeyedIndices)
    return RowOrder(plan.n_rows, plan.order_rng, base, dtype)
