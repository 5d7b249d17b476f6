"""What the ranks' own connections take from Dask: addresses, ports, certificates."""

from __future__ import annotations

import errno

import dask
from distributed import Worker
from distributed.comm import get_address_host, parse_address
from distributed.security import Security

from skmlp.comm.listener import ANY_PORT, Listener
from skmlp.comm.rendezvous import Contexts

#: The key in Dask's configuration.
PORTS = "skmlp.ports"
#: Dask's protocols without encryption; any other one counts as encrypted.
CLEAR = {"tcp", "ws", "inproc", "ucx", "ucxx"}
#: What to do where ranks can't reach each other.
ADVICE = (
    "Dask workers that train together connect to each other: if a firewall is between "
    "them, open a range of ports and name it on the workers or in the client, as in "
    f'dask.config.set({{"{PORTS}": "9000-9100"}})'
)


def ports_setting() -> str:
    """The setting `PORTS` of this process, checked; "" for none.

    Raises
    ------
    ValueError
        It is neither a port nor a range of ports.
    """
    setting = dask.config.get(PORTS, None)
    text = "" if setting is None else str(setting)
    parse_ports(text)
    return text


def parse_ports(text: str) -> range | tuple[int, ...]:
    """The ports of a setting: a number, or two with a hyphen between them."""
    if not text:
        return ANY_PORT
    first, hyphen, last = text.partition("-")
    if first.isdecimal() and (last.isdecimal() or not hyphen):
        ports = range(int(first), int(last or first) + 1)
        if ports and ports[0] > 0 and ports[-1] < 1 << 16:
            return ports
    raise ValueError(
        f"Dask's setting {PORTS} must be a port or a range of ports, such as 9000 or "
        f'"9000-9100"; got {text!r}'
    )


def listener_of(
    worker: Worker, address: str, client_setting: str, name: str
) -> Listener:
    """A rank's listener, on the host of `address`, by which the scheduler knows it.

    If that is none of this host, as behind a router, it listens where the worker does.
    The worker's own setting of the ports precedes the client's.

    Raises
    ------
    RuntimeError
        No port is free.
    """
    ports = ports_setting() or client_setting
    try:
        try:
            return Listener(get_address_host(address), parse_ports(ports), name)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            host = get_address_host(worker.listener.listen_address)
            return Listener(host, parse_ports(ports), name)
    except OSError as error:
        hint = f"; Dask's setting {PORTS} is {ports!r}" if ports else ""
        raise RuntimeError(
            f"Dask worker {address} can't listen for other ranks: "
            f"{error.strerror or error}{hint}. Each worker of a host needs a port of "
            "its own"
        ) from error


def is_encrypted(security: Security, *addresses: str) -> bool:
    """Whether Dask encrypts what it sends, or must, as far as this process knows."""
    protocols = {parse_address(address)[0] for address in addresses}
    return bool(security.require_encryption) or not protocols <= CLEAR


def tls_contexts(worker: Worker) -> Contexts:
    """The worker's TLS contexts, for the accepting and for the dialing side.

    Raises
    ------
    RuntimeError
        It has no certificate: what ranks send is never in clear instead.
    """
    accepting = worker.security.get_listen_args("worker").get("ssl_context")
    dialing = worker.security.get_connection_args("worker").get("ssl_context")
    if accepting is None or dialing is None:
        raise RuntimeError(
            f"this Dask cluster is encrypted, and worker {worker.address} has no TLS "
            "certificate for its connections to other workers: give it "
            "distributed.comm.tls.ca-file, .worker.cert and .worker.key, or "
            "Security(tls_ca_file=..., tls_worker_cert=..., tls_worker_key=...)"
        )
    return accepting, dialing
