"""Rows onto the workers of a Dask cluster: `adopt` before, `AdoptedData` during a fit.

Every part is converted once, into the store of one worker; only `PartStats` come back.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from importlib import import_module
from typing import Any

import dask.array as da
import numpy as np
from distributed import Client, Future
from scipy import sparse

from skmlp.comm.base import Shards
from skmlp.data.partitions import PartStats, training_dtype
from skmlp.data.placement import Span
from skmlp.launch.base import RankFailed
from skmlp.launch.dask_blocks import DaskBlocks, check_known
from skmlp.launch.dask_client import Line, ended, results, together
from skmlp.launch.dask_crew import Crew
from skmlp.launch.dask_send import DriverRows
from skmlp.launch.dask_worker import Anchor, drop_anchor

#: Seconds to wait for the first worker of a cluster that has none.
FIRST_WORKER = 120.0
#: Seconds until each worker has found a thread for a task of moments.
FREE_THREAD = 600.0


class AdoptedData:
    """The rows of a fit on the workers, from `adopt` until `close`.

    Attributes
    ----------
    crew : Crew
        The workers.
    shards : Shards
        Which rank holds which shard.
    stats : PartStats
        Of all rows together.
    dtype : dtype
        The training dtype.
    spans : list of list of Span
        The parts of each shard.
    threads : tuple of int
        Threads of each rank's worker.
    """

    def __init__(self, line: Line, workers: Sequence[str], n_shards: int) -> None:
        self.crew = Crew(line, uuid.uuid4().hex, workers)
        n_ranks = len(workers)
        self.shards = Shards(tuple(k * n_ranks // n_shards for k in range(n_shards)))
        self.threads: tuple[int, ...] = ()
        self.stats = PartStats(0, 0)
        self.dtype = np.dtype(np.float64)
        self.spans: list[list[Span]] = []
        #: Held as long as the fit: the workers take their end for the fit's end.
        self._anchors: list[Future[Any]] = []

    # -- on the client's event loop ----------------------------------------------------

    async def anchor(self) -> None:
        """Begin the fit on the workers; they must be equal in what the bits depend on.

        Raises
        ------
        RankFailed
            A worker is gone, can't run skmlp, or has no free thread for long.
        ValueError
            The workers differ.
        """
        crew, line = self.crew, self.crew.line
        # A worker without skmlp would not fail at our tasks: it would end.
        probes = [
            line.submit(
                worker,
                f"skmlp-import-{crew.run}-{rank}",
                import_module,
                drop_anchor.__module__,
            )
            for rank, worker in enumerate(crew.workers)
        ]
        try:
            await self._end_of(probes)
        finally:
            for probe in probes:
                probe.release()
        for rank, worker in enumerate(crew.workers):
            key = f"skmlp-anchor-{crew.run}-{rank}"
            anchor = Anchor(crew.run, key, line.owner, crew.workers)
            self._anchors.append(line.submit(worker, key, drop_anchor, anchor))
        await self._end_of(self._anchors)
        told = await results(line.client, self._anchors)
        self.threads = tuple(worker["threads"] for worker in told)
        refuse_differences(crew.workers, [worker["facts"] for worker in told])

    async def _end_of(self, tasks: Sequence[Future[Any]]) -> None:
        """Wait for tasks of moments, one on each worker."""
        pairs = list(zip(self.crew.workers, tasks, strict=True))
        try:
            async with asyncio.timeout(FREE_THREAD):
                await self.crew.guard(ended(tasks))
        except TimeoutError:
            busy = [worker for worker, task in pairs if not task.done()]
            raise RankFailed(
                f"no thread became free within {FREE_THREAD:g} s on {', '.join(busy)}: "
                "busy with other tasks?"
            ) from None
        for worker, task in pairs:
            if task.status == "error":
                error = await task.exception(asynchronous=True)
                raise RankFailed(f"Dask worker {worker} can't run skmlp: {error!r}")

    async def hold(self, features: int, weighted: bool, labels: bool) -> None:
        """Make room on the workers for their shards' parts."""
        layout = {
            "features": features,
            "dtype": self.dtype.str,
            "weighted": weighted,
            "labels": labels,
        }

        def spans_of(rank: int) -> list[tuple[int, list[list[int]]]]:
            own = self.shards.held_by(rank)
            return [
                (shard, [list(span) for span in self.spans[shard]]) for shard in own
            ]

        calls = [
            self.crew.call(rank, "hold", shards=spans_of(rank), layout=layout)
            for rank in range(self.shards.n_ranks)
        ]

        async def call_all() -> None:
            async with together(*calls) as tasks:
                await asyncio.gather(*tasks)

        await self.crew.guard(call_all())

    # -- in the driver's thread --------------------------------------------------------

    def close(self) -> None:
        """Let go of the rows. A second call does nothing."""
        anchors, self._anchors = self._anchors, []
        if not anchors:
            return
        try:
            if self.crew.line.open:
                self.crew.line.run(self.crew.call_living("drop"))
        finally:
            for anchor in anchors:
                anchor.release()

    def __enter__(self) -> AdoptedData:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def adopt(
    client: Client,
    X: Any,
    y: Any,
    w: Any = None,
    *,
    n_shards: int | None = None,
    workers: Sequence[str] | None = None,
    labels: bool = False,
) -> AdoptedData:
    """Bring every row to one worker, converted to the training dtype.

    Parameters
    ----------
    client : distributed.Client
        Of the cluster.
    X : dask.array.Array, ndarray or sparse matrix of shape (n, n_features)
        Chunks of known size, of arrays or of scipy.sparse matrices. An array of the
        driver is cut evenly and sent.
    y : dask.array.Array or ndarray of shape (n,) or (n, n_outputs)
        Targets or labels.
    w : dask.array.Array or ndarray of shape (n,), optional
        Weights.
    n_shards : int, optional
        The number of shards, at least 1; by default that of the workers.
    workers : sequence of str, optional
        Dask addresses to choose from; by default all that are there. If there is none,
        the first one is waited for.
    labels : bool
        Whether `y` holds labels of classes.

    Returns
    -------
    AdoptedData
        To be closed.

    Raises
    ------
    ValueError
        Something is wrong with the data; the message says where.
    RankFailed
        A worker was lost, or none came.
    """
    line = Line(client)
    source = source_of(X, y, w)
    present = line.run(_present(line, workers))
    held = line.run(source.holders(line))
    addresses = _choose(present, held, n_shards)
    n_shards = len(addresses) if n_shards is None else n_shards
    data = AdoptedData(line, addresses, n_shards)
    crew = data.crew
    try:
        line.run(data.anchor())
        homes = [addresses[rank] for rank in data.shards.holders]
        data.spans = source.place(held, homes)
        data.dtype = training_dtype(source.dtype)
        line.run(data.hold(source.features, source.weighted, labels))
        data.stats = line.run(crew.guard(source.bring(crew, data.spans, homes)))
        if data.stats.problem:
            raise ValueError(data.stats.problem)
    except BaseException:
        data.close()
        raise
    return data


def source_of(X: Any, y: Any, w: Any) -> DaskBlocks | DriverRows:
    """Find out what is given; for the arguments see `adopt`.

    Raises
    ------
    ValueError
        Shapes don't fit, or are unknown; or X is no Dask array, but others are.
    """
    given = {"X": X, "y": y, "sample_weight": w}
    lazy = [name for name, value in given.items() if isinstance(value, da.Array)]
    for name in lazy:
        check_known(given[name], name)
    if lazy and "X" not in lazy:
        raise ValueError(
            f"{' and '.join(lazy)} can't be a Dask array where X is none: make all of "
            "them Dask arrays, or none"
        )
    for name in set(given) - set(lazy):
        if not sparse.issparse(given[name]) and given[name] is not None:
            given[name] = np.asarray(given[name])
    X, y, w = given.values()
    _check_shapes(X, y, w)
    if lazy:
        return DaskBlocks(X, y, w)
    return DriverRows(X.tocsr() if sparse.issparse(X) else X, y, w)


def _check_shapes(X: Any, y: Any, w: Any) -> None:
    """ValueError, in scikit-learn's words where it has some."""
    if X.ndim != 2:
        raise ValueError(f"Expected 2D array, got {X.ndim}D array instead")
    if y.ndim not in (1, 2):
        raise ValueError(f"y should be a 1d or 2d array, got {y.ndim} dimensions")
    if y.shape[0] != X.shape[0]:
        raise ValueError(
            "Found input variables with inconsistent numbers of samples: "
            f"{[X.shape[0], y.shape[0]]}"
        )
    if w is not None and w.ndim != 1:
        raise ValueError("Sample weights must be 1D array or scalar")
    if w is not None and w.shape[0] != X.shape[0]:
        raise ValueError(f"sample_weight.shape == {w.shape}, expected {(X.shape[0],)}!")
    for count, what in ((X.shape[0], "sample"), (X.shape[1], "feature")):
        if count == 0:
            raise ValueError(
                f"Found array with 0 {what}(s) (shape={X.shape}) while a minimum of 1 "
                "is required."
            )


async def _present(line: Line, asked: Sequence[str] | None) -> list[str]:
    """The workers to choose from; waits for the first one."""
    here = await line.scheduler("ncores_running")
    if not here:
        # A waiting task also makes an adaptive cluster start a worker.
        first = line.client.submit(int, key=f"skmlp-first-{uuid.uuid4()}", pure=False)
        try:
            async with asyncio.timeout(FIRST_WORKER):
                await results(line.client, [first])
        except TimeoutError:
            raise RankFailed(
                f"this Dask cluster had no worker within {FIRST_WORKER:g} s: start "
                "some, for example with cluster.scale(2)"
            ) from None
        finally:
            first.release()
        here = await line.scheduler("ncores_running")
    if asked is None:
        return sorted(here)
    missing = sorted(set(asked) - set(here))
    if missing:
        raise RankFailed(f"these Dask workers are not there: {', '.join(missing)}")
    return list(asked)


def _choose(
    present: Sequence[str],
    held: Sequence[tuple[Collection[str], int]],
    n_shards: int | None,
) -> list[str]:
    """The workers of a fit: where most rows lie, if fewer are needed than are there."""
    if n_shards is None or n_shards >= len(present):
        return list(present)
    lying: Counter[str] = Counter()
    for holders, rows in held:
        for holder in holders:
            lying[holder] += rows
    chosen = sorted(present, key=lambda address: -lying[address])[:n_shards]
    return [address for address in present if address in chosen]


def refuse_differences(
    workers: Sequence[str], facts: Sequence[Mapping[str, object]]
) -> None:
    """ValueError if some worker's bits would not be those of the first one."""
    for address, other in zip(workers, facts, strict=True):
        for name, value in facts[0].items():
            if other.get(name) != value:
                raise ValueError(
                    f"the Dask workers differ in {name}, so they would not compute the "
                    f"same bits: {workers[0]} has {value!r}, {address} has "
                    f"{other.get(name)!r}. Give all of them the same environment and "
                    "CPU type"
                )
