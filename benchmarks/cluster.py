"""A gang on two Dask workers of one thread, on Dask arrays that lie there.

Its ceiling is what those very workers reach, in the same run, with independent fits of
a rank's size side by side, which exchange nothing. ``outside`` is what a fit on the
warm cluster takes beside its epochs: rows adopted, ranks started and ended.
"""

from __future__ import annotations

if __name__ == "__main__" and not __package__:
    from _as_module import start_again

    start_again(__file__)

import dataclasses
import itertools
import statistics
import time
import warnings
from typing import Any

from sklearn.exceptions import ConvergenceWarning

import skmlp
from benchmarks import cases
from benchmarks.cases import Shape
from benchmarks.common import (
    Report,
    add_dtypes,
    figure,
    median_of,
    parsed,
    parser,
    ratio,
)
from benchmarks.contestants import median_epoch
from benchmarks.round_trip import round_trip
from skmlp.estimators.advice.timing_report import shares
from skmlp.state import Record

#: Those of the promises, each with the least part of the ceiling.
SHAPES = "784-256-256-10 b1024,512-1024-1024-10 b1024,784-100-10 b200"

#: Data that a worker has made, by shape and dtype.
_made: dict[Any, Any] = {}


def fit_alone(shape: Shape, dtype: str, epochs: int, start: float) -> float:
    """Seconds of an epoch of a fit in the process of this task."""
    key = shape, dtype
    if key not in _made:
        _made.clear()
        _made[key] = cases.data(shape, dtype)
    X, y = _made[key]
    model = cases.estimator(skmlp, shape, epochs)
    time.sleep(max(0.0, start - time.time()))  # the clocks are those of one host
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, y)
    return median_epoch(model)


class Cluster:
    """Who trains on the workers of one cluster."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.workers = sorted(client.scheduler_info(n_workers=-1)["workers"])

    def apart(self, shape: Shape, dtype: str, epochs: int) -> dict[str, float]:
        """Independent fits, one on each worker; the slowest counts."""
        return self._alone(shape.smaller(len(self.workers)), dtype, epochs, None)

    def one(self, shape: Shape, dtype: str, epochs: int) -> dict[str, float]:
        """The whole fit in the process of one worker, while the others are idle."""
        return self._alone(shape, dtype, epochs, 1)

    def _alone(
        self, shape: Shape, dtype: str, epochs: int, n_workers: int | None
    ) -> dict[str, float]:
        def submit(start: float) -> Any:
            return [
                self._client.submit(
                    fit_alone,
                    shape,
                    dtype,
                    epochs if start else 1,
                    start,
                    workers=[worker],
                    pure=False,
                )
                for worker in self.workers[:n_workers]
            ]

        self._client.gather(submit(0.0))  # makes the data
        return {"epoch": max(self._client.gather(submit(time.time() + 0.2)))}

    def lay(self, shape: Shape, dtype: str) -> None:
        """Have the rows on the workers, evenly."""
        import dask.array as da
        from distributed import wait

        X, y = cases.data(shape, dtype)
        n_rows = -(-len(X) // len(self.workers))
        lazy = [da.from_array(X, (n_rows, -1)), da.from_array(y, n_rows)]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sending large graph")
            self._arrays = self._client.persist(lazy)
        wait(self._arrays)
        self.gang(shape, dtype, 2)

    def gang(self, shape: Shape, dtype: str, epochs: int) -> dict[str, float]:
        """A fit of all workers together, on the rows where they lie."""
        model = cases.estimator(skmlp, shape, epochs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            began = time.perf_counter()
            model.fit(*self._arrays)
        seconds = time.perf_counter() - began
        assert model.n_shards_ == len(self.workers)
        assert model.restarts_ == []
        history = model.history_
        records = [
            Record(0, 0, 0, 0, 0, epoch["seconds"], tuple(epoch["computing"]))
            for epoch in history[1:] or history
        ]
        computing, waiting, communicating = shares(records)
        return {
            "epoch": median_epoch(model),
            "outside": seconds - sum(epoch["seconds"] for epoch in history),
            "computing": computing,
            "waiting": waiting,
            "communicating": communicating,
        }


def measure(who: Cluster, shape: Shape, dtype: str, repeats: int) -> dict[str, Any]:
    """All rounds of one shape, every second one the other way about."""
    who.lay(shape, dtype)
    turns = {"one worker": who.one, "ceiling": who.apart, "gang": who.gang}
    found: dict[str, Any] = {name: [] for name in [*turns, "round trip"]}
    for number in range(repeats):
        found["round trip"].append(round_trip())
        for name in list(turns)[:: 1 if number % 2 == 0 else -1]:
            found[name].append(turns[name](shape, dtype, shape.epochs + 2))
    return found


def main() -> None:
    """Measure and print."""
    from distributed import Client, LocalCluster

    arguments = parser(__doc__)
    add_dtypes(arguments)
    arguments.add_argument("--workers", type=int, default=2, help="how many")
    arguments.add_argument("--shapes", default=SHAPES, help="parts of their names")
    asked = parsed(arguments)
    report = Report(asked, "A gang on Dask workers, an epoch in steady state")
    rows = []
    with (
        LocalCluster(
            n_workers=asked.workers, threads_per_worker=1, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        who = Cluster(client)
        for shape, dtype in itertools.product(
            cases.chosen(asked.shapes, asked.quick), asked.dtypes
        ):
            found = measure(who, shape, dtype, asked.repeats)
            report.keep(shape=dataclasses.asdict(shape), dtype=dtype, seconds=found)
            trips = found.pop("round trip")
            epochs = {k: [run["epoch"] for run in v] for k, v in found.items()}
            gang = found["gang"]
            rows.append(
                [
                    str(shape),
                    dtype,
                    *(figure(1e3 * statistics.median(e)) for e in epochs.values()),
                    *(
                        figure(100 * median_of(gang, what), 2)
                        for what in ("computing", "waiting", "communicating")
                    ),
                    figure(median_of(gang, "outside"), 2),
                    figure(1e6 * statistics.median(trips), 2),
                    figure(ratio(epochs["one worker"], epochs["gang"])),
                    figure(ratio(epochs["ceiling"], epochs["gang"])),
                ]
            )
    report.say(
        "ms per epoch; % of the ranks' time; seconds beside the epochs; microseconds "
        "from one core to the other and back; speed of the gang, divided by that of "
        "one worker alone and by the ceiling."
    )
    report.table(
        [
            *("ms per epoch", "dtype", "one worker", "ceiling", "gang"),
            *("computing", "waiting", "communicating", "outside"),
            *("round trip", "gang / one worker", "gang / ceiling"),
        ],
        rows,
    )
    report.end()


if __name__ == "__main__":
    main()
