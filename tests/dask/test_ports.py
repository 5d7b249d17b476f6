"""The ports that ranks on Dask workers listen on, and workers out of reach."""

from __future__ import annotations

import contextlib
import random
import socket
from functools import partial

import dask
import joblib
import numpy as np
import pytest

import skmlp
from skmlp.dask.ingest.load_rows import load_rows
from skmlp.training.protocol import RankFailed
from tests.launch.dask_doors import added, undisturbed
from tests.launch.dask_servants import X, Y, gang_on

SETTING = "skmlp.ports"


@pytest.fixture
def ports():
    """Ten free ports in a row, below those that the system gives to clients."""
    for _ in range(1000):
        first = random.randrange(20_000, 30_000)
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + 10):
                    sock = stack.enter_context(socket.socket())
                    sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return range(first, first + 10)
    raise AssertionError("found no ten free ports")


def listening_port(dask_worker):
    """Where the rank of a worker took its connections."""
    (fit,) = dask_worker.plugins["skmlp"]._fits.values()
    return fit.mailbox.listener.address[1]


def fit(client):
    """A fit on the workers, and the same in this process."""
    rng = np.random.RandomState(0)
    X = rng.normal(size=(120, 5))
    y = (X[:, 0] + X[:, 1] > 0).astype(int)
    model = skmlp.MLPClassifier(7, batch_size=20, max_iter=3, random_state=3)
    here = skmlp.MLPClassifier(**model.get_params()).fit(X, y)
    model.set_params(n_jobs=3)
    with (
        skmlp.config_context(ranks="as_asked"),
        client.as_current(),
        joblib.parallel_config(backend="dask"),
    ):
        return model.fit(X, y), here


def test_ranks_listen_on_the_ports_of_the_setting(clean, ports):
    with (
        dask.config.set({SETTING: f"{ports[0]}-{ports[-1]}"}),
        load_rows(clean, X, Y) as data,
    ):
        for generation in range(3):  # ports are used again at once
            with gang_on(data, generation=generation) as gang:
                assert added(gang) == undisturbed(3)
                found = clean.run(listening_port)
                assert len(set(found.values())) == 3
                assert set(found.values()) <= set(ports)


def test_a_fit_on_given_ports_is_the_same_model(clean, ports):
    with dask.config.set({SETTING: f"{ports[0]}-{ports[-1]}"}):
        there, here = fit(clean)
    assert there.n_shards_ == 3
    for one, other in zip(here.coefs_, there.coefs_, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-6)


def test_a_workers_own_setting_precedes_the_clients(clean, ports):
    workers = list(clean.scheduler_info()["workers"])
    own = dict(zip(workers, ports, strict=False))

    def configure(setting, dask_worker):
        dask.config.set({SETTING: setting and setting[dask_worker.address]})

    clean.run(configure, own)
    try:
        with (
            dask.config.set({SETTING: ports[9]}),
            load_rows(clean, X, Y) as data,
            gang_on(data) as gang,
        ):
            assert added(gang) == undisturbed(3)
            assert clean.run(listening_port) == own
    finally:
        clean.run(configure, None)


def test_too_few_ports_are_named(clean, ports):
    text = rf"can't listen .* of 127\.0\.0\.1 is free; .*{SETTING} is '{ports[0]}'"
    with (
        dask.config.set({SETTING: ports[0]}),
        pytest.raises(RuntimeError, match=text),
    ):
        fit(clean)


@pytest.mark.parametrize(
    "setting", ["many", "9000-", "-9000", "9100-9000", 0, 70_000, "9000:9100", [9000]]
)
def test_a_setting_that_is_no_port_is_refused(clean, setting):
    with (
        dask.config.set({SETTING: setting}),
        pytest.raises(ValueError, match=f"{SETTING} must be a port or a range"),
    ):
        fit(clean)


# ---- Out of reach --------------------------------------------------------------------


def close_ports(silent):
    """Let the listeners to come announce a port that refuses or ignores connections."""
    from skmlp.comm import rendezvous
    from skmlp.dask import ports as dask_ports

    rendezvous.CONNECT_LIMIT_S /= 30

    class Closed(dask_ports.Listener):
        def __init__(self, host, ports, name):
            super().__init__(host, ports)  # without a name for its host
            # Bound, so that no other process takes it; but not listening.
            self.closed = socket.socket()
            self.closed.bind((host, 0))
            self.address = self.closed.getsockname()
            self.callers = []
            if silent:
                # Its queue is full: the system answers no more.
                self.closed.listen(0)
                self.callers = [socket.socket() for _ in range(4)]
            for caller in self.callers:
                caller.setblocking(False)
                caller.connect_ex(self.address)

        def close(self):
            super().close()
            for sock in (self.closed, *self.callers):
                sock.close()

    dask_ports.Open, dask_ports.Listener = dask_ports.Listener, Closed


def open_ports():
    from skmlp.comm import rendezvous
    from skmlp.dask import ports as dask_ports

    rendezvous.CONNECT_LIMIT_S *= 30
    dask_ports.Listener = dask_ports.Open
    del dask_ports.Open


@pytest.mark.parametrize("silent", [False, True], ids=["refusing", "silent"])
def test_workers_out_of_reach_are_an_error_that_names_the_setting(clean, silent):
    clean.run(partial(close_ports, silent))
    try:
        with pytest.raises(RankFailed, match="can't be reached from rank") as caught:
            fit(clean)
    finally:
        clean.run(open_ports)
    assert SETTING in str(caught.value)
    assert "127.0.0.1:" in str(caught.value)
