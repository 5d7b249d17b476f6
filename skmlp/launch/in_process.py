"""The one rank of a fit in this process: it lives in the caller's thread."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from skmlp.comm.solo import SoloCommunicator
from skmlp.threads import blas_limit
from skmlp.training.protocol import Build, Message, RankGroup, RankWorker


class InProcessGroup(RankGroup):
    """One rank in the caller's thread, which holds all `n_shards` shards.

    `build` is handed `plan` and `data` as they are. `blas_threads` limits the threads
    of the BLAS from now to `close`; None leaves them alone.
    """

    where = "in process"

    def __init__(
        self,
        build: Build,
        plan: Any,
        data: Any,
        n_shards: int = 1,
        blas_threads: int | None = None,
    ) -> None:
        comm = SoloCommunicator(n_shards)
        self.shards = comm.shards
        with ExitStack() as stack:
            stack.enter_context(blas_limit(blas_threads))
            self._worker: RankWorker | None = build(plan, comm, data)
            self._held = stack.pop_all()
        self._last: Message | None = None

    def request(self, message: Message) -> Message:
        """Let the rank handle `message`. See `RankGroup.request`."""
        if self._worker is None:
            raise RuntimeError("this group has been closed")
        return self._worker.handle(message)

    def last_commit(self) -> Message | None:
        """Return what the servant says; after `close`, what it said last."""
        return self._last if self._worker is None else self._worker.last_commit()

    def close(self) -> None:
        """Let go of the rank and of the BLAS limit."""
        with self._held:
            if self._worker is not None:
                self._worker.close()
        self._last, self._worker = self.last_commit(), None
