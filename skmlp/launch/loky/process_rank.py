"""A rank in a process of its own: joblib's task, from its first to its last word.

The rank dials the driver; the two make sure of each other; the rank tells the port of
its listener and is told those of all ranks; the ranks form their mesh. From then on the
driver's messages come as raw frames over the control connection, which a thread reads:
so the end of the driver, or of the group, reaches a rank that is computing, too.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import multiprocessing
import os
import pickle
import selectors
import signal
import socket
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any

import numpy as np
from joblib.externals.loky.backend.reduction import dumps

from skmlp.comm.base import Aborted, Communicator, PeerLost, Shards
from skmlp.comm.handshake import (
    Hello,
    Secret,
    default_facts,
    fingerprint,
    send_hello,
)
from skmlp.comm.listener import Listener, prepare
from skmlp.comm.sockets import SocketCommunicator
from skmlp.launch import framing
from skmlp.launch.framing import Kind
from skmlp.launch.heartbeat import Beat
from skmlp.launch.loky.background_parallel import check_worker
from skmlp.threads import blas_limit
from skmlp.training.protocol import CLOSE, Build, Message

#: Where the driver and the ranks of one host listen.
HOST = "127.0.0.1"

#: A group is made anew after each failure, with a run of its own.
GENERATION = 0

#: What a rank gets as its work: build, plan, data.
Parcel = tuple[Build, Any, Any]

#: Returns None if the object is gone.
Remains = Callable[[], object]


@dataclass(frozen=True)
class Invitation:
    """What a rank must know to join its group.

    Attributes
    ----------
    address : tuple of (str, int)
        Where the driver listens.
    secret : Secret
        The group's.
    run : bytes
        16 bytes that name the group.
    shards : Shards
        Which rank holds which shard.
    blas_threads : int or None
        Limit of BLAS threads of each rank's process; None leaves it alone.
    limit : float
        Seconds for each piece of progress in the talk with the driver, and for the
        ranks to meet.
    step_limit : float
        Seconds for which ranks may be apart in their work.
    max_bytes : int
        The most that the arrays of one message may hold.
    driver : int
        The driver's process.
    """

    address: tuple[str, int]
    secret: Secret
    run: bytes
    shards: Shards
    blas_threads: int | None
    limit: float
    step_limit: float
    max_bytes: int
    driver: int


@functools.cache
def _end_with(driver: int, this: int) -> Beat:
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
            os._exit(1)  # in the midst of a task of anybody's
        return True

    return Beat(look)


def own_fingerprint() -> bytes:
    """32 bytes that are equal in processes that compute the same bits."""
    return fingerprint(**default_facts())


#: Why a rank ends that did nothing wrong.
_LET_GO = "the driver is gone, or has closed the group"


class _DriverGone(Exception):
    """Nobody listens at the other end of the control connection."""


class _Line:
    """The rank's end of the control connection, read by a thread.

    Attributes
    ----------
    inbox : SimpleQueue of Message
        What the driver says, in order; `CLOSE` also if the connection ends.
    at_pause : callable
        Called when the driver wants the order under way to end early.
    """

    def __init__(self, sock: socket.socket, max_bytes: int) -> None:
        self.inbox: SimpleQueue[Message] = SimpleQueue()
        self.at_pause: Callable[[], object] = bool  # nothing
        self._sock = sock
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._gone = False
        self._at_end: list[Callable[[], None]] = []
        #: A frame must not be broken by another one.
        self._saying = threading.Lock()
        self._beat = Beat(self._alive)
        self._thread = threading.Thread(
            target=self._read, name="skmlp-control", daemon=True
        )
        self._thread.start()

    def at_end(self, function: Callable[[], None]) -> None:
        """Have `function` called when the connection ends, or now if it has."""
        with self._lock:
            self._at_end.append(function)
            gone = self._gone
        if gone:
            function()

    def say(self, kind: Kind, message: Message) -> None:
        """Send a frame to the driver.

        Raises
        ------
        _DriverGone
            It does not listen any more.
        """
        try:
            with self._saying:
                framing.send(self._sock, kind, message)
        except OSError as error:
            raise _DriverGone(_LET_GO) from error

    def _alive(self) -> bool:
        """Give a sign of life; whether somebody listens."""
        try:
            self.say(Kind.ALIVE, Message(0))
        except _DriverGone:
            return False
        return True

    def farewell(self, kind: Kind, text: str) -> None:
        """Tell the driver why this rank ends, if it still listens."""
        with contextlib.suppress(_DriverGone):
            self.say(kind, framing.text_message(text[:2000]))

    def close(self, limit: float) -> None:
        """End the connection and the thread."""
        with contextlib.suppress(OSError):  # the driver may have ended it
            self._sock.shutdown(socket.SHUT_RDWR)
        self._beat.close(limit)
        self._thread.join(limit)
        self._sock.close()
        if self._thread.is_alive():
            raise RuntimeError(f"the control thread did not end within {limit:g} s")

    def _read(self) -> None:
        """Take in what the driver says until the connection ends."""
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._sock, selectors.EVENT_READ)
                while True:
                    # Between two messages the driver may take all its time; within one,
                    # the socket's limit holds.
                    selector.select()
                    kind, message = framing.receive(self._sock, self._max_bytes)
                    if kind is Kind.PAUSE:
                        self.at_pause()
                    else:
                        self.inbox.put(message)
        except (OSError, framing.BadFrame):
            with self._lock:
                self._gone = True
                functions = list(self._at_end)
            for function in functions:
                function()
            self.inbox.put(Message(CLOSE))


def serve(invitation: Invitation, rank: int, parcel: list[Parcel]) -> None:
    """Be one rank, until the group is closed.

    Parameters
    ----------
    invitation : Invitation
        How to join the group.
    rank : int
        Which one.
    parcel : list of one tuple
        The work. It is taken out, so that the arrays which joblib has mapped into
        memory are let go before joblib removes their files.

    Raises
    ------
    Exception
        What the servant raised: the first cause. A rank that ends because of another
        one, or of the driver, only returns.
    """
    check_worker(invitation.shards.n_ranks)
    if os.getppid() == invitation.driver:
        _end_with(invitation.driver, os.getpid())
    with contextlib.ExitStack() as stack:
        # In a terminal, Ctrl-C reaches all processes: what it means is the driver's
        # matter, who closes the group in order.
        stack.enter_context(_interrupts_ignored())
        try:
            sock = socket.create_connection(invitation.address, invitation.limit)
        except OSError:
            return  # the group was closed before this rank began
        stack.callback(sock.close)
        prepare(sock)
        sock.settimeout(invitation.limit)
        listener = Listener(HOST)
        stack.callback(listener.close)
        remains = _join(invitation, rank, parcel, sock, listener)
    # What lives on in a cycle of references would keep the files of its mapped arrays.
    # A collection takes 50 ms, so only then.
    if any(thing() is not None for thing in remains):
        gc.collect()


def _join(
    invitation: Invitation,
    rank: int,
    parcel: list[Parcel],
    sock: socket.socket,
    listener: Listener,
) -> list[Remains]:
    """Introduce this rank, meet the others, work; tell the driver how it ends."""
    prints = own_fingerprint()
    hello = Hello(invitation.run, GENERATION, rank, prints)
    try:
        send_hello(sock, invitation.secret, hello, invitation.limit)
    except PeerLost:
        return []  # the group was closed before this rank was let in
    line = _Line(sock, invitation.max_bytes)
    comm: Communicator | None = None
    remains: list[Remains] = []
    try:
        here = np.array([os.getpid(), listener.address[1]], dtype=np.int64)
        line.say(Kind.HERE, Message(0, (here,)))
        table = line.inbox.get()
        if table.op == CLOSE:
            return remains  # some other rank never came
        line.at_end(partial(listener.abort, _LET_GO, GENERATION))
        comm = SocketCommunicator.connect(
            listener,
            rank,
            invitation.shards,
            [(HOST, int(port)) for port in table.arrays[0]],
            secret=invitation.secret,
            run=invitation.run,
            generation=GENERATION,
            fingerprint=prints,
            limit=invitation.limit,
            step_limit=invitation.step_limit,
        )
        line.at_end(partial(comm.abort, _LET_GO))
        with blas_limit(invitation.blas_threads):
            _work(comm, parcel, line, remains)
    except _DriverGone:
        return remains  # nobody is left to be told
    except Aborted as error:
        line.farewell(Kind.ABORTED, str(error))
    except PeerLost as error:
        line.farewell(Kind.LOST, str(error))
    except BaseException as error:
        text = f"{type(error).__name__}: {error}"
        line.farewell(Kind.FAILED, text)
        if comm is not None:
            comm.abort(f"rank {rank} failed: {text}")
        if not _can_travel(error):
            told = "".join(traceback.format_exception(error))
            raise RuntimeError(f"{text} (it can't be pickled)\n\n{told}") from None
        raise
    finally:
        if comm is not None:
            comm.close()
        line.close(invitation.limit)
    return remains


def _work(
    comm: Communicator, parcel: list[Parcel], line: _Line, remains: list[Remains]
) -> None:
    """Build the servant and let it serve; add to `remains` what should be gone then."""
    build, plan, data = parcel.pop()
    servant = build(plan, comm, data)
    for thing in (data, servant):
        try:
            remains.append(weakref.ref(thing))
        except TypeError:  # of a built-in type: nobody knows
            remains.append(object)
    line.at_pause = servant.pause
    line.say(Kind.READY, Message(0))
    try:
        while (message := line.inbox.get()).op != CLOSE:
            answer = servant.handle(message)
            if comm.rank == 0:
                line.say(Kind.ANSWER, answer)
            else:
                line.say(Kind.DONE, Message(0))
    finally:
        servant.close()


def _can_travel(error: BaseException) -> bool:
    """Whether `error` survives the pickling on its way to the driver."""
    try:
        pickle.loads(dumps(error))
    except Exception:
        return False
    return True


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
