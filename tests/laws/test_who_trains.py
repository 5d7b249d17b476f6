"""Which workers of a cluster take part in a fit, however they are known or deployed."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import dask
import dask.array as da
import joblib
import numpy as np
import pytest
from distributed import Client, MultiLock, wait

from skmlp import config_context, testing
from tests.launch.dask_clusters import (
    OTHER_SKMLP,
    WITHOUT_SKMLP,
    MortalWorkers,
    addresses,
    cluster,
    environment,
    left_behind,
    pids,
    scheduler,
    until,
)
from tests.laws.fits import Fit
from tests.laws.places import assert_same_bits
from tests.laws.test_workers_come_and_go import at_requests as at_requests
from tests.limits import HANG_S

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")

FIT = Fit("binary", {"max_iter": 12, "tol": 0.0, "n_iter_no_change": np.inf}, rows=60)


@pytest.fixture(autouse=True)
def _settings():
    """All ranks that are asked for, a round for each epoch, a look for more at each."""
    with (
        testing.settings(round_s=0.0, new_workers_s=0.0),
        config_context(ranks="as_asked"),
    ):
        yield


def arrays() -> list[Any]:
    X, y, _ = FIT.data()
    return [da.from_array(X, chunks=(10, -1)), da.from_array(y, chunks=10)]


def model(n_jobs: int | None = None, **params: Any) -> Any:
    return FIT.estimator(n_jobs).set_params(**params)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def workers_of(client: Any) -> Iterator[MortalWorkers]:
    workers = MortalWorkers(client)
    try:
        yield workers
    finally:
        workers.close()


@pytest.fixture
def trained() -> Iterator[list[tuple[str, ...]]]:
    """The workers of each group of ranks: those where Dask has a task of a rank."""
    found: list[tuple[str, ...]] = []

    def see(where: str, n_ranks: int, n_shards: int) -> None:
        here = {
            worker
            for worker, keys in Client.current().processing().items()
            if any("skmlp-rank" in key and "stay" not in key for key in keys)
        }
        assert len(here) == n_ranks
        found.append(tuple(sorted(here)))

    with testing.on_start(see):
        yield found


# ---- Addresses ---------------------------------------------------------------------


def test_workers_that_are_known_by_a_name(tmp_path, trained):
    with scheduler(tmp_path) as client, workers_of(client) as workers:
        for n_workers in (1, 2):
            port = free_port()
            listen = ["--listen-address", f"tcp://127.0.0.1:{port}"]
            contact = ["--contact-address", f"tcp://localhost:{port}"]
            workers.start(n_workers, "", *listen, *contact)
        model().fit(*arrays())
        with joblib.parallel_config("dask", client=client):
            model(-1).fit(*FIT.data()[:2])
        assert trained == [tuple(addresses(client))] * 2
        until(lambda: not left_behind(client), "a clean cluster")


class EnoughError(Exception):
    """The fit has shown what it is to show."""


@pytest.mark.parametrize("n_workers", [1, 2])
def test_one_that_is_started_again_at_its_address(
    tmp_path, trained, at_requests, n_workers
):
    """The only one goes on with the same bits; one of two joins again."""

    def look(epoch: int) -> None:
        if len(trained) > 2 and len(trained[-1]) == 2:
            raise EnoughError

    with scheduler(tmp_path) as client, workers_of(client) as workers:
        for n in range(n_workers):
            port = ["--worker-port", str(free_port())]
            workers.start(n + 1, "", *port, nanny=True)
        expected = model(n_workers).fit(*arrays())
        members = addresses(client)
        process = pids(client)[members[0]]
        at_requests({2: lambda: os.kill(process, signal.SIGKILL)})
        if n_workers == 1:
            assert_same_bits(model(1).fit(*arrays()), expected)
        else:
            endless = model(2, max_iter=10**6).set_callbacks(testing.AfterEpoch(look))
            with pytest.raises(EnoughError):
                endless.fit(*arrays())
            assert trained[2] == (members[1],)
        assert trained[-1] == tuple(members)
        assert pids(client)[members[0]] != process
        until(lambda: not left_behind(client), "a clean cluster")


# ---- Environments ------------------------------------------------------------------


@pytest.fixture(scope="module")
def others(tmp_path_factory) -> dict[str, str]:
    """Paths for Python of processes that lack skmlp, or have another version."""
    folder = tmp_path_factory.mktemp("environments")
    starts = {"lacks": WITHOUT_SKMLP, "differs": OTHER_SKMLP}
    return {name: environment(start, folder / name) for name, start in starts.items()}


SAYS = {
    "lacks": "can't run skmlp: No module named 'skmlp",
    "differs": r"has skmlp 0\.0\.9, this process has",
}


@pytest.mark.parametrize("kind", ["lacks", "differs"])
def test_one_in_another_environment(tmp_path, others, trained, kind):
    """It comes to an address that had skmlp: in a rolling upgrade, say."""
    port = ["--worker-port", str(free_port())]
    with scheduler(tmp_path) as client, workers_of(client) as workers:
        workers.start(1, "", *port)
        model().fit(*arrays())
        (address,) = addresses(client)
        workers.kill(address)
        until(lambda: not addresses(client), "the news of its death")
        workers.start(1, others[kind], *port)
        with pytest.raises(
            testing.RankFailed, match=rf"can take part.*{address} {SAYS[kind]}"
        ):
            model().fit(*arrays())
        workers.start(2)
        with pytest.warns(UserWarning, match=rf"leaves out.*{address} {SAYS[kind]}"):
            model().fit(*arrays())
        with (
            pytest.warns(UserWarning, match=rf"leaves out.*{address} {SAYS[kind]}"),
            joblib.parallel_config("dask", client=client),
        ):
            model(-1).fit(*FIT.data()[:2])
        assert len(addresses(client)) == 2
        assert address not in {worker for gang in trained[1:] for worker in gang}


# ---- Demands and rows --------------------------------------------------------------


@pytest.fixture(scope="module")
def crowd(tmp_path_factory, others):
    """Two workers with a resource, one without; the scheduler lacks skmlp."""
    folder = tmp_path_factory.mktemp("crowd")
    with scheduler(folder, others["lacks"]) as client, workers_of(client) as workers:
        for n, options in enumerate([["--resources", "GPU=1"]] * 2 + [[]]):
            workers.start(n + 1, "", *options, "--name", f"worker-{n}")
        yield client


@pytest.fixture
def members(crowd) -> list[str]:
    """The addresses: the first two have the resource."""
    known = crowd.scheduler_info(n_workers=-1)["workers"]
    yield sorted(known, key=lambda address: known[address]["name"])
    until(lambda: not left_behind(crowd), "a clean cluster")


def persisted(client: Any, where: list[str]) -> list[Any]:
    """The rows, in equal parts on some workers."""
    return [
        da.concatenate(
            [
                client.persist(part, workers=[where[i % len(where)]])
                for i, part in enumerate(whole.blocks)
            ]
        )
        for whole in arrays()
    ]


def test_every_kind_of_rows_where_the_scheduler_lacks_skmlp(crowd, members, trained):
    X, y = arrays()
    lists = [X.to_delayed().ravel().tolist(), y.to_delayed().ravel().tolist()]
    for n, given in enumerate(
        [
            [X, y],
            lists,
            [X, y, da.ones(60, chunks=10)],
            [X.to_dask_dataframe(list("abcdefg")), y.to_dask_dataframe()],
        ]
    ):
        model().fit(*given)
        assert trained[n:] == [tuple(sorted(members))]
    with pytest.warns(match="column-vector"):
        model().fit(X, y[:, None])
    held = arrays()
    model().set_params(early_stopping=True).fit(X, y, X_val=held[0], y_val=held[1])
    with joblib.parallel_config("dask", client=crowd):
        model(-1).fit(*FIT.data()[:2])
    assert trained[-1] == tuple(sorted(members))


@pytest.mark.parametrize(
    ("annotation", "who"),
    [
        ({"resources": {"GPU": 1}}, [0, 1]),
        ({"workers": ["worker-2"]}, [2]),
        ({"workers": "worker-0", "resources": {"GPU": 1}}, [0]),
    ],
)
def test_annotations_say_who_trains(crowd, members, trained, annotation, who):
    expected = tuple(sorted(members[i] for i in who))
    with dask.annotate(**annotation):
        model().fit(*arrays())
        with joblib.parallel_config("dask", client=crowd):
            model(-1).fit(*FIT.data()[:2])
        X, y = arrays()
        lists = [X.to_delayed().ravel().tolist(), y.to_delayed().ravel().tolist()]
        X, y = X * 1.0, y * 1
    model().fit(X, y)
    assert trained == [expected] * 3
    with dask.annotate(**annotation):
        lists = [[dask.delayed(np.copy)(part) for part in one] for one in lists]
    model().fit(*lists)
    assert trained[3:] == [expected]


def test_annotations_that_nobody_meets(crowd, members):
    names = r"no Dask worker can take part.*" + ".*".join(sorted(members))
    for annotation, lack in [
        ({"resources": {"TPU": 2}}, r"does not have resources=\{'TPU': 2\}"),
        ({"workers": ["nobody"]}, r"is not one of workers=\['nobody'\]"),
    ]:
        with (
            dask.annotate(**annotation),
            pytest.raises(testing.RankFailed, match=f"{names} {lack}"),
        ):
            model().fit(*arrays())


@pytest.mark.parametrize(
    ("n_jobs", "n_ranks"), [(None, 2), (-1, 3), (1, 1), (2, 2), (3, 3)]
)
def test_n_jobs_and_rows_that_are_persisted(crowd, members, trained, n_jobs, n_ranks):
    holders = members[1:]
    X, y = persisted(crowd, holders)
    wait([X, y], timeout=HANG_S)
    model(n_jobs).fit(X, y)
    assert len(trained[0]) == n_ranks
    # All of them hold rows, or all that do are among them.
    assert {*trained[0]} <= {*holders} or {*holders} <= {*trained[0]}
    # Rows that are computed from those lie there, too.
    model(n_jobs).fit(X * 1.0, y)
    assert trained[1] == trained[0]


def test_fewer_than_were_asked_for(crowd, members, capsys):
    said = "4 Dask workers were asked for, and 3 can take part now"
    with pytest.warns(UserWarning, match=said):
        found = model(4, verbose=True).fit(*arrays())
    assert said in capsys.readouterr().out
    assert found.n_shards_ == 4


# ---- Adaptive clusters -------------------------------------------------------------


@pytest.mark.parametrize("minimum", [0, 1])
def test_an_adaptive_cluster_grows_before_workers_are_chosen(
    tmp_path, trained, minimum
):
    """Parts take until it has grown to load, and are there at once from then on."""
    grown = tmp_path / "grown"

    def when_grown(block: Any) -> Any:
        until(grown.exists, "the cluster to grow")
        return block

    with cluster(minimum) as client:
        pace = {"interval": "500ms", "target_duration": "500ms"}
        client.cluster.adapt(minimum=minimum, maximum=2, **pace)

        def look() -> None:
            until(lambda: len(addresses(client)) == 2, "a second worker")
            grown.touch()

        thread = threading.Thread(target=look)
        thread.start()
        X, y = arrays()
        X = X.map_blocks(when_grown, dtype=X.dtype, meta=X._meta)
        found = model(max_iter=2).fit(X, y)
        thread.join()
        assert len(trained[0]) == 2
        assert found.n_shards_ == 2


def test_workers_that_come_later_are_taken_in(tmp_path, trained, at_requests):
    def look(epoch: int) -> None:
        if len(trained[-1]) == 3:
            raise EnoughError

    with scheduler(tmp_path) as client, workers_of(client) as workers:
        workers.start(1)
        at_requests({2: lambda: workers.start(3)})
        growing = model(3, max_iter=10**6).set_callbacks(testing.AfterEpoch(look))
        with (
            pytest.warns(UserWarning, match="3 Dask workers were asked for, and 1"),
            pytest.raises(EnoughError),
        ):
            growing.fit(*arrays())
        assert len(trained[0]) == 1
        assert set(trained[-1]) == set(addresses(client))


# ---- Locks -------------------------------------------------------------------------


@testing.settings(locks_told_s=0.5)
def test_a_wait_for_locks_is_told(crowd, members, caplog):
    began, go_on = threading.Event(), threading.Event()

    @contextlib.contextmanager
    def held_up(request: testing.Request) -> Iterator[None]:
        began.set()
        assert go_on.wait(HANG_S)
        yield

    fits = [threading.Thread(target=model().fit, args=arrays()) for _ in range(2)]
    lock = MultiLock(names=members[:1], client=crowd)
    with (
        caplog.at_level(logging.WARNING, "skmlp"),
        testing.around_requests(held_up),
    ):
        try:
            fits[0].start()
            assert began.wait(HANG_S)
            fits[1].start()
            said = rf"fit .* waits for .*{members[0]}.*is held by fit .* of Client-"
            until(lambda: told(caplog, said), "word of who holds the locks")
        finally:
            go_on.set()
            for fit in fits:
                fit.join(HANG_S)
        caplog.clear()
        assert lock.acquire(timeout=HANG_S)
        try:
            # Not for those of the others, which it has asked for first.
            said = rf"the locks of {members[0]}: {members[0]} \(lock id '{lock.id}'\)"
            said += " is held by something else than skmlp, "
            with (
                dask.config.set({"skmlp.lock-timeout": "2s"}),
                pytest.raises(
                    testing.RankFailed, match=rf"{said}.*2 s.*multi_lock_release"
                ),
            ):
                model().fit(*arrays())
            assert told(caplog, said)
        finally:
            lock.release()
    model().fit(*arrays())


def told(caplog: Any, pattern: str) -> bool:
    return any(re.search(pattern, record.getMessage()) for record in caplog.records)
