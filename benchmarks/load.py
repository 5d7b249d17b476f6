"""Loads on a Dask cluster: large, many, uneven. ``python benchmarks/load.py --help``

Each case ends with a sentence of what was seen; a hang, a leak, an unequal model, or a
worker that was paused or lost is an error. With ``--quick`` all of them are small.
"""

from __future__ import annotations

if __name__ == "__main__" and not __package__:
    from _as_module import start_again

    start_again(__file__)

import argparse
import contextlib
import gc
import os
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import dask
import dask.array as da
import numpy as np
import psutil
from dask.utils import key_split
from distributed import Client, LocalCluster
from sklearn.exceptions import ConvergenceWarning

import skmlp
from benchmarks.resident import Peak
from skmlp.dask.ingest.load_rows import load_rows

#: Seconds for all that a fit has to leave the cluster.
TIDY = 20.0


@contextlib.contextmanager
def cluster(n_workers, **kwargs):
    """A client of a fresh cluster of one-thread workers; none of them may get lost."""
    with (
        LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            dashboard_address=":0",
            **kwargs,
        ) as local,
        Client(local) as client,
    ):
        before = client.run(os.getpid)
        yield client
        until_tidy(client)
        assert client.run(os.getpid) == before, "a worker was lost"
        events = [e for worker in before for _, e in client.get_events(worker)]
        told = {
            e.get("status") for e in events if e["action"] == "worker-status-change"
        }
        assert told <= {"init", "running"}, f"workers were {sorted(told)}"


def until_tidy(client):
    """Wait until nothing of a fit is left on the cluster."""

    def on_scheduler(dask_scheduler):
        locks = dask_scheduler.extensions["multi_locks"].locks
        return [k for k in map(str, dask_scheduler.tasks) if "skmlp" in k] + [
            name for name, users in locks.items() if users
        ]

    def on_worker(dask_worker):
        names = [t.name for t in threading.enumerate() if t.name.startswith("skmlp")]
        return names + [k for k in dask_worker.plugins if k == "skmlp"]

    end = time.monotonic() + TIDY
    while True:
        left = client.run_on_scheduler(on_scheduler)
        left += [one for found in client.run(on_worker).values() for one in found]
        if not left:
            return
        assert time.monotonic() < end, f"after {TIDY:g} s there still are {left}"
        time.sleep(0.05)


def made(n_rows, n_features, chunks, dtype=np.float32):
    """Rows that the workers make for themselves, and labels."""
    X = da.random.RandomState(0).uniform(-1, 1, (n_rows, n_features), (chunks, -1))
    X = X.astype(dtype)
    return X, (X[:, 0] * X[:, 1] > 0).astype(np.int8)


def model(**params):
    defaults = {"hidden_layer_sizes": 8, "max_iter": 2, "random_state": 0}
    return skmlp.MLPClassifier(**(defaults | params))


def growth(client, work):
    """What all workers together took beyond the beginning, at the peak, in bytes."""

    def begin(dask_worker):
        gc.collect()
        dask_worker.load_peak = Peak()
        dask_worker.load_peak.__enter__()

    def end(dask_worker):
        peak = dask_worker.__dict__.pop("load_peak")
        peak.__exit__()
        return peak.grown

    client.run(begin)
    work()
    return sum(client.run(end).values())


def growth_together(client, work):
    """As `growth`, of what all have at one moment: where memory moves between them."""
    workers = [psutil.Process(pid) for pid in client.run(os.getpid).values()]
    client.run(gc.collect)

    def total():
        return sum(worker.memory_info().rss for worker in workers)

    def look():
        while not over.wait(0.005):
            seen.append(total())

    over, before = threading.Event(), total()
    seen = [before]
    thread = threading.Thread(target=look)
    thread.start()
    try:
        work()
    finally:
        over.set()
        thread.join()
    return max(seen) - before


def assert_equal(one, other):
    """Of float64: rounding adds up to far less over some thousand steps."""
    for a, b in zip(one.coefs_, other.coefs_, strict=True):
        assert a.dtype == b.dtype == np.float64
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(one.loss_curve_, other.loss_curve_, rtol=1e-9)


# ---- The cases -----------------------------------------------------------------------


def rows(quick):
    """Ten million rows of 50 float32 on four workers of 1 GB."""
    n_rows, n_workers, limit = (400_000, 2, "2GB") if quick else (10_000_000, 4, "1GB")
    batch = n_rows // 100
    with cluster(n_workers, memory_limit=limit) as client:
        model(batch_size=1000, max_iter=1).fit(*made(20_000, 50, 5_000))  # warm
        data = made(n_rows, 50, n_rows // 100)
        size = 4 * 50 * n_rows
        start = time.perf_counter()
        grown = growth(client, lambda: model(batch_size=batch).fit(*data))
        seconds = time.perf_counter() - start
    return (
        f"{n_rows} rows, {size / 1e6:.0f} MB: the workers grew by {grown / size:.2f} "
        f"times that at the peak; {seconds:.1f} s for two epochs"
    )


def partitions(quick):
    """5,000 partitions."""
    n_parts = 200 if quick else 5_000
    with cluster(2):
        data = made(n_parts * 20, 5, 20, np.float64)
        start = time.perf_counter()
        many = model().fit(*data)
        seconds = time.perf_counter() - start
        few = model().fit(*(a.rechunk({0: n_parts * 10}) for a in data))
        assert_equal(many, few)
    return f"{n_parts} partitions: {seconds:.1f} s for a fit"


def uneven(quick):
    """Lazy partitions of unknown sizes: a quarter of them has nearly all rows."""
    n_rows, n_workers = (100_000, 2) if quick else (4_000_000, 4)
    numbers = da.arange(4 * n_rows, chunks=n_rows // 100)
    kept = (numbers < 0.94 * n_rows) | (numbers % 51 == 0)
    with cluster(n_workers) as client:
        X, y = (a[kept] for a in made(4 * n_rows, 50, n_rows // 100))
        model(batch_size=1000, max_iter=1).fit(*made(20_000, 50, 5_000))  # warm
        shares = []

        def bring():
            with load_rows(client, X, y, labels=True) as data:
                shares[:] = [sum(s.rows for s in own) for own in data.sources[0].spans]

        start = time.perf_counter()
        grown = growth_together(client, bring)
        seconds = time.perf_counter() - start
    size = 4 * 50 * sum(shares)
    assert max(shares) - min(shares) <= 1, shares
    told = ", ".join(f"{n / sum(shares):.0%}" for n in shares)
    return (
        f"{size / 1e6:.0f} MB: {told} of the rows on workers after {seconds:.1f} s; "
        f"all of them grew by {grown / size:.2f} times the data at the peak"
    )


def one_row(quick):
    """One row on two workers."""
    X, y = np.ones((1, 3)), np.zeros(1, int)
    with cluster(2):
        there = model().fit(da.from_array(X), da.from_array(y))
        assert there.n_shards_ == 2
        assert_equal(there, model().fit(X, y))
    return "one row on two workers: the model of one process"


def one_worker(quick):
    """All data on one worker of three."""
    n_rows = 30_000 if quick else 1_000_000
    with cluster(3) as client:
        first = min(client.scheduler_info(n_workers=-1)["workers"])
        data = client.persist(
            made(n_rows, 10, n_rows // 30, np.float64), workers=[first]
        )
        da.compute(*(a.sum() for a in data))
        start = time.perf_counter()
        one = model(batch_size=1000).fit(*data)
        seconds = time.perf_counter() - start
        assert_equal(one, model(batch_size=1000).fit(*da.compute(*data)))
    return f"{n_rows} rows on one worker of three: {seconds:.1f} s for a fit"


def at_once(quick):
    """A hundred fits, five at a time."""
    n_fits = 10 if quick else 100
    with cluster(2) as client:
        data = client.persist(made(2_000, 5, 250, np.float64))

        def fit(seed):
            return model(random_state=seed % 5).fit(*data)

        alone = [fit(seed) for seed in range(5)]
        start = time.perf_counter()
        with ThreadPoolExecutor(5) as pool:
            fits = list(pool.map(fit, range(n_fits)))
        seconds = time.perf_counter() - start
        for seed, one in enumerate(fits):
            assert_equal(one, alone[seed % 5])
    return f"{n_fits} fits, five at a time: {seconds:.1f} s"


def in_process(quick):
    """A thousand fits in this process, without a cluster."""
    n_fits, warm = (60, 30) if quick else (1000, 100)
    X, y = np.random.default_rng(0).normal(size=(200, 5)), np.arange(200) % 2

    def fits(count):
        for _ in range(count):
            model(max_iter=1).fit(X, y)
        gc.collect()
        return psutil.Process().memory_info().rss

    before = fits(warm)
    grown = fits(n_fits - warm) / before - 1
    assert grown < 0.01, grown
    return f"{n_fits} fits in this process: memory grew by {grown:.2%}"


def in_a_row(quick):
    """A thousand fits of one client on a cluster."""
    n_fits, warm = (30, 15) if quick else (1000, 100)
    # Dask's own logs are short here, and full before the count begins.
    logs = {
        "distributed.admin.log-length": 20,
        "distributed.admin.low-level-log-length": 20,
        "distributed.admin.system-monitor.log-length": 20,
        "distributed.worker.profile.enabled": False,
    }
    with dask.config.set(logs), cluster(2) as client:
        data = client.persist(made(1_000, 5, 250))
        if not quick:
            # So is its cache of the names of keys: with us, one a partition, and a few.
            for known in (fill_key_cache, partial(client.run, fill_key_cache)):
                known()

        def fits(count):
            for _ in range(count):
                model(max_iter=1).fit(*data)
            until_tidy(client)

        def submits(count):
            for _ in range(4 * count):
                client.submit(int, pure=False).result()

        fits(warm)
        before = everything(client)
        start = time.perf_counter()
        fits(n_fits - warm)
        seconds = time.perf_counter() - start
        after = everything(client)
        submits(warm)
        idle = everything(client)
        submits(n_fits - warm)
        plain = everything(client)["client"]["memory"] - idle["client"]["memory"]
    grown = []
    for who, counts in before.items():
        assert after[who]["threads"] <= counts["threads"] + 1, (who, counts, after[who])
        assert after[who]["files"] <= counts["files"] + 3, (who, counts, after[who])
        assert after[who]["tasks"] == counts["tasks"], (who, counts, after[who])
        more = after[who]["memory"] - counts["memory"]
        share = more / counts["memory"]
        grown.append(f"{share:.2%} ({more / (n_fits - warm) / 1e3:.1f} kB a fit)")
        # The workers keep nothing. The scheduler, which lives in this process, has a
        # record of each group of tasks that was ever submitted, ours or another's.
        assert quick or (more < plain if who == "client" else share < 0.01), grown
    return (
        f"{n_fits} fits of one client: {seconds:.1f} s for the last {n_fits - warm}; "
        f"memory of client and workers grew by {', '.join(grown)}; four tasks that do "
        f"nothing instead of each fit: {plain / (n_fits - warm) / 1e3:.1f} kB"
    )


def fill_key_cache():
    """Have Dask remember as many names of keys as it ever will, long ones as ours."""
    for i in range(key_split.cache_info().maxsize):
        key_split(f"load-{'0' * 40}-{i:08x}-0")


def everything(client):
    """Threads, open files, tasks and memory of this process and of the workers."""

    def count(dask_worker=None):
        gc.collect()
        process = psutil.Process()
        return {
            "threads": process.num_threads(),
            "files": process.num_fds() if hasattr(process, "num_fds") else 0,
            "children": len(process.children(recursive=True)),
            "tasks": 0 if dask_worker is None else len(dask_worker.state.tasks),
            "memory": process.memory_info().rss,
        }

    return {"client": count(), **client.run(count)}


CASES = {
    "rows": rows,
    "partitions": partitions,
    "uneven": uneven,
    "one_row": one_row,
    "one_worker": one_worker,
    "at_once": at_once,
    "in_process": in_process,
    "in_a_row": in_a_row,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", default=",".join(CASES), help="some of the cases")
    parser.add_argument("--quick", action="store_true", help="moments, not minutes")
    given = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)  # two epochs are meant
    for name in given.cases.split(","):
        case = partial(CASES[name], given.quick)
        print(f"{name}: {case()}", flush=True)


if __name__ == "__main__":
    main()
