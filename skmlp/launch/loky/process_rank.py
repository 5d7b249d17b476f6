"""A rank in a process of its own: joblib's task, from its first to its last word.

The rank dials the driver, tells the port of its listener, and is told those of all
ranks. From then on the driver's messages come over this control connection, which a
thread reads: so the end of the driver, or of the group, reaches a rank that is
computing, too.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import multiprocessing
import os
import selectors
import signal
import socket
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from skmlp.comm.base import Aborted, Communicator, PeerLost
from skmlp.comm.handshake import Hello, send_hello
from skmlp.comm.listener import Address, Listener, local_name, prepare
from skmlp.launch import framing
from skmlp.launch.framing import Kind
from skmlp.launch.heartbeat import Heartbeat
from skmlp.launch.loky.background_parallel import check_worker
from skmlp.launch.serving import (
    RankMailbox,
    RankSpec,
    describe,
    own_fingerprint,
    portable,
)
from skmlp.training.protocol import Build, Message, RankWorker

#: Where the driver and the ranks of one host listen.
HOST = "127.0.0.1"

#: A group is made anew after each failure, with a run of its own.
GENERATION = 0

#: The most characters of an error's text that a rank sends.
_MAX_TEXT = 2000

#: What a rank gets as its work: build, plan, data.
Parcel = tuple[Build, Any, Any]

#: Returns None if the object is gone.
Remains = Callable[[], object]


@dataclass(frozen=True)
class Invitation:
    """What a rank must know to reach its driver.

    Attributes
    ----------
    address : tuple of (str, int)
        Where the driver listens.
    spec : RankSpec
        Of the group; its limit holds for the talk with the driver, too.
    max_bytes : int
        The most that the arrays of one message may hold.
    driver : int
        The driver's process.
    """

    address: Address
    spec: RankSpec
    max_bytes: int
    driver: int


@functools.cache
def _end_with(driver: int, this: int) -> Heartbeat:
    """End process `this` soon after its parent `driver`, whatever it does then.

    loky's workers would wait for work for minutes.
    """

    def look() -> bool:
        parent = multiprocessing.parent_process()
        if os.name == "nt":  # the number of a dead parent stays
            gone = parent is not None and not parent.is_alive()
        else:
            gone = os.getppid() != driver
        if gone:
            os._exit(1)  # in the midst of any task
        return True

    return Heartbeat(look)


#: Why a rank ends that did nothing wrong.
_LET_GO = "the driver is gone, or has closed the group"


class ControlMailbox(RankMailbox):
    """The rank's end of the control connection, read by a thread."""

    def __init__(
        self, rank: int, listener: Listener, sock: socket.socket, max_bytes: int
    ) -> None:
        super().__init__(rank, GENERATION, listener)
        self._sock = sock
        self._max_bytes = max_bytes
        #: A frame must not be broken by another one.
        self._sending = threading.Lock()
        self._heartbeat = Heartbeat(self._beat)
        self._thread = threading.Thread(
            target=self._read, name="skmlp-control", daemon=True
        )
        self._thread.start()

    def report(self, kind: Kind, message: Message) -> None:
        """Send a frame to the driver. Aborted if it does not listen any more."""
        try:
            with self._sending:
                framing.send(self._sock, kind, message)
        except OSError as error:
            raise Aborted(_LET_GO) from error

    def fail(self, error: BaseException) -> None:
        """Tell the driver why this rank ends, if it still listens."""
        kind, text = describe(error)
        with contextlib.suppress(Aborted):
            self.report(kind, framing.text_message(text[:_MAX_TEXT]))

    def _beat(self) -> bool:
        try:
            self.report(Kind.ALIVE, Message(0))
        except Aborted:
            return False
        return True

    def close(self, limit: float) -> None:
        """End the connection and the threads."""
        with contextlib.suppress(OSError):  # the driver may have ended it
            self._sock.shutdown(socket.SHUT_RDWR)
        self._heartbeat.close(limit)
        self._thread.join(limit)
        self._sock.close()
        if self._thread.is_alive():
            raise RuntimeError(f"the control thread did not end within {limit:g} s")

    def _read(self) -> None:
        """Take in what the driver sends until the connection ends."""
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._sock, selectors.EVENT_READ)
                while True:
                    # Between two messages the driver may take all its time; within one,
                    # the socket's limit holds.
                    selector.select()
                    kind, message = framing.receive(self._sock, self._max_bytes)
                    if kind is Kind.PAUSE:
                        self.pause()
                    else:
                        self.requests.put(message)
        except (OSError, framing.BadFrame):
            self.stop(_LET_GO)


def serve(invitation: Invitation, rank: int, parcel: list[Parcel]) -> None:
    """Be one rank, until the group is closed; joblib's task.

    The work is taken out of `parcel`, so that the arrays which joblib has mapped into
    memory are let go before joblib removes their files.

    Raises
    ------
    Exception
        What the worker object raised: the first cause. A rank that ends because of
        another one, or of the driver, only returns.
    """
    spec = invitation.spec
    check_worker(spec.shards.n_ranks)
    if os.getppid() == invitation.driver:
        _end_with(invitation.driver, os.getpid())
    with contextlib.ExitStack() as stack:
        # In a terminal, Ctrl-C reaches all processes: the driver decides what it means.
        stack.enter_context(_interrupts_ignored())
        try:
            sock = socket.create_connection(invitation.address, spec.limit)
        except OSError:
            return  # the group was closed before this rank began
        stack.callback(sock.close)
        prepare(sock)
        sock.settimeout(spec.limit)
        listener = Listener(HOST, name=local_name(spec.run, GENERATION, rank))
        stack.callback(listener.close)
        hello = Hello(spec.run, GENERATION, rank, own_fingerprint())
        try:
            send_hello(sock, spec.secret, hello, spec.limit)
        except PeerLost:
            return  # the group was closed before this rank was let in
        mailbox = ControlMailbox(rank, listener, sock, invitation.max_bytes)
        stack.callback(mailbox.close, spec.limit)
        remains = _serve(mailbox, spec, parcel)
    # What lives on in a cycle of references would keep the files of its mapped arrays.
    # A collection takes 50 ms, so only then.
    if any(thing() is not None for thing in remains):
        gc.collect()


def _serve(
    mailbox: ControlMailbox, spec: RankSpec, parcel: list[Parcel]
) -> list[Remains]:
    """Learn where the others are, and serve; returns what should be gone then."""
    remains: list[Remains] = []

    def make(comm: Communicator) -> RankWorker:
        build, plan, data = parcel.pop()
        worker = build(plan, comm, data)
        for thing in (data, worker):
            try:
                remains.append(weakref.ref(thing))
            except TypeError:  # of a built-in type: it can't be watched
                remains.append(object)
        return worker

    try:
        here = np.array([os.getpid(), mailbox.listener.address[1]], dtype=np.int64)
        mailbox.report(Kind.HERE, Message(0, (here,)))
        table = mailbox.requests.get()
        if table.arrays:  # else some other rank never came
            addresses = [(HOST, int(port)) for port in table.arrays[0]]
            mailbox.serve(spec, addresses, make)
    except (Aborted, PeerLost) as error:
        mailbox.fail(error)
    except BaseException as error:
        mailbox.fail(error)
        if (told := portable(error)) is not error:
            raise told from None
        raise
    finally:
        mailbox.end()
    return remains


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Ignore SIGINT for a while, where this thread may say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
