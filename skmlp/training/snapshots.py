"""The state after the last finished epoch, kept for the driver."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np

from skmlp.state import TrainState

Array = np.ndarray[Any, np.dtype[Any]]


class Commits:
    """The state after the last finished epoch, where the driver shares our memory.

    A Ctrl-C falls anywhere; what the steps have written since then is dropped. `live`
    are the arrays that the steps write to: the parameters, the best ones, the moments.
    """

    def __init__(self, live: Sequence[Array]) -> None:
        self._live = live
        self._kept = [np.empty_like(array) for array in live]
        self._last: tuple[TrainState, int] | None = None

    def last(self) -> TrainState | None:
        """Return the state after the last finished epoch, if there is one."""
        if self._last is None:
            return None
        state, n_records = self._last
        return replace(state, records=state.records[:n_records])

    def keep(self, state: TrainState) -> None:
        """Keep a state; its arrays are the live ones, and stay so until `release`."""
        if self._kept:
            # The records only grow, so their count is enough to find those of now.
            self._last = copy(state), len(state.records)

    def release(self) -> None:
        """Copy the kept state before an epoch writes to the live arrays."""
        if self._last is None:
            return
        state, n_records = self._last
        if state.params is not self._live[0]:  # it has been done
            return
        for kept, live in zip(self._kept, self._live, strict=True):
            np.copyto(kept, live)
        own = copy(state)
        own.params, own.best_params, *moments = self._kept
        own.moments = tuple(moments)
        self._last = own, n_records


class FarCommits:
    """The state after a finished epoch, where the driver is in another process.

    A copy that any thread may read while the next epoch goes on.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._arrays: list[Array] = []
        self._state: TrainState | None = None

    def keep(self, state: TrainState) -> None:
        """Copy a state, whose arrays are whole."""
        live = [state.params, state.best_params, *state.moments]
        with self._lock:
            if not self._arrays:
                self._arrays = [np.empty_like(array) for array in live]
            for kept, array in zip(self._arrays, live, strict=True):
                np.copyto(kept, array)
            params, best, *moments = self._arrays
            self._state = replace(
                state,
                params=params,
                best_params=best,
                moments=tuple(moments),
                records=list(state.records),
            )

    def last(self) -> tuple[Array, ...] | None:
        """A copy of the state as arrays, if there is one."""
        with self._lock:
            if self._state is None:
                return None
            return tuple(array.copy() for array in self._state.to_arrays())
