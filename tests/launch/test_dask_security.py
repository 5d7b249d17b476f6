"""How ranks on Dask workers talk: over TLS, and through the workers' own ports."""

from __future__ import annotations

import contextlib
import socket
import ssl
from functools import partial

import dask
import dask.array as da
import joblib
import numpy as np
import pytest
from distributed import Client
from distributed.security import Security

import skmlp
from skmlp.launch.base import Message
from skmlp.launch.dask_gang import adopt
from tests.comm.gangs import dial, make_certificate
from tests.launch import servants
from tests.launch.dask_clusters import cluster, left_behind, until
from tests.launch.dask_doors import added, held_up, undisturbed
from tests.launch.dask_servants import N, RowPlan, X, Y, ask, gang_on

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def tls_client(tmp_path_factory):
    """Of a cluster of two workers that talk TLS only."""
    certificate, key = make_certificate(tmp_path_factory.mktemp("tls"))
    roles = ("scheduler", "worker", "client")
    files = {f"tls_{role}_cert": str(certificate) for role in roles}
    files |= {f"tls_{role}_key": str(key) for role in roles}
    security = Security(require_encryption=True, tls_ca_file=str(certificate), **files)
    with cluster(2, security=security, protocol="tls://") as client:
        yield client


@pytest.fixture
def tls(tls_client):
    """The same client; its cluster must be as it was when the test ends."""
    yield tls_client
    until(lambda: not left_behind(tls_client), "a clean cluster")


# ---- Looks at the ranks, run on the workers ------------------------------------------


def kinds_of_links(dask_worker):
    """Of what kind a rank's connections are."""
    (run,) = dask_worker.plugins["skmlp"]._runs.values()
    links = run.post._comm._mesh.links
    # Dask's own: a worker's address ends with its port.
    ports = {address.rpartition(":")[2] for address in run.members}
    kinds = []
    for sock in [link.sock for link in links.values()]:
        if sock.family == socket.AF_UNIX:
            kinds.append("carried")
        elif isinstance(sock, ssl.SSLSocket):
            kinds.append("tls")
        elif ports & {str(sock.getsockname()[1]), str(sock.getpeername()[1])}:
            kinds.append("the worker's port")
        else:
            kinds.append("direct")
    return kinds


def links_of(client: Client) -> list[str]:
    kinds = client.run(kinds_of_links)
    return sorted(kind for of_rank in kinds.values() for kind in of_rank)


# ---- TLS -----------------------------------------------------------------------------


def fits(client: Client):
    """An in-process fit, and the same on the workers of a cluster."""
    rng = np.random.RandomState(0)
    X = rng.normal(size=(120, 5))
    y = (X[:, 0] + X[:, 1] > 0).astype(int)
    settings = {
        "hidden_layer_sizes": 7,
        "batch_size": 20,
        "max_iter": 6,
        "random_state": 3,
    }
    here = skmlp.MLPClassifier(**settings).fit(X, y)
    with skmlp.config_context(ranks="as_asked"), client.as_current():
        with joblib.parallel_config(backend="dask"):
            yield here, skmlp.MLPClassifier(n_jobs=2, **settings).fit(X, y)
        lazy = da.from_array(X, chunks=(40, 5)), da.from_array(y, chunks=40)
        yield here, skmlp.MLPClassifier(**settings).fit(*lazy)


def test_a_fit_on_a_tls_cluster_is_the_same_model(tls):
    for here, there in fits(tls):
        assert there.n_shards_ == 2
        for one, other in zip(here.coefs_, there.coefs_, strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-6)


def test_on_a_tls_cluster_ranks_talk_tls(tls):
    with adopt(tls, X, Y) as data, gang_on(data) as gang:
        assert added(gang) == undisturbed(2)
        assert links_of(tls) == ["tls"] * 2


def test_on_a_tls_cluster_nobody_without_tls_is_listened_to(tls, tmp_path):
    with adopt(tls, X, Y) as data, held_up(tls, data, tmp_path) as held:
        for opening in (b"skmlp\0\0\1" + bytes(32), b"GET / HTTP/1.1\r\n\r\n"):
            with dial(held.doors[0]) as sock, contextlib.suppress(ConnectionError):
                sock.sendall(opening)
                # At most TLS says why not; a rank would answer with its own opening.
                while answer := sock.recv(4096):
                    assert b"skmlp" not in answer
        with held.go_on() as gang:
            assert added(gang) == undisturbed(2)
            assert links_of(tls) == ["tls"] * 2


# ---- The worker's own port -----------------------------------------------------------


def close_doors(silent):
    """Let the listeners to come tell of a port that refuses or ignores who calls."""
    from skmlp.comm import meeting
    from skmlp.launch import dask_rank

    meeting.DIRECT_LIMIT /= 20

    class Closed(dask_rank.Listener):
        def __init__(self, host):
            super().__init__(host)
            # Bound, so that it is nobody else's; but nobody listens.
            self.door = socket.socket()
            self.door.bind((host, 0))
            self.address = self.door.getsockname()
            self.callers = []
            if silent:
                # Its queue is full: the system answers no more.
                self.door.listen(0)
                self.callers = [socket.socket() for _ in range(4)]
            for caller in self.callers:
                caller.setblocking(False)
                caller.connect_ex(self.address)

        def close(self):
            super().close()
            for sock in (self.door, *self.callers):
                sock.close()

    dask_rank.Closed, dask_rank.Listener = dask_rank.Listener, Closed


def open_doors():
    from skmlp.comm import meeting
    from skmlp.launch import dask_rank

    meeting.DIRECT_LIMIT *= 20
    dask_rank.Listener = dask_rank.Closed
    del dask_rank.Closed


def move_away():
    """Let the workers' host not know the address by which the others know it."""
    from skmlp.launch import dask_worker

    dask_worker.true_host = dask_worker.get_address_host
    dask_worker.get_address_host = lambda address: "203.0.113.1"  # of no host at all


def move_back():
    from skmlp.launch import dask_worker

    dask_worker.get_address_host = dask_worker.true_host
    del dask_worker.true_host


WALLS = {
    "closed doors": (partial(close_doors, False), open_doors),
    "silent doors": (partial(close_doors, True), open_doors),
    "a router": (move_away, move_back),
}


@pytest.fixture(params=["the setting", *WALLS])
def no_way(request):
    """No direct way to a rank, for one of the reasons."""

    @contextlib.contextmanager
    def entered(client):
        if request.param == "the setting":
            with dask.config.set({"skmlp.direct": False}):
                yield
            return
        build, pull_down = WALLS[request.param]
        client.run(build)
        try:
            yield
        finally:
            client.run(pull_down)

    return entered


def test_without_a_direct_way_the_ranks_use_the_workers_ports(clean, no_way):
    with no_way(clean), adopt(clean, X, Y) as data:
        for generation in range(2):
            with gang_on(data, generation=generation) as gang:
                assert gang.shards.n_ranks == 3
                assert added(gang) == undisturbed(3)
                assert links_of(clean) == ["the worker's port"] * 6


def test_over_tls_dask_carries_what_the_ranks_say(tls, no_way):
    with no_way(tls), adopt(tls, X, Y) as data, gang_on(data) as gang:
        assert added(gang) == undisturbed(2)
        assert links_of(tls) == ["carried"] * 2


def test_large_sums_are_carried(tls):
    x = np.random.RandomState(0).normal(size=500_000)
    plan = RowPlan(n_rows=N, size=x.size)
    with (
        dask.config.set({"skmlp.direct": False}),
        adopt(tls, X, Y) as data,
        gang_on(data, plan=plan) as gang,
    ):
        total = x + x * 2
        assert ask(gang, servants.ADD, x).tobytes() == total.tobytes()
        total = total + (x + x * 2)
        assert ask(gang, servants.ADD, x).tobytes() == total.tobytes()


def test_workers_of_one_process_need_no_port():
    with (
        cluster(2, processes=False) as client,
        dask.config.set({"skmlp.direct": False}),
        adopt(client, X, Y) as data,
        gang_on(data) as gang,
    ):
        assert added(gang) == undisturbed(2)
        assert links_of(client) == ["carried"] * 2


@pytest.mark.parametrize("kind", ["tcp", "tls"])
def test_a_fit_through_the_workers_ports_is_the_same_model(kind, clean, tls):
    client = {"tcp": clean, "tls": tls}[kind]
    with dask.config.set({"skmlp.direct": False}):
        for here, there in fits(client):
            assert there.n_shards_ > 1
            for one, other in zip(here.coefs_, there.coefs_, strict=True):
                np.testing.assert_allclose(other, one, rtol=1e-6)


def test_a_rank_lost_behind_the_workers_port_is_told(tls):
    """An abort ends what is carried, and the next gang works."""
    with dask.config.set({"skmlp.direct": False}), adopt(tls, X, Y) as data:
        plan = RowPlan(n_rows=N, error=ValueError)
        with gang_on(data, plan=plan) as gang, pytest.raises(ValueError, match="not"):
            gang.ask(Message(servants.FAIL, (np.array([1]),)))
        with gang_on(data, generation=1) as gang:
            assert added(gang) == undisturbed(2)
    until(lambda: not any(tls.run(detours_here).values()), "an end of all detours")


def detours_here():
    from skmlp.launch import dask_port

    return len(dask_port._under_way)


def test_who_takes_a_detour_to_no_rank_is_turned_away(clean):
    async def call(dask_worker):
        from distributed.comm import connect

        comm = await connect(dask_worker.address)
        await comm.write({"op": "skmlp-detour", "run": "0" * 32, "generation": 0})
        try:
            return await comm.read()
        except OSError:
            return "closed"

    with adopt(clean, X, Y), adopt(clean, X, Y):
        assert set(clean.run(call).values()) == {"closed"}
