"""Gangs of ranks for tests: threads of this process, whatever they talk over."""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from skmlp.comm import sockets
from skmlp.comm.base import Communicator, Shards
from skmlp.comm.halving_sockets import HalvingCommunicator
from skmlp.comm.handshake import (
    Expected,
    Hello,
    Secret,
    acceptor,
    fingerprint,
    run_protocol,
)
from skmlp.comm.sockets import Listener, SocketCommunicator
from skmlp.comm.solo import SoloCommunicator
from tests.limits import HANG_S

LIMIT = HANG_S
HOST = "127.0.0.1"
RUN = b"a fit for a test"
PRINT = fingerprint(of="a test")


def connect(
    listener: Listener,
    rank: int,
    holders: Sequence[int],
    addresses: Any,
    **changes: Any,
) -> Communicator:
    """Meet the others with what all ranks of a test share, but for `changes`."""
    settings = {
        "secret": changes.pop("secret"),
        "run": RUN,
        "generation": 3,
        "fingerprint": PRINT,
        "limit": LIMIT,
    }
    return sockets.connect(
        listener, rank, Shards(tuple(holders)), addresses, **{**settings, **changes}
    )


def addresses_of(listeners: Sequence[Listener]) -> list[tuple[str, int]]:
    """Where the ranks listen."""
    return [listener.address for listener in listeners]


def dial(address: tuple[str, int]) -> socket.socket:
    """Connect as anybody can."""
    return socket.create_connection(address, timeout=LIMIT)


def read_to_the_end(sock: socket.socket) -> None:
    """Wait until the other end has closed the connection."""
    with contextlib.suppress(ConnectionResetError):
        while sock.recv(4096):
            pass


def accept_hello(
    sock: socket.socket, secret: Secret, expected: Expected, limit: float
) -> Hello:
    """Find out which rank has dialed a socket."""
    return run_protocol(sock, acceptor(secret, expected), limit)


def in_threads(functions: Sequence[Callable[[], Any]]) -> list[Any]:
    """Call all at once; return what each returned, or the exception that it raised."""

    def call(function: Callable[[], Any]) -> Any:
        try:
            return function()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(functions)) as pool:
        futures = [pool.submit(call, function) for function in functions]
        return [future.result(LIMIT) for future in futures]


def good(results: Sequence[Any]) -> list[Any]:
    """Raise the first exception among `results`."""
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return list(results)


@contextlib.contextmanager
def socket_gang(
    holders: Sequence[int], **settings: Any
) -> Iterator[list[Communicator]]:
    """Ranks that met over loopback."""
    secret = Secret.new()
    n_ranks = max(holders) + 1
    with contextlib.ExitStack() as stack:
        listeners = [Listener(HOST) for _ in range(n_ranks)]
        for listener in listeners:
            stack.callback(listener.close)
        addresses = [listener.address for listener in listeners]

        def meet(rank: int) -> Communicator:
            comm = connect(
                listeners[rank], rank, holders, addresses, secret=secret, **settings
            )
            stack.callback(comm.close)
            return comm

        yield good(in_threads([lambda r=r: meet(r) for r in range(n_ranks)]))


@contextlib.contextmanager
def gang(
    kind: str, holders: Sequence[int], contexts: Any = None
) -> Iterator[list[Communicator]]:
    """The communicators of all ranks, by rank."""
    if kind == "solo":
        yield [SoloCommunicator(len(holders))]
    else:
        its = HalvingCommunicator if "halving" in kind else SocketCommunicator
        with socket_gang(holders, ssl_contexts=contexts, kind=its) as comms:
            yield comms


def run(
    comms: Sequence[Communicator], function: Callable[[Communicator], Any]
) -> list[Any]:
    """Run `function` on all ranks as a launcher does: a failing rank stops the others.

    Returns by rank what `function` returned, or the exception that it raised.
    """

    def call(comm: Communicator) -> Any:
        try:
            return function(comm)
        except BaseException as error:
            comm.abort(f"rank {comm.rank} failed: {error!r}")
            raise

    return in_threads([lambda c=c: call(c) for c in comms])


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + LIMIT
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"waited {LIMIT:g} s until {what}"
        pause.wait(0.001)


def make_certificate(folder: Any) -> tuple[Any, Any]:
    """A cluster's own certificate and its key, as files."""
    # Here, so that ranks in processes of their own start faster.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a cluster")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / "certificate.pem", folder / "key.pem"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate_file, key_file


def make_contexts(folder: Any) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS contexts as of a Dask cluster: both sides show the cluster's certificate."""
    certificate_file, key_file = make_certificate(folder)
    contexts = []
    for side in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT):
        context = ssl.SSLContext(side)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(certificate_file, key_file)
        context.load_verify_locations(certificate_file)
        contexts.append(context)
    return contexts[0], contexts[1]
