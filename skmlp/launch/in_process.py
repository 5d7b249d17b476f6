"""The one rank of a fit in this process: it lives in the caller's thread."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from skmlp.comm.solo import SoloCommunicator
from skmlp.threads import blas_limit
from skmlp.training.protocol import Build, Message, RankGroup, RankWorker


class _FirstInterrupt:
    """Calls a function at the first Ctrl-C instead of raising; the second one raises.

    Between `begin` and `end`, in the main thread, unless the user handles Ctrl-C.
    """

    def __init__(self, function: Callable[[], None]) -> None:
        self.pressed = False
        self._function = function
        here = threading.current_thread() is threading.main_thread()
        usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        self._acts = here and usual

    def begin(self) -> None:
        """Take Ctrl-C over."""
        if self._acts:
            signal.signal(signal.SIGINT, self._note)

    def end(self) -> None:
        """Give it back."""
        if self._acts:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _note(self, number: int, frame: object) -> None:
        if self.pressed:
            self.end()
            raise KeyboardInterrupt
        self.pressed = True
        self._function()


class InProcessGroup(RankGroup):
    """One rank in the caller's thread, which holds all `n_shards` shards.

    `build` is handed `plan` and `data` as they are. `blas_threads` limits the threads
    of the BLAS from now to `close`; None leaves them alone.
    """

    where = "in process"
    shares_memory = True

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
        self._answer: Message | None = None

    def request(self, message: Message) -> Message:
        """Let the rank handle `message`; after a Ctrl-C, up to the end of its epoch.

        Then KeyboardInterrupt is raised, and `finish_epoch` has the answer.
        """
        if self._worker is None:
            raise RuntimeError("this group has been closed")
        self._answer = None
        interrupt = _FirstInterrupt(self._worker.pause)
        try:
            interrupt.begin()
            self._answer = answer = self._worker.handle(message)
        finally:
            interrupt.end()
        if interrupt.pressed:
            raise KeyboardInterrupt
        return answer

    def finish_epoch(self) -> Message | None:
        """Return the answer of a request that has been finished. See `RankGroup`."""
        answer, self._answer = self._answer, None
        self.close()
        return answer

    def close(self) -> None:
        """Let go of the rank and of the BLAS limit."""
        with self._held:
            if self._worker is not None:
                self._worker.close()
        self._worker = self._answer = None
