"""Which rows when: the order of the rows in each epoch."""

from __future__ import annotations

from typing import Any

import numpy as np

from skmlp.plan import set_twister_state, twister_state

Array = np.ndarray[Any, np.dtype[Any]]


class RowOrder:
    """The order of scikit-learn: a shuffle of the order of the epoch before.

    A function of the twister's first state and of the count of shuffles; what it has
    computed it keeps, and asked for an earlier order it begins again.

    Parameters
    ----------
    n_rows : int
        Training rows.
    start : tuple of (bytes, int)
        The twister's state before the first shuffle (`skmlp.plan.twister_state`).
    base : ndarray of shape (n_rows,), optional
        Numbers of the training rows among all rows; all rows if left out.
    """

    def __init__(
        self, n_rows: int, start: tuple[bytes, int], base: Array | None = None
    ) -> None:
        self._n_rows = n_rows
        self._start = start
        self._base = base
        self._rng = np.random.RandomState(0)
        self._shuffle = np.empty(n_rows, dtype=np.intp)
        self._identity = np.arange(n_rows, dtype=np.intp)
        self._order = np.empty(n_rows, dtype=np.intp)
        self._spare = np.empty(n_rows, dtype=np.intp)
        self._rows = self._order if base is None else np.empty(n_rows, dtype=np.intp)
        self._rewind()

    def _rewind(self) -> None:
        set_twister_state(self._rng, self._start)
        self._done = 0
        np.copyto(self._order, self._identity)

    def seek(self, shuffles: int) -> Array:
        """The rows in the order after so many shuffles.

        Parameters
        ----------
        shuffles : int
            The number of the epoch, from 1.

        Returns
        -------
        ndarray of shape (n_rows,), intp
            Valid until the next call.
        """
        if shuffles < self._done:
            self._rewind()
        while self._done < shuffles:
            np.copyto(self._shuffle, self._identity)
            self._rng.shuffle(self._shuffle)
            # The indices are in range by construction; "clip" lets take write straight
            # into its result.
            np.take(self._order, self._shuffle, out=self._spare, mode="clip")
            self._order, self._spare = self._spare, self._order
            self._done += 1
        if self._base is None:
            return self._order
        np.take(self._base, self._order, out=self._rows, mode="clip")
        return self._rows

    @property
    def rng(self) -> tuple[bytes, int]:
        """The twister's state after the last shuffle."""
        return twister_state(self._rng)
