"""A rank's service: it joins the other ranks, then handles the driver's requests.

The same for ranks in joblib's processes and on Dask workers. They differ in how
requests and answers travel: that is what a subclass of `RankMailbox` adds.
"""

from __future__ import annotations

import threading
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pickle import loads
from queue import SimpleQueue

from joblib.externals.loky.backend.reduction import dumps

from skmlp.comm.base import Aborted, Communicator, PeerLost, Shards
from skmlp.comm.handshake import Secret, default_facts, fingerprint
from skmlp.comm.listener import Address, Listener
from skmlp.comm.rendezvous import Contexts
from skmlp.comm.sockets import connect
from skmlp.launch.framing import Kind
from skmlp.threads import blas_limit
from skmlp.training.protocol import CLOSE, Message, RankFailed, RankWorker


def own_fingerprint() -> bytes:
    """32 bytes that are equal in processes that compute the same bits."""
    return fingerprint(**default_facts())


@dataclass(frozen=True)
class RankSpec:
    """What a rank must know to join the others.

    Attributes
    ----------
    run : bytes
        16 bytes that name the fit.
    shards : Shards
        Which rank holds which shard.
    secret : Secret
        The fit's.
    blas_threads : int or None
        Limit of BLAS threads of the rank's process; None leaves it alone.
    limit, step_limit : float
        Seconds to meet the other ranks, and for which they may be apart in their work.
    """

    run: bytes
    shards: Shards
    secret: Secret
    blas_threads: int | None
    limit: float
    step_limit: float


class RankMailbox(ABC):
    """A rank's requests and answers: between the driver and the rank's worker object.

    `requests.put`, `pause` and `stop` may come from any thread; the rest is the rank's.
    """

    def __init__(self, rank: int, generation: int, listener: Listener) -> None:
        self.rank = rank
        self.generation = generation
        self.listener = listener
        self.requests: SimpleQueue[Message] = SimpleQueue()
        self._lock = threading.Lock()
        self._comm: Communicator | None = None
        self._worker: RankWorker | None = None
        self._stopped: str | None = None

    @abstractmethod
    def report(self, kind: Kind, message: Message) -> None:
        """Tell the driver that the rank is ready, or what came of a request."""

    def pause(self) -> None:
        """Have the request under way end after this epoch."""
        worker = self._worker
        if worker is not None:
            worker.pause()

    def stop(self, reason: str) -> None:
        """End the service, also in the midst of a request."""
        with self._lock:
            if self._stopped is not None:
                return
            self._stopped, comm = reason, self._comm
        self.requests.put(Message(CLOSE))
        self.listener.abort(reason, self.generation)
        if comm is not None:
            comm.abort(reason)

    def serve(
        self,
        spec: RankSpec,
        addresses: Sequence[Address],
        make: Callable[[Communicator], RankWorker],
        contexts: Contexts | None = None,
    ) -> None:
        """Meet the other ranks, make the worker object, handle requests until `CLOSE`.

        What goes wrong is raised: the caller reports it, before `end`.
        """
        comm = connect(
            self.listener,
            self.rank,
            spec.shards,
            addresses,
            secret=spec.secret,
            run=spec.run,
            generation=self.generation,
            fingerprint=own_fingerprint(),
            limit=spec.limit,
            step_limit=spec.step_limit,
            ssl_contexts=contexts,
        )
        with self._lock:
            self._comm = comm
        # The next group has another one: from here on nobody finds an open port.
        self.listener.close()
        if self._stopped is not None:
            raise Aborted(self._stopped)
        with blas_limit(spec.blas_threads):
            self._worker = worker = make(comm)
            self.report(Kind.READY, Message(CLOSE))
            # Without a limit: `stop` ends this wait.
            while (message := self.requests.get()).op != CLOSE:
                answer = worker.handle(message)
                if self.rank == 0:
                    self.report(Kind.ANSWER, answer)
                else:
                    # What the others return stays here.
                    self.report(Kind.DONE, Message(CLOSE))

    def end(self) -> None:
        """Give back what the rank holds."""
        with self._lock:
            comm, self._comm = self._comm, None
            worker, self._worker = self._worker, None
        try:
            if worker is not None:
                worker.close()
        finally:
            if comm is not None:
                comm.close()
            self.listener.close()


# ---- Failures ----------------------------------------------------------------------


def describe(error: BaseException) -> tuple[Kind, str]:
    """What the end of a rank with `error` means for the fit, and a text."""
    kind = Kind.FAILED
    if isinstance(error, Aborted):
        kind = Kind.ABORTED
    elif isinstance(error, PeerLost):
        kind = Kind.LOST
    return kind, f"{type(error).__name__}: {error}"


def portable(error: BaseException) -> BaseException:
    """`error` if it survives pickling, else a RuntimeError that tells of it."""
    try:
        loads(dumps(error))
    except Exception:
        told = "".join(traceback.format_exception(error))
        return RuntimeError(f"{describe(error)[1]} (it can't be pickled)\n\n{told}")
    return error


def first_cause(
    raised: Sequence[BaseException], lost: Sequence[RankFailed], told: Sequence[str]
) -> BaseException:
    """Of all that is known of a failure, what came before the rest.

    What a rank raised comes first, then a lost rank. That a rank lost another one, or
    was told to stop, follows from something else.
    """
    for error in [*raised, *lost]:
        return error
    return RankFailed(f"a rank stopped: {'; '.join(told) or 'no rank told why'}")
