"""Starts the ranks of a fit on this host, and decides where to go on after losses."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

from skmlp.launch.loky import deaths
from skmlp.training.protocol import Launcher, RankFailed, RankGroup


class LocalLauncher(Launcher):
    """Starts the groups of one host by the function `start`.

    `here` makes a group of the same shards in this process, for when those of `start`
    lose ranks again and again. Without it, the first loss ends the fit.
    """

    def __init__(
        self,
        start: Callable[[], RankGroup],
        here: Callable[[], RankGroup] | None = None,
    ) -> None:
        self._start = start
        self._here = here
        # Only processes are killed; reading the count takes as long as a tiny fit.
        self._killed_for_memory = deaths.killed_for_memory() if here else 0

    def start(self, generation: int) -> RankGroup:
        """Start a group; see `Launcher.start`."""
        return self._start()

    def recover(self, failure: RankFailed) -> None:
        """Go on, if that is allowed: new processes are there for the asking."""
        if self._here is None:
            raise failure

    def stay_here(self, failures: Sequence[RankFailed]) -> None:
        """Go on in this process if the ranks were killed from outside, and warn.

        Not if it was for want of memory, nor if one ended twice by itself: what ended
        it might end this process.
        """
        first = failures[0]
        by_themselves = [f.rank for f in failures if not f.from_outside]
        twice = len(set(by_themselves)) < len(by_themselves)
        if self._here is None or twice or len(by_themselves) == len(failures):
            raise first
        if killed := deaths.killed_for_memory() - self._killed_for_memory:
            raise RankFailed(
                f"{first}; meanwhile the system has killed {killed} processes for want "
                "of memory: take fewer workers (n_jobs), or train in this process"
            ) from first
        self._start, self._here = self._here, None
        warnings.warn(
            f"worker processes were lost {len(failures)} times in a row, the first "
            f"time as {first}. Signals from outside killed them; the fit goes on in "
            "this process and gives the same model",
            RuntimeWarning,
            stacklevel=2,
        )
