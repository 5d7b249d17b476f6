"""What a fit on Dask is given, as rows of parts: arrays, data frames, lists of delayed.

`understand` finds out what each input is. No rows are computed for it, but for the
first part of delayed objects, of which nothing else is known; it is kept for the fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.core import flatten
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from distributed import Future

from skmlp.dask.graph import lazily
from skmlp.dask.ingest.persisted import computed, futures_in
from skmlp.dask.rpc import ClusterRPC, results
from skmlp.data.frames import (
    as_table,
    as_values,
    frame_dtype,
    is_frame,
    numpy_dtype,
)

#: What can be taken, for error messages.
TAKEN = "arrays, data frames and lists of delayed objects or futures"
#: Dask's settings to keep partitions as the user sees them. By default, optimising
#: reads several Parquet files as one partition if few of their columns are needed.
AS_SEEN = {"optimization.tune.active": False}


@dataclass(frozen=True)
class Parts:
    """One input of a fit.

    Attributes
    ----------
    name : str
        Of the argument.
    data : dask.array.Array, dask.dataframe.DataFrame, its Series, or list of Delayed
        One partition after the other; those of an array have all columns.
    meta : ndarray, pandas.DataFrame or pandas.Series
        A part without rows.
    sizes : tuple of int, or None
        The rows of each part; None if that is unknown.
    said : int
        How many partitions a frame says that it has, if Dask has merged some of them
        while it persisted it; else 0.
    """

    name: str
    data: Any
    meta: Any
    sizes: tuple[int, ...] | None
    said: int = 0

    #: Known by this attribute where this module is not imported.
    is_dask_parts = True

    @property
    def n_parts(self) -> int:
        """How many parts there are."""
        if isinstance(self.data, list):
            return len(self.data)
        if isinstance(self.data, da.Array):
            return int(self.data.numblocks[0])
        return int(self.data.npartitions)

    @property
    def names(self) -> list[Any] | None:
        """The columns that a data frame says its parts have; of a list, the first."""
        return list(self.meta.columns) if is_frame(self.meta) else None

    @property
    def ndim(self) -> int:
        """1 or 2; other numbers are for the caller to refuse."""
        return int(self.meta.ndim)

    @property
    def shape(self) -> tuple[Any, ...]:
        """Of all rows together; NaN for an unknown length."""
        n_rows = math.nan if self.sizes is None else sum(self.sizes)
        return n_rows, *self.meta.shape[1:]

    @property
    def dtype(self) -> np.dtype[Any]:
        """That all columns have in common. ValueError if some are no numbers."""
        if is_frame(self.meta):
            return frame_dtype(self.meta, self.name)
        return numpy_dtype(self.meta.dtype)

    def cut_like(self, sizes: tuple[int, ...]) -> Parts:
        """The same rows in parts of these sizes, where the own ones are known."""
        if self.sizes is None or self.sizes == sizes:
            return self
        chunks = (sizes, *((n,) for n in self.data.shape[1:]))
        return Parts(self.name, self.data.rechunk(chunks), self.meta, sizes)

    def merged_like(self, others: Sequence[Parts]) -> Parts:
        """The same rows in as many partitions as Dask has made of another frame's.

        Dask cuts a frame at the same places when it is to have so many.
        """
        like = {o.n_parts for o in others if o.said == self.n_parts and not self.said}
        if not like or isinstance(self.data, (list, da.Array)):
            return self
        data = self.data.repartition(npartitions=min(like))
        return Parts(self.name, data, self.meta, None)

    def column(self) -> Parts:
        """The only column of two dimensions, in one."""
        data, meta = self.data, one_column(self.meta)
        if isinstance(data, list):
            data = [lazily(one_column, part) for part in data]
        elif isinstance(data, da.Array):
            data = data[:, 0]
        else:
            data = data.iloc[:, 0]
        return Parts(self.name, data, meta, self.sizes, self.said)

    def delayed(self) -> list[Any]:
        """A delayed object for each part."""
        if isinstance(self.data, list):
            return self.data
        if isinstance(self.data, da.Array):
            return list(self.data.to_delayed().ravel())
        with dask.config.set(AS_SEEN):
            parts = list(self.data.to_delayed())
        if len(parts) != self.n_parts:
            parts = list(self.data.to_delayed(optimize_graph=False))
        return parts


def understand(rpc: ClusterRPC | None, *given: tuple[str, Any]) -> list[Any]:
    """Find out what inputs are, given by name and value.

    What is `Parts` already, None, or no Dask collection is returned as it is. Lists of
    delayed objects can't be understood without `rpc`. TypeError for a collection that
    can't be taken; ValueError for an array whose number of columns is unknown.
    """
    return [_understood(rpc, name, value) for name, value in given]


def _understood(rpc: ClusterRPC | None, name: str, value: Any) -> Any:
    if isinstance(value, (list, tuple)) and value:
        # A future is a delayed object whose computing has begun.
        value = [dask.delayed(v) if isinstance(v, Future) else v for v in value]
        if all(isinstance(one, Delayed) for one in value):
            return _of_delayed(rpc, name, value)
        if all(map(dask.is_dask_collection, value)):
            raise TypeError(
                f"{name} is a list of Dask's {type(value[0]).__name__}; of Dask's "
                f"collections, skmlp takes {TAKEN}: put them together, for example "
                "with dask.array.concatenate"
            )
    # Of a delayed object, everything that is asked for is there.
    one = isinstance(value, (Delayed, Future))
    if not one and not dask.is_dask_collection(value):
        return value
    if isinstance(value, da.Array):
        return _of_array(name, value)
    if not one and hasattr(value, "divisions") and value.ndim > 0:
        frame = as_persisted(value)
        said = 0 if frame is value else value.npartitions
        return Parts(name, frame, value._meta, None, said)
    what = type(value).__name__
    hint = ": a list of them, one for each part" if one else ""
    raise TypeError(
        f"{name} is a {what}; of Dask's collections, skmlp takes {TAKEN}{hint}"
    )


def as_persisted(frame: Any) -> Any:
    """A frame with the partitions that it has.

    If Dask (2026.8) reads several Parquet files as one while it persists a frame, the
    persisted frame still says that it has a partition for each file.
    """
    expr = frame.expr
    for one in frame.expr.walk():
        if type(one).__name__ != "FromGraph":
            continue
        unknown = (None,) * (len(one.operand("keys")) + 1)
        if len(unknown) != len(one.divisions):
            right = one.substitute_parameters({"divisions": unknown})
            expr = expr.substitute(one, right)
    return frame if expr is frame.expr else type(frame)(expr)


def _of_array(name: str, array: Any) -> Parts:
    columns = array.shape[1:]
    if any(math.isnan(n) for n in columns):
        raise ValueError(
            f"the number of columns of {name} is unknown: call "
            f"{name}.compute_chunk_sizes() before"
        )
    if array.ndim == 2 and array.numblocks[1] > 1:
        array = array.rechunk({1: -1})
    sizes: tuple[Any, ...] = array.chunks[0] if array.ndim else ()
    known = not any(math.isnan(size) for size in sizes)
    meta = np.empty((0,) * min(array.ndim, 1) + columns, array.dtype)
    return Parts(name, array, meta, sizes if known else None)


def _of_delayed(rpc: ClusterRPC | None, name: str, parts: list[Any]) -> Parts:
    if rpc is None:
        raise TypeError(f"{name} is a list of delayed objects: give a Dask collection")
    rpc.run(computed(rpc, [f for part in parts for f in futures_in(part.dask)]))
    # Kept on the cluster until the fit has taken it: no part is computed twice.
    first = rpc.client.persist(parts[0])
    sample = rpc.client.compute(lazily(without_rows, first))
    try:
        (meta,) = rpc.run(results(rpc.client, [sample]))
    finally:
        sample.release()
    return Parts(name, [first, *parts[1:]], meta, None)


def without_rows(part: Any) -> Any:
    """What a part is, without its rows: for `Parts.meta`."""
    if hasattr(part, "iloc"):
        return part.iloc[:0]
    table = as_table(part)
    return np.empty((0, *table.shape[1:]), table.dtype)


def one_column(part: Any) -> Any:
    """The only column of a part of two dimensions."""
    return part.iloc[:, 0] if is_frame(part) else as_values(part)[:, 0]


def paired(given: Sequence[Parts]) -> list[Parts]:
    """The inputs with the same parts: X first.

    Where the sizes of all parts are known, those of X count, and the others are cut
    like them. Otherwise the inputs are paired part by part: ValueError if their numbers
    of parts differ. Where Dask has merged the partitions of one of them while it
    persisted it, those of the others are merged alike.
    """
    known = [one.sizes for one in given if one.sizes is not None]
    same = [one.cut_like(known[0]) if known else one for one in given]
    same = [one.merged_like(same) for one in same]
    for one in same[1:]:
        if one.n_parts != same[0].n_parts:
            merged = "".join(
                f" {o.name} says {o.said}, but Dask has read several Parquet files as "
                "one while it persisted it: persist it inside dask.config.set("
                "{'optimization.tune.active': False})."
                for o in (same[0], one)
                if o.said
            )
            raise ValueError(
                f"{same[0].name} has {same[0].n_parts} partitions and {one.name} has "
                f"{one.n_parts}, and not all of their sizes are known, so that they "
                "can't be paired: give them the same partitions, or call "
                f"compute_chunk_sizes() on arrays.{merged}"
            )
    return same


def graph_of(
    inputs: Sequence[Parts],
) -> tuple[dict[Any, Any], list[list[Any]], list[Future[Any]]]:
    """The tasks of all parts of inputs, the keys of the parts, and what is persisted.

    What is persisted is not among the tasks.
    """
    arrays = [one.data for one in inputs if isinstance(one.data, da.Array)]
    frames = [one.data for one in inputs if not isinstance(one.data, (list, da.Array))]
    graph: dict[Any, Any] = {}
    keys: dict[int, list[Any]] = {}
    # Optimising forgets the futures of arrays.
    futures = [future for array in arrays for future in futures_in(array.dask)]
    # Each kind together, so that what they share is computed once.
    for old, new in zip(arrays, dask.optimize(*arrays), strict=True):
        graph.update(new.__dask_graph__())
        keys[id(old)] = list(flatten(new.__dask_keys__()))
    if frames:
        # Not dask.optimize: for several frames it gives wrong keys (dask 2026.8).
        tasks, found = _of_frames(frames)
        graph.update(tasks)
        keys.update({id(old): new for old, new in zip(frames, found, strict=True)})
    for one in inputs:
        if isinstance(one.data, list):
            graph.update(HighLevelGraph.merge(*(part.dask for part in one.data)))
            keys[id(one.data)] = [part.key for part in one.data]
    futures += [node for node in graph.values() if isinstance(node, Future)]
    graph = {key: node for key, node in graph.items() if not isinstance(node, Future)}
    return graph, [keys[id(one.data)] for one in inputs], futures


def _of_frames(frames: Sequence[Any]) -> tuple[dict[Any, Any], list[list[Any]]]:
    """The tasks of data frames, and the keys of the parts of each."""
    with dask.config.set(AS_SEEN):
        tasks, keys = _optimized(frames)
    if any(len(k) != f.npartitions for k, f in zip(keys, frames, strict=True)):
        return _united(frames)
    return tasks, keys


def _optimized(frames: Sequence[Any]) -> tuple[dict[Any, Any], list[list[Any]]]:
    together = getattr(dask.base, "collections_to_expr", None)
    if together is not None:
        whole = together(frames).optimize()
        return whole.__dask_graph__(), [list(keys) for keys in whole.__dask_keys__()]
    # Before dask 2025.4 each by itself: what they share may be computed twice.
    return _united([frame.optimize() for frame in frames])


def _united(frames: Sequence[Any]) -> tuple[dict[Any, Any], list[list[Any]]]:
    tasks = {k: v for frame in frames for k, v in frame.__dask_graph__().items()}
    return tasks, [list(frame.__dask_keys__()) for frame in frames]


def check_shapes(X: Any, y: Any, w: Any) -> None:
    """ValueError, in scikit-learn's words where it has some."""
    if X.ndim != 2:
        raise ValueError(f"Expected 2D array, got {X.ndim}D array instead")
    if y.ndim not in (1, 2):
        raise ValueError(f"y should be a 1d or 2d array, got {y.ndim} dimensions")
    if _differ(X, y):
        raise ValueError(
            "Found input variables with inconsistent numbers of samples: "
            f"{[X.shape[0], y.shape[0]]}"
        )
    if w is not None and w.ndim != 1:
        raise ValueError("Sample weights must be 1D array or scalar")
    if w is not None and _differ(X, w):
        raise ValueError(f"sample_weight.shape == {w.shape}, expected {(X.shape[0],)}!")
    for count, what in ((X.shape[0], "sample"), (X.shape[1], "feature")):
        if count == 0:
            raise ValueError(no_rows(X.shape, what))


def no_rows(shape: tuple[int, ...], what: str = "sample") -> str:
    """The words for a table without rows, or without columns."""
    words = f"Found array with 0 {what}(s) (shape={shape})"
    return f"{words} while a minimum of 1 is required."


def _differ(X: Any, other: Any) -> bool:
    """Whether the lengths are known and differ."""
    lengths = X.shape[0], other.shape[0]
    return not any(map(math.isnan, lengths)) and lengths[0] != lengths[1]
