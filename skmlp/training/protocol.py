"""How ranks start: what every launcher offers to the supervisor.

A launcher starts a `RankGroup`, once per fit. Each rank builds a `RankWorker` with the
function that the launcher is handed, and then answers the supervisor's messages; the
launcher knows nothing of training. All ranks get every message; the lead (rank 0)
answers.

A `Message` is an operation code and flat arrays of numbers. It can travel as raw bytes
of bounded length; no pickle is ever read from a socket of ours.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from skmlp.arrays import Array
from skmlp.comm.base import Communicator, Shards

#: Ends the service of a rank; every other code belongs to the rank worker.
CLOSE = 0

#: Seconds that ranks in other processes get to finish their epoch after Ctrl-C.
GRACE_S = 1.0


@dataclass(frozen=True)
class Message:
    """A request to all ranks, or the lead's answer.

    `op` says what to do: `CLOSE` is the launcher's, the rest the rank worker's. The
    arrays are one-dimensional, C-contiguous, of dtype int64, float64 or float32.
    """

    op: int
    arrays: tuple[Array, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(a.nbytes for a in self.arrays)


class RankWorker(Protocol):
    """What a rank runs."""

    def handle(self, message: Message) -> Message:
        """Do what the message says, together with the other ranks, and answer."""
        ...

    def pause(self) -> None:
        """Answer the request under way after this epoch. From any thread.

        One of them is told, and it sees to it that all do so.
        """
        ...

    def close(self) -> None:
        """End what else runs for it."""
        ...


#: ``build(plan, comm, data)``: module-level, so that it can be pickled by name.
Build = Callable[[Any, Communicator, Any], RankWorker]


class RankFailed(RuntimeError):
    """A rank is gone: killed, lost, or out of reach."""

    #: Which one, if that is known.
    rank: int | None = None
    #: Whether a signal from outside killed it, for all that is known.
    from_outside = False


class RankGroup(ABC):
    """The ranks of one fit, from their start until `close`."""

    shards: Shards
    #: "in process", "processes" or "dask": for people.
    where: str
    #: Answers show the ranks' own arrays, to which the next request writes.
    shares_memory = False

    @abstractmethod
    def request(self, message: Message) -> Message:
        """Hand `message` to all ranks, wait for all, return the lead's answer.

        RankFailed names a rank that is gone. What the worker object of a rank raised is
        raised: the first cause.
        """

    @abstractmethod
    def finish_epoch(self) -> Message | None:
        """End the service after a Ctrl-C in a request.

        Returns the answer if the ranks finish their epoch within `GRACE_S`, or None.
        """

    @abstractmethod
    def close(self) -> None:
        """End the service; leave no thread, process of ours, port or file behind.

        Also after a failure or an interrupt, and more than once.
        """

    def __enter__(self) -> RankGroup:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class Launcher(ABC):
    """Starts the groups of one fit, one after the other; one is all that most need."""

    @abstractmethod
    def start(self, generation: int) -> RankGroup:
        """Start a group; `generation` counts those of the fit before this one.

        RankFailed if a rank is gone; another try may succeed, after `recover`.
        """

    def recover(self, failure: RankFailed) -> None:
        """Make ready for another group, after the `failure` that ended the last one.

        RankFailed if there can be no other: `failure`, or what is wrong now.
        """
        raise failure

    def stay_here(self, failures: Sequence[RankFailed]) -> None:
        """Make ready for a group in this process, after failures again and again.

        RankFailed, the first cause, if there can't be one, or if it could end this
        process.
        """
        raise failures[0]

    def could_grow(self) -> bool:
        """Whether a new group would have more ranks than the last one."""
        return False

    def grow(self) -> None:
        """Make ready for the group that `could_grow` spoke of; the last one is over.

        Never called where that says no.
        """
        raise NotImplementedError(f"the groups of {type(self).__name__} never grow")
