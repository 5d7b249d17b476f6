"""The state after the last finished epoch, kept for the driver."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np

from skmlp.comm.base import Communicator
from skmlp.state import TrainState

Array = np.ndarray[Any, np.dtype[Any]]


class Commits:
    """The state after the last finished epoch, where the driver shares our memory.

    A Ctrl-C falls anywhere; what the steps have written since then is dropped.

    Parameters
    ----------
    comm : Communicator
        The way to the other ranks; all of them make one.
    live : sequence of ndarray
        The arrays that the steps write to: the parameters, the best ones, the moments.
    segments : sequence of slice
        What this rank writes of each.
    """

    def __init__(
        self, comm: Communicator, live: Sequence[Array], segments: Sequence[slice]
    ) -> None:
        self._comm, self._live, self._segments = comm, live, segments
        self._kept: list[Array] = []
        if comm.one_process:
            self._kept = comm.once(lambda: [np.empty_like(array) for array in live])
        self._last: dict[str, tuple[TrainState, int]] = comm.once(dict)

    def last(self) -> TrainState | None:
        """Return the state after the last finished epoch, if there is one."""
        if not self._last:
            return None
        state, n_records = self._last["epoch"]
        return replace(state, records=state.records[:n_records])

    def keep(self, state: TrainState) -> None:
        """Keep a state; its arrays are the live ones, and stay so until `release`."""
        if self._kept:
            # The records only grow, so their count is enough to find those of now.
            self._last["epoch"] = copy(state), len(state.records)

    def release(self) -> None:
        """Let the live arrays be written: what is kept of them moves elsewhere.

        All ranks call it before an epoch. So what a run ends with is never copied, and
        the first state is gone when the copies take their room.
        """
        if not self._last:
            return
        state, n_records = self._last["epoch"]
        if state.params is not self._live[0]:  # it has been done
            return
        # Until all ranks have copied their part, nobody begins the epoch: meanwhile the
        # live arrays are the last one's, and one copy of them is enough.
        for kept, live in zip(self._kept, self._live, strict=True):
            for where in self._segments:
                np.copyto(kept[where], live[where])
        own = copy(state)
        own.params, own.best_params, *moments = self._kept
        own.moments = tuple(moments)
        self._comm.once(lambda: self._last.update(epoch=(own, n_records)))


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
