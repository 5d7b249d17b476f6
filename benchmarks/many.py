"""Many ranks on the cores of this machine: what starting and ending them takes.

Dask workers of one thread, far more of them than cores; three epochs of four steps, so
that the training itself takes next to nothing. Seconds of the first fit (the workers
import skmlp and load its kernels) and of later ones; memory and open files of a worker;
the same bits from fit to fit, and after a worker was killed. Beside the seconds those
of the cores in all processes, which other work on the machine changes less.
``--exchange`` has the exchange alone: ranks that are threads of this process.
"""

from __future__ import annotations

if __name__ == "__main__" and not __package__:
    from _as_module import start_again

    start_again(__file__)

import contextlib
import hashlib
import os
import signal
import statistics
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psutil

from benchmarks.common import Report, figure, parsed, parser
from skmlp.comm.base import Shards
from skmlp.comm.halving_sockets import HalvingCommunicator
from skmlp.comm.handshake import Secret
from skmlp.comm.sockets import Listener, SocketCommunicator, connect

#: Rows of each rank's part of a step.
ROWS = 8
FEATURES, UNITS, STEPS, EPOCHS = 20, (32,), 4, 3
#: Epochs of the fit that loses a worker.
LONG = 200
#: What Dask's processes do by themselves, 50 to 100 times a second: it is little of a
#: core for one, but dozens on a core have no time for anything else.
CALM = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
}


def all_in_a_row() -> None:
    """Let all ranks talk to all others, however many there are."""
    from skmlp.comm import ordered_sum

    ordered_sum.MOST_IN_A_ROW = 1 << 20


def core_seconds() -> float:
    """Of this process and all that it has started."""
    total = 0.0
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:2])
    return total


def fit(data: Any, n: int, epochs: int = EPOCHS) -> dict[str, Any]:
    """Train on all workers."""
    from sklearn.exceptions import ConvergenceWarning

    import skmlp

    model = skmlp.MLPClassifier(
        UNITS,
        batch_size=n * ROWS,
        max_iter=epochs,
        n_iter_no_change=epochs + 1,
        tol=0.0,
        random_state=0,
    )
    with warnings.catch_warnings(), skmlp.config_context(ranks="as_asked"):
        warnings.simplefilter("ignore", ConvergenceWarning)
        before, began = core_seconds(), time.perf_counter()
        model.fit(*data)
        seconds = time.perf_counter() - began
    assert model.n_shards_ == n
    weights = b"".join(a.tobytes() for a in (*model.coefs_, *model.intercepts_))
    return {
        "seconds": seconds,
        "cores": core_seconds() - before,
        "epochs": sum(epoch["seconds"] for epoch in model.history_),
        "bits": hashlib.sha256(weights).hexdigest()[:16],
        "restarts": len(model.restarts_),
    }


def files_in_fit(client: Any, data: Any, n: int) -> int:
    """The most files that a worker has open in a fit, beyond those before it."""

    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = client.run(count)
    most, over = [0], threading.Event()

    def look() -> None:
        while not over.wait(0.2):
            now = client.run(count)
            most[0] = max(most[0], *(now[w] - before[w] for w in before))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        fit(data, n, LONG)
    finally:
        over.set()
        thread.join()
    return most[0]


def lose_one(client: Any, data: Any, n: int) -> dict[str, Any]:
    """A fit in which a worker is killed."""
    pids = client.run(os.getpid)
    victim = pids[max(pids)]
    timer = threading.Timer(1.0 + 0.02 * n, os.kill, (victim, signal.SIGKILL))
    timer.start()
    try:
        return fit(data, n, LONG)
    finally:
        timer.join()


def exchange(n: int, kind: Any) -> dict[str, float]:
    """What it takes n ranks to meet, and five steps of 2,000 numbers; seconds."""
    listeners = [Listener("127.0.0.1") for _ in range(n)]
    facts = {"secret": Secret.new(), "run": bytes(16), "fingerprint": bytes(32)}
    began, cores = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(n) as pool, contextlib.ExitStack() as stack:

        def meet(rank: int) -> Any:
            addresses = [listener.address for listener in listeners]
            comm = connect(
                *(listeners[rank], rank, Shards(tuple(range(n))), addresses),
                **facts,
                generation=0,
                limit=60.0,
                kind=kind,
            )
            stack.callback(comm.close)
            return comm

        def steps(comm: Any) -> bytes:
            flat, part = np.zeros(2000), np.full(2000, 1.0 + comm.rank / 3)
            one = comm.exchange([part], flat)
            for _ in range(5):
                part[:] = 1.0 + comm.rank / 3
                one.reduce_scatter()
                flat[one.segments[0]] = one.totals[0]
                one.all_gather()
            return flat.tobytes()

        comms = list(pool.map(meet, range(n)))
        seconds, met = time.perf_counter() - began, time.process_time()
        assert len(set(pool.map(steps, comms))) == 1
        stepped = time.process_time()
    for listener in listeners:
        listener.close()
    partners = [len(kind.partners(rank, Shards(tuple(range(n))))) for rank in range(n)]
    return {
        "connections": sum(partners) / 2,
        "meeting": seconds,
        "meeting, of cores": met - cores,
        "steps, of cores": stepped - met,
    }


def exchanges(report: Report, counts: Sequence[int]) -> None:
    """The exchange alone, in a row and as a tree."""
    table = []
    for n in counts:
        for kind in (SocketCommunicator, HalvingCommunicator):
            found = exchange(n, kind)
            report.keep(n=n, kind=kind.__name__, **found)
            cells = [figure(value) for value in found.values()]
            table.append([f"{n}, {kind.__name__}", *cells])
    report.table(["ranks that are threads", *found], table)


def measure(n: int, options: Any) -> dict[str, Any]:
    """All figures of so many ranks."""
    import dask
    import dask.array as da
    from distributed import Client, LocalCluster, wait

    with (
        dask.config.set({} if options.default_dask else CALM),
        LocalCluster(
            n_workers=n, threads_per_worker=1, dashboard_address=":0", memory_limit=0
        ) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(n, timeout=300)
        if options.row:
            client.run(all_in_a_row)
        random = da.random.RandomState(0)
        X = random.normal(size=(n * ROWS * STEPS, FEATURES), chunks=(ROWS * STEPS, -1))
        data = client.persist([X, (X[:, 0] > 0).astype(int)])
        wait(data)
        found: dict[str, Any] = {"n": n, "cold": fit(data, n)}
        found["warm"] = [fit(data, n) for _ in range(options.repeats)]
        print(found, file=sys.stderr, flush=True)
        memory = client.run(lambda: psutil.Process().memory_full_info().uss)
        found["memory"] = statistics.median(memory.values())
        found["files"] = files_in_fit(client, data, n)
        found["calm"] = fit(data, n, LONG)
        without = options.row or options.quick
        found["lossy"] = found["calm"] if without else lose_one(client, data, n)
    bits = {run["bits"] for run in (found["cold"], *found["warm"])}
    assert len(bits) == 1, bits
    assert found["calm"]["bits"] == found["lossy"]["bits"], found
    return found


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("--ranks", default="16,32,64", help="how many")
    arguments.add_argument(
        "--row", action="store_true", help="all ranks talk to all others; no death"
    )
    arguments.add_argument(
        "--exchange", action="store_true", help="ranks as threads, without a cluster"
    )
    arguments.add_argument(
        "--default-dask", action="store_true", help="also Dask's profiler and ticks"
    )
    options = parsed(arguments)
    report = Report(options, "Many ranks on one machine")
    table = []
    counts = [4] if options.quick else [*map(int, options.ranks.split(","))]
    if options.exchange:
        exchanges(report, counts)
        report.end()
        return
    for n in counts:
        found = measure(n, options)
        report.keep(**found)
        warm = statistics.median(run["seconds"] for run in found["warm"])
        table.append(
            [
                str(n),
                figure(found["cold"]["seconds"]),
                figure(warm),
                figure(warm / n, 2),
                figure(statistics.median(run["cores"] for run in found["warm"]) / n, 2),
                figure(statistics.median(r["epochs"] for r in found["warm"])),
                figure(found["memory"] / 1e6),
                str(found["files"]),
                figure(found["calm"]["seconds"]),
                str(found["lossy"]["restarts"]),
                figure(found["lossy"]["seconds"]),
            ]
        )
        print("|", *table[-1], file=sys.stderr, flush=True)
    report.say(
        f"Seconds of a fit of {EPOCHS} epochs of {STEPS} steps, for each rank also "
        "those of the cores, and of all its epochs; MB of a worker's own "
        f"memory; files that a fit opens on a worker; seconds of a fit of {LONG} "
        "epochs, also where a worker is killed in it. All models of a row are equal."
    )
    report.table(
        [
            *("ranks", "first fit", "later fits", "per rank", "of cores", "epochs"),
            *("memory", "files", f"{LONG} epochs", "restarts", "with a death"),
        ],
        table,
    )
    report.end()


if __name__ == "__main__":
    main()
