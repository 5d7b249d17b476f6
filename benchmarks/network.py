"""Training between hosts, over networks of several rates and latencies. Needs root.

The hosts are network namespaces of this machine (`benchmarks.hosts`). Host 1 has a
``dask scheduler`` and the client, each other one a ``dask worker`` of one thread, from
the command line. All share this machine's cores: with more workers than cores, an epoch
takes longer because of that, too.
"""

from __future__ import annotations

if __name__ == "__main__" and not __package__:
    from _as_module import start_again

    start_again(__file__)

import contextlib
import dataclasses
import hashlib
import itertools
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

import skmlp
from benchmarks import cases
from benchmarks.cases import Shape
from benchmarks.child import Child, Contestant
from benchmarks.common import Report, add_dtypes, figure, installed, parsed, parser
from benchmarks.contestants import median_epoch
from benchmarks.hosts import DEVICE, Hosts, address
from skmlp.estimators.advice.timing_report import shares
from skmlp.state import Record

SHAPES = "784-100-10 b200,784-256-256-10 b1024,512-1024-1024-10 b1024"
#: Where ranks listen, so that their bytes can be told from Dask's.
PORTS = (40000, 40100)
SCHEDULER_PORT = 8786
#: Bytes before each message of ranks.
HEADER_BYTES = 16
#: Of the two fits whose bytes are compared.
COUNTED_EPOCHS = (2, 12)
#: Seconds for all workers to be there.
START_LIMIT = 120.0
#: Seconds that an undisturbed fit takes at least, where others are disturbed.
LONG_FIT = 8.0


# ---- On host 1 ---------------------------------------------------------------------


def rows(shape: Shape, dtype: str, part: int, n_parts: int) -> tuple[Any, Any]:
    """One of several parts of the rows, made where it is needed."""
    X, y = cases.data(shape, dtype)
    own = slice(part * len(X) // n_parts, (part + 1) * len(X) // n_parts)
    return X[own], y[own]


class Trainer(Contestant):
    """The client."""

    def __init__(self, n_workers: int) -> None:
        from distributed import Client

        scheduler = f"tcp://{address(1)}:{SCHEDULER_PORT}"
        self._client = Client(scheduler, timeout=START_LIMIT)
        self._n_workers = n_workers
        self._client.wait_for_workers(n_workers, timeout=START_LIMIT)

    def lay(self, shape: dict[str, Any], dtype: str) -> None:
        """Have the rows on the workers; train once, so that all is loaded."""
        import dask
        import dask.array as da
        from distributed import wait

        self._shape = Shape(**shape)
        n = self._n_workers
        X, y = [], []
        for k in range(n):
            own = dask.delayed(rows, nout=2)(self._shape, dtype, k, n)
            size = (k + 1) * self._shape.rows // n - k * self._shape.rows // n
            X.append(da.from_delayed(own[0], (size, self._shape.units[0]), dtype=dtype))
            kind = dtype if self._shape.task == "values" else "int64"
            y.append(da.from_delayed(own[1], (size,), dtype=kind))
        self._data = self._client.persist([da.concatenate(X), da.concatenate(y)])
        wait(self._data, timeout=START_LIMIT)
        self.fit(1)

    def fit(self, epochs: int, solver: str = "adam") -> dict[str, Any]:
        """Train; tell times and what the weights are."""
        model = cases.estimator(
            skmlp, self._shape, epochs, solver=solver, momentum=0.9 * (solver == "adam")
        )
        began = time.perf_counter()
        model.fit(*self._data)
        seconds = time.perf_counter() - began
        history = model.history_
        records = [
            Record(0, 0, 0, 0, 0, epoch["seconds"], tuple(epoch["computing"]))
            for epoch in history[1:] or history
        ]
        told = dict(
            zip(("computing", "waiting", "communicating"), shares(records), strict=True)
        )
        weights = b"".join(a.tobytes() for a in (*model.coefs_, *model.intercepts_))
        return told | {
            "fit": seconds,
            "epoch": median_epoch(model) if epochs > 2 else history[-1]["seconds"],
            "epochs": epochs,
            "outside": seconds - sum(epoch["seconds"] for epoch in history),
            "rank_seconds": [list(record.computing) for record in records],
            "restarts": [restart["reason"] for restart in model.restarts_],
            "bits": hashlib.sha256(weights).hexdigest()[:16],
            "shards": model.n_shards_,
            "bytes": len(weights),
        }

    def close(self) -> None:
        """Leave the cluster."""
        self._client.close()


# ---- The hosts ---------------------------------------------------------------------


class Site:
    """A cluster on hosts of its own, with its client."""

    def __init__(self, hosts: Hosts, folder: str) -> None:
        self.hosts, self._folder = hosts, Path(folder)
        self.workers = list(hosts.numbers)[1:]
        hosts.tell(ports=PORTS)
        self._log = (self._folder / "log").open("wb")
        self._dask(
            *(1, "scheduler", "--host", address(1), "--port", str(SCHEDULER_PORT)),
            "--no-dashboard",
        )
        self.processes = {k: self._worker(k) for k in self.workers}
        self.client = Child(
            *("benchmarks.network:Trainer", len(self.workers)),
            blas_threads=1,
            before=hosts.on(1),
        )

    def _worker(self, number: int) -> Any:
        return self._dask(
            *(number, "worker", f"tcp://{address(1)}:{SCHEDULER_PORT}"),
            *("--host", address(number), "--nthreads", "1", "--no-dashboard"),
            *("--local-directory", str(self._folder / str(number))),
        )

    def _dask(self, number: int, *words: str) -> Any:
        ports = f"{PORTS[0]}-{PORTS[1]}"
        return self.hosts.start(
            number,
            [sys.executable, "-m", "dask", *words],
            {"DASK_SKMLP__PORTS": ports},
            self._log,
        )

    def log(self) -> str:
        """What scheduler and workers have printed."""
        return (self._folder / "log").read_text(encoding="utf-8", errors="replace")

    def set(self, mbit: float, latency: float) -> None:
        """Change the links of all hosts."""
        for number in self.hosts.numbers:
            self.hosts.set(number, mbit=mbit, latency=latency, cut=False)

    def sent(self) -> int:
        """Bytes between ranks since the last call."""
        return sum(self.hosts.counted()["counted"].values())


@contextlib.contextmanager
def site(n_workers: int) -> Iterator[Site]:
    """A cluster of so many workers, each on a host of its own."""
    with TemporaryDirectory() as folder, Hosts(n_workers + 1) as hosts:
        made = Site(hosts, folder)
        try:
            with made.client:
                yield made
        except BaseException:
            print(made.log()[-5000:], file=sys.stderr)
            raise


def bytes_of_step(size: int, n: int) -> int:
    """Bytes of a step between n ranks, for weights of `size` bytes: the formula."""
    return 2 * size * (n - 1) + 2 * HEADER_BYTES * n * (n - 1)


def bytes_of_epoch(size: int, n: int, steps: int) -> int:
    """Those of an epoch, which ends with the sum of a small table of float64."""
    columns = 5 + n
    return steps * bytes_of_step(size, n) + n * (n - 1) * (HEADER_BYTES + 8 * columns)


# ---- Networks ----------------------------------------------------------------------


class Gloo:
    """torch's DistributedDataParallel over gloo, a rank on each worker's host."""

    def __init__(self, hosts: Hosts, numbers: Sequence[int], folder: str) -> None:
        self.ranks = [
            Child(
                "benchmarks.with_torch:TorchRank",
                *(rank, len(numbers), f"{folder}/meeting"),
                blas_threads=1,
                before=hosts.on(number),
                environment={"GLOO_SOCKET_IFNAME": f"{DEVICE}{number}"},
            )
            for rank, number in enumerate(numbers)
        ]

    def call(self, method: str, *arguments: Any) -> dict[str, Any]:
        """Have all ranks do it at once; the slowest one's answer."""
        for rank in self.ranks:
            rank.send(method, *arguments)
        told = [rank.receive(method) for rank in self.ranks]
        return max(told, key=lambda one: one["epoch"] if one else 0.0)


def measure(
    one: Site, gloo: Gloo | None, shape: Shape, dtype: str, options: Any
) -> Iterator[dict[str, Any]]:
    """All networks, with one shape."""
    one.set(10_000, 0)
    arguments = (dataclasses.asdict(shape), dtype)
    one.client.call("lay", *arguments)
    if gloo:
        gloo.call("prepare", *arguments)
    n, steps = len(one.workers), shape.rows // shape.batch
    # What a longer fit sends more are steps, tables, and moments of a round or two.
    one.sent()
    sent = []
    for epochs in COUNTED_EPOCHS:
        told = one.client.call("fit", epochs, "sgd")
        sent.append(one.sent())
    counted = (sent[1] - sent[0]) / (COUNTED_EPOCHS[1] - COUNTED_EPOCHS[0])
    expected = bytes_of_epoch(told["bytes"], n, steps)
    bits = set()
    for mbit, latency in options.networks:
        one.set(mbit, latency)
        found: dict[str, Any] = {"gang": [], "gloo": []}
        one.sent()
        for _ in range(options.repeats):
            found["gang"].append(one.client.call("fit", shape.epochs + 2))
            found["gang"][-1]["dropped"] = one.hosts.counted()["dropped"]
            if gloo:
                found["gloo"].append(gloo.call("run", shape.epochs))
        bits |= {run["bits"] for run in found["gang"]}
        yield {
            "shape": shape,
            "dtype": dtype,
            "workers": n,
            "mbit": mbit,
            "latency": latency,
            "steps": steps,
            "size": told["bytes"],
            "bytes": counted,
            "formula": expected,
            **found,
        }
    assert len(bits) == 1, f"the bits depend on the network: {bits}"


def networks(report: Report, options: Any) -> None:
    """Times of an epoch over all networks."""
    table = []
    for n in options.workers:
        with site(n) as one, contextlib.ExitStack() as stack:
            folder = stack.enter_context(TemporaryDirectory())
            gloo = Gloo(one.hosts, one.workers, folder) if options.torch else None
            for rank in gloo.ranks if gloo else ():
                stack.enter_context(rank)
            for shape, dtype in itertools.product(options.chosen, options.dtypes):
                for found in measure(one, gloo, shape, dtype, options):
                    report.keep(**found | {"shape": dataclasses.asdict(shape)})
                    table.append(line(found))
                    print("|", *table[-1], file=sys.stderr, flush=True)
    report.say(
        "ms per step (the median epoch's); % of the ranks' time; bytes of an epoch "
        "between all ranks, as counted on the network and by the formula; time of "
        "torch's DistributedDataParallel over gloo, divided by skmlp's."
    )
    report.table(
        [
            *("ms per step", "dtype", "workers", "Mbit/s", "ms one way", "skmlp"),
            *("computing", "waiting", "communicating"),
            *("bytes", "counted / formula"),
            *(["gloo", "gloo / skmlp"] if options.torch else []),
        ],
        table,
    )


def line(found: dict[str, Any]) -> list[str]:
    """A row of the table."""
    runs = sorted(found["gang"], key=lambda run: run["epoch"])
    run = runs[len(runs) // 2]
    cells = [
        str(found["shape"]),
        found["dtype"],
        str(found["workers"]),
        f"{found['mbit']:g}",
        f"{found['latency']:g}",
        figure(1e3 * run["epoch"] / found["steps"]),
        *(figure(100 * run[w], 2) for w in ("computing", "waiting", "communicating")),
        f"{found['bytes']:.0f}",
        figure(found["bytes"] / found["formula"], 5),
    ]
    if found["gloo"]:
        others = sorted(other["epoch"] for other in found["gloo"])
        epoch = others[len(others) // 2]
        cells += [
            figure(1e3 * epoch / found["steps"]),
            figure(epoch / run["epoch"]),
        ]
    return cells


# ---- Faults ------------------------------------------------------------------------


@contextlib.contextmanager
def half_speed(process: Any) -> Iterator[None]:
    """Stop a process and its children every other moment."""
    over = threading.Event()
    root = psutil.Process(process.pid)
    all_of_it = [root, *root.children(recursive=True)]

    def stop_and_go() -> None:
        while not over.is_set():
            for number in (signal.SIGSTOP, signal.SIGCONT):
                for one in all_of_it:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        one.send_signal(number)
                time.sleep(0.02)

    thread = threading.Thread(target=stop_and_go)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def faults(report: Report, options: Any) -> None:
    """What fits come to whose last host is disturbed."""
    shape, dtype = options.chosen[0], options.dtypes[0]
    (mbit, latency), table = options.networks[0], []
    with site(options.workers[0]) as one:
        one.set(mbit, latency)
        one.client.call("lay", dataclasses.asdict(shape), dtype)
        told = one.client.call("fit", 3)
        epochs = 3 + int((0.5 if options.quick else LONG_FIT) / told["epoch"])
        calm = one.client.call("fit", epochs)
        last = one.workers[-1]

        def cut(seconds: float) -> None:
            one.hosts.set(last, cut=True)
            time.sleep(seconds)
            one.hosts.set(last, cut=False)

        def tenth() -> None:
            one.hosts.set(last, mbit=mbit / 10)

        def slow() -> None:
            stack.enter_context(half_speed(one.processes[last]))

        happenings: dict[str, tuple[Callable[[], None], float]] = {
            # What is done, and seconds that the fit may take longer by it.
            "nothing": (lambda: None, 10),
            "a tenth of the bandwidth": (tenth, 10 * calm["fit"] + 10),
            "half the speed": (slow, 3 * calm["fit"] + 10),
            "cut off for 1 s": (lambda: cut(1), 1 + 10),
            "cut off for 10 s": (lambda: cut(10), 10 + 10),
            "cut off for 90 s": (lambda: cut(90), 30 + 10),
        }
        if options.quick:
            for name in [name for name in happenings if name.endswith("0 s")]:
                del happenings[name]
        for name, (happen, more) in happenings.items():
            with contextlib.ExitStack() as stack:
                one.set(mbit, latency)
                one.sent()
                began = time.monotonic()
                one.client.send("fit", epochs)
                # All have met, and train.
                while sum(one.hosts.tell()["counted"].values()) < 9 * told["bytes"]:
                    assert time.monotonic() < began + START_LIMIT, "no rank trains"
                    time.sleep(0.02)
                happening = threading.Thread(target=happen)
                happening.start()
                found = one.client.receive("fit")
                happening.join()
            report.keep(fault=name, calm=calm, limit=calm["fit"] + more, **found)
            later = found["fit"] - calm["fit"]
            table.append(
                [
                    name,
                    figure(calm["fit"]),
                    figure(found["fit"]),
                    str(len(found["restarts"])),
                    "the same" if found["bits"] == calm["bits"] else "others",
                    "yes" if later < more else "no",
                    figure(later),
                ]
            )
            print("|", *table[-1], found["restarts"], file=sys.stderr, flush=True)
    report.say(
        f"{shape}, {dtype}, {mbit:g} Mbit/s, {latency:g} ms, {epochs} epochs on "
        f"{options.workers[0]} workers, the last one of which is disturbed; seconds."
    )
    report.table(
        [
            *("the last host is", "undisturbed", "disturbed", "restarts", "bits"),
            *("in time", "later"),
        ],
        table,
    )


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__)
    add_dtypes(arguments)
    add = arguments.add_argument
    add("--workers", default="2,4", help="how many, a host for each")
    add("--mbit", default="1000,100", help="rates of the links, megabits a second")
    add("--latency", default="0.1,1,10", help="from host to host, one way, ms")
    add("--shapes", default=SHAPES, help="parts of their names")
    add("--faults", action="store_true", help="disturb a host; first of each option")
    add("--torch", action="store_true", help="torch over gloo beside it")
    options = parsed(arguments)
    options.workers = [int(n) for n in options.workers.split(",")]
    rates, latencies = (
        [float(x) for x in text.split(",")] for text in (options.mbit, options.latency)
    )
    options.networks = list(itertools.product(rates, latencies))
    options.chosen = cases.chosen(options.shapes, options.quick)
    if options.torch and not installed("torch"):
        raise SystemExit("torch is not installed")
    # SIGTERM, too, ends what was started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Hosts(1):
        pass  # or says what it lacks
    report = Report(options, "Hosts on a network")
    (faults if options.faults else networks)(report, options)
    report.end()


if __name__ == "__main__":
    main()
