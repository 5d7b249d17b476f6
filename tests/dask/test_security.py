"""How ranks on Dask workers talk where the cluster is encrypted."""

from __future__ import annotations

import contextlib
import ssl

import dask.array as da
import joblib
import numpy as np
import pytest
from distributed import Client, Nanny, Scheduler, SpecCluster
from distributed.security import Security

import skmlp
from skmlp.dask.ingest.load_rows import load_rows
from skmlp.dask.ports import is_encrypted
from tests.comm.gangs import dial, make_certificate
from tests.launch.dask_clusters import cluster, left_behind, until
from tests.launch.dask_doors import added, held_up, undisturbed
from tests.launch.dask_servants import X, Y, gang_on
from tests.limits import HANG_S


@contextlib.contextmanager
def mixed_cluster(security):
    """A client of a cluster in which one of two workers listens without TLS."""
    here = {"host": "127.0.0.1", "security": security}
    scheduler = {"protocol": "tls://", "port": 0, "dashboard_address": ":0", **here}
    workers = {
        name: {
            "cls": Nanny,
            "options": {"nthreads": 1, "protocol": protocol, **here},
        }
        for name, protocol in enumerate(("tls://", "tcp://"))
    }
    with (
        SpecCluster(
            scheduler={"cls": Scheduler, "options": scheduler},
            workers=workers,
            security=security,
        ) as local,
        Client(local) as client,
    ):
        client.wait_for_workers(2, timeout=HANG_S)
        yield client


@pytest.fixture(scope="module", params=["tls://", "wss://", "mixed"])
def tls_client(request, tmp_path_factory):
    """Of a cluster of two workers with certificates that is encrypted, or in part."""
    certificate, key = make_certificate(tmp_path_factory.mktemp("tls"))
    roles = ("scheduler", "worker", "client")
    files = {f"tls_{role}_cert": str(certificate) for role in roles}
    files |= {f"tls_{role}_key": str(key) for role in roles}
    # Where Dask does not require encryption, the addresses alone tell of it.
    required = request.param == "tls://"
    security = Security(
        require_encryption=required, tls_ca_file=str(certificate), **files
    )
    with (
        mixed_cluster(security)
        if request.param == "mixed"
        else cluster(2, security=security, protocol=request.param)
    ) as client:
        yield client


@pytest.fixture
def tls(tls_client):
    """The same client; its cluster must be as it was when the test ends."""
    yield tls_client
    until(lambda: not left_behind(tls_client), "a clean cluster")


# ---- Looks at the ranks, run on the workers ------------------------------------------


def kinds_of_links(dask_worker):
    """Of what kind a rank's connections are."""
    (fit,) = dask_worker.plugins["skmlp"]._fits.values()
    links = fit.mailbox._comm._mesh.connections
    kinds = []
    for sock in [link.sock for link in links.values()]:
        kinds.append("tls" if isinstance(sock, ssl.SSLSocket) else "clear")
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
    with load_rows(tls, X, Y) as data, gang_on(data) as gang:
        assert added(gang) == undisturbed(2)
        assert links_of(tls) == ["tls"] * 2


def test_on_a_tls_cluster_nobody_without_tls_is_listened_to(tls, tmp_path):
    with load_rows(tls, X, Y) as data, held_up(tls, data, tmp_path) as held:
        for opening in (b"skmlp\0\0\1" + bytes(32), b"GET / HTTP/1.1\r\n\r\n"):
            with dial(held.doors[0]) as sock, contextlib.suppress(ConnectionError):
                sock.sendall(opening)
                # At most TLS says why not; a rank would answer with its own opening.
                while answer := sock.recv(4096):
                    assert b"skmlp" not in answer
        with held.go_on() as gang:
            assert added(gang) == undisturbed(2)
            assert links_of(tls) == ["tls"] * 2


def require_encryption(required, dask_worker):
    dask_worker.security.require_encryption = required


def test_a_worker_without_certificates_is_refused_where_encryption_is_required(clean):
    """One worker of three says so: no rank falls back to talking in clear."""
    one = sorted(clean.scheduler_info()["workers"])[:1]
    clean.run(require_encryption, True, workers=one)
    try:
        with pytest.raises(RuntimeError, match=r"is encrypted, .*tls_worker_cert"):
            list(fits(clean))
    finally:
        clean.run(require_encryption, False, workers=one)


@pytest.mark.parametrize(
    ("address", "encrypted"),
    [
        ("tcp://h:1", False),
        ("ws://h:1", False),
        ("inproc://h/1/2", False),
        ("ucx://h:1", False),
        ("tls://h:1", True),
        ("wss://h:1", True),
        ("somebodys-own://h:1", True),
    ],
)
def test_a_protocol_that_is_not_known_to_be_clear_counts_as_encrypted(
    address, encrypted
):
    assert is_encrypted(Security(), "tcp://h:1", address) is encrypted
    assert is_encrypted(Security(require_encryption=True), address)
