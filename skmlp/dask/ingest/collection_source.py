"""The parts of Dask collections, brought into the stores of the workers.

The tasks that do so are pinned. What is computed for the parts of one worker alone
prefers that worker, so that raw rows don't travel; but it may run elsewhere, for it
belongs to the user, and must not wait for a worker that is gone.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from dask._task_spec import GraphNode, Task, TaskRef
from dask.core import get_dependencies
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from distributed import Future

from skmlp.dask.demands import annotated
from skmlp.dask.graph import pinned, plain, put_key, task_span
from skmlp.dask.ingest.collections import Parts, graph_of, paired
from skmlp.dask.ingest.persisted import computed
from skmlp.dask.ingest.tasks import (
    count_rows,
    cut_piece,
    merge_parts,
    put_part,
    put_piece,
)
from skmlp.dask.rpc import ClusterRPC, ended, results
from skmlp.dask.worker_group import LOOK_S, WorkerGroup
from skmlp.data.assignment import Span, even_out, place
from skmlp.data.partitions import PartStats
from skmlp.data.store.shard_store import Piece

#: No more tasks than this are looked at for where a part lies.
MOST_SEEN = 64
#: Rows that change workers travel in pieces of so many bytes, as far as these many do.
PIECE_BYTES, MOST_PIECES = 1 << 24, 16


class CollectionSource:
    """The parts of X, y and weights, side by side; ValueError if they can't be paired.

    Attributes
    ----------
    features, dtype, weighted
        Of X; whether there are weights.
    first : int
        The number of its first row among those of the fit.
    spans : list of list of Span
        The rows of each shard, once they are shared out.
    held_bytes : list of int
        For each shard, the bytes of the parts that are held until their rows are put.
    """

    first = 0

    def __init__(self, X: Parts, y: Parts, w: Parts | None) -> None:
        given = paired([X, y] + ([] if w is None else [w]))
        #: The rows of each part; None while they are unknown.
        self._sizes = next((one.sizes for one in given if one.sizes is not None), None)
        self._counted = self._sizes is None
        self.features: int = X.meta.shape[1]
        self.dtype = X.dtype
        self.weighted = w is not None
        # Kept: their futures keep what is persisted.
        self._given = given
        #: The columns of X and of y that each part must have; None for arrays.
        self._names = X.names, y.names
        #: The keys of the parts of X, y and, if there are any, weights.
        self._graph, self._columns, self._futures = graph_of(given)
        self.keys = self._columns[0]
        self._annotations = annotated(one.data for one in given)
        self._held: list[Future[Any]] = []
        self.spans: list[list[Span]] = []
        self.held_bytes: list[int] = []
        #: The shard on whose worker each part is computed.
        self._readers: dict[int, int] = {}

    def _lazy(self) -> list[Any]:
        """The keys of all inputs' parts that are yet to be computed."""
        return [k for column in self._columns for k in column if k in self._graph]

    async def load(self, rpc: ClusterRPC) -> None:
        """Compute the parts wherever Dask likes, before it is known who will train.

        They are held until they are with those that train.
        """
        if not self._lazy():
            return
        layers = self._layers("load", self._graph)
        self._held = self._submit(rpc, layers, self._lazy())
        await ended(self._held)
        failed = [one for one in self._held if one.status != "finished"]
        await results(rpc.client, failed[:1])

    def release(self) -> None:
        """Let go of the parts that are held."""
        for future in self._held:
            future.release()
        self._held, self.held_bytes = [], [0] * len(self.held_bytes)

    @staticmethod
    def _submit(
        rpc: ClusterRPC, layers: Mapping[str, Any], keys: Sequence[str]
    ) -> list[Future[Any]]:
        graph = HighLevelGraph(layers, {name: set() for name in layers})
        futures: list[Future[Any]] = rpc.client.get(graph, list(keys), sync=False)
        return futures

    async def holders(self, rpc: ClusterRPC) -> list[tuple[Collection[str], int]]:
        """For each part, the workers where its rows lie now, and how many they are.

        Of rows whose number is unknown, the bytes stand for it if all parts lie on the
        cluster; otherwise all parts count the same.
        """
        # What is being persisted at this moment will lie somewhere: wait for that.
        await computed(rpc, self._futures)
        keys = self.sources()
        # What another fit holds at this moment is no reason for another layout.
        there = [key for key in keys if key not in self._graph]
        who_has = await rpc.scheduler("who_has", keys=there)
        held = [tuple(who_has.get(key) or ()) for key in keys]
        rows = self._sizes
        if rows is None:
            rows = (1,) * len(keys)
            if all(held):
                sizes = await rpc.scheduler("nbytes", keys=there, summary=False)
                rows = tuple(max(1, sizes.get(key, 1)) for key in keys)
        return list(zip(held, rows, strict=True))

    async def share_out(
        self,
        group: WorkerGroup,
        held: Sequence[tuple[Collection[str], int]],
        homes: Sequence[str],
    ) -> None:
        """Give each shard its rows: of parts that lie at its home, as far as is fair.

        Where the rows of the parts are unknown, each part is computed for it on its
        worker, and held there until its rows are put.
        """
        placed = place([n for _, n in held], [holders for holders, _ in held], homes)
        self._readers = {part: k for k, own in enumerate(placed) for part in own}
        self.held_bytes = [0] * len(homes)
        if self._sizes is None:
            self._sizes = await self._count(group, homes)
        self._starts = [0, *accumulate(self._sizes)]
        self.spans = even_out(placed, self._sizes)

    async def _count(self, group: WorkerGroup, homes: Sequence[str]) -> tuple[int, ...]:
        """The rows of each part; ValueError where X and others differ in them."""
        parts = range(len(self._columns[0]))
        layers = self._user_layers(parts, homes)
        counts: defaultdict[str | None, dict[str, Task]] = defaultdict(dict)
        keys = [put_key(group.stamp, self.first, part, "count") for part in parts]
        for part, key in zip(parts, keys, strict=True):
            inputs = [TaskRef(column[part]) for column in self._columns]
            counts[self._reader(part, homes)][key] = plain(key, count_rows, *inputs)
        for worker, tasks in counts.items():
            layers[f"count-{worker}"] = _ours(tasks, worker, strictly=False)
        futures = self._submit(group.rpc, layers, [*keys, *self._lazy()])
        counting, self._held = futures[: len(keys)], futures[len(keys) :]
        try:
            told = await results(group.rpc.client, counting)
        finally:
            for future in counting:
                future.release()
        for part, ((n_rows, *others), n_bytes) in enumerate(told):
            for name, n in zip(("y", "sample_weight"), others, strict=False):
                if n != n_rows:
                    raise ValueError(
                        f"X has {n_rows} rows, but {name} has {n} (partition {part})"
                    )
            if self.keys[part] in self._graph:
                self.held_bytes[self._readers[part]] += n_bytes
        return tuple(lengths[0] for lengths, _ in told)

    async def bring(
        self, group: WorkerGroup, shards: Collection[int], homes: Sequence[str]
    ) -> PartStats | None:
        """Put the rows of some shards into their stores; None if they have none."""
        placed = sorted((span, shard) for shard in shards for span in self.spans[shard])
        if not placed:
            return None
        layers = self._user_layers({span.part for span, _ in placed}, homes)
        tasks: defaultdict[Any, dict[str, Task]] = defaultdict(dict)
        keys = []
        for span, shard in placed:
            reader, home = homes[self._readers[span.part]], homes[shard]
            inputs = [TaskRef(column[span.part]) for column in self._columns]
            inputs += [None] * (not self.weighted)
            for piece in self._pieces(span, travels=reader != home):
                keys.append(key := put_key(group.stamp, piece.start))
                part = self.features, self._names, tuple(piece), *inputs
                put = plain(key, put_part, group.run, shard, *part)
                if reader != home:
                    cut = put_key(group.stamp, piece.start, "cut")
                    where = self._reader(span.part, homes)
                    tasks[where, False][cut] = plain(cut, cut_piece, *part)
                    sent = tuple(piece), TaskRef(cut)
                    put = plain(key, put_piece, group.run, shard, *sent)
                tasks[home, True][key] = put
        for (worker, strictly), of_worker in tasks.items():
            name = f"{'put' if strictly else 'cut'}-{worker}"
            layers[name] = _ours(of_worker, worker, strictly)
        # By rising row: the first problem counts.
        done = put_key(group.stamp, self.first, "all")
        merge = {done: plain(done, merge_parts, *map(TaskRef, keys))}
        layers["merge"] = _ours(merge, None, strictly=False)
        rpc = group.rpc
        (merged,) = self._submit(rpc, layers, [done])
        try:
            while self._held and not merged.done():
                # Once the scheduler has the graph, each part stays until it is put.
                if (await rpc.scheduler("get_task_status", keys=[done])).get(done):
                    self.release()
                else:
                    await asyncio.sleep(LOOK_S)
            found: list[PartStats] = await results(rpc.client, [merged])
        finally:
            merged.release()
        return found[0]

    def _pieces(self, span: Span, travels: bool) -> Iterator[Piece]:
        """A span as it is put: of bounded size if it travels to another worker."""
        part, start, n_rows = span
        first, end = self._starts[part : part + 2]
        place = f"chunk {part}: rows {first} to {end - 1}"
        if self._counted:
            place = f"partition {part}"
        n_bytes = n_rows * self.features * self.dtype.itemsize * travels
        step = -(-n_rows // min(1 + n_bytes // PIECE_BYTES, MOST_PIECES))
        for at in range(start, start + n_rows, step):
            n = min(step, start + n_rows - at)
            yield Piece(self.first + at, n, at - first, end - first, place)

    def _reader(self, part: int, homes: Sequence[str]) -> str | None:
        """The worker that a part is computed on; None if it lies somewhere."""
        lazy = self.keys[part] in self._graph
        return homes[self._readers[part]] if lazy else None

    def _user_layers(
        self, parts: Iterable[int], homes: Sequence[str]
    ) -> dict[str, MaterializedLayer]:
        """The user's tasks for some parts, which prefer their readers' workers."""
        owners: dict[Any, str | None] = {}
        for part in parts:
            worker = homes[self._readers[part]]
            stack = [column[part] for column in self._columns]
            while stack:
                key = stack.pop()
                # What is persisted is not in the graph.
                if key not in self._graph or owners.get(key, "") in (worker, None):
                    continue
                # Those for parts of several workers prefer none.
                owners[key] = None if key in owners else worker
                stack.extend(get_dependencies(self._graph, key))
        tasks: defaultdict[str | None, dict[Any, Any]] = defaultdict(dict)
        for key, owner in owners.items():
            tasks[owner][key] = self._graph[key]
        layers: dict[str, MaterializedLayer] = {}
        for owner, own in tasks.items():
            layers |= self._layers(f"own-{owner}", own, owner)
        return layers

    def _layers(
        self, name: str, tasks: dict[Any, Any], worker: str | None = None
    ) -> dict[str, MaterializedLayer]:
        """The user's tasks, as annotated; the others had better run on `worker`."""
        groups: dict[int, tuple[Any, dict[Any, Any]]] = {0: ({}, {})}
        for key, task in tasks.items():
            annotations = self._annotations.get(key, {})
            where = id(annotations) if annotations else 0
            groups.setdefault(where, (annotations, {}))[1][key] = task
        layers = {}
        for number, (annotations, own) in enumerate(groups.values()):
            if worker is None or "workers" in annotations:
                layer = MaterializedLayer(own, annotations=annotations)
            else:
                layer = pinned(own, worker, strictly=False)
                layer.annotations = {**layer.annotations, **annotations}
            layers[f"{name}-{number}"] = layer
        return layers

    def sources(self) -> list[Any]:
        """For each part, the key that best tells where its rows lie now.

        The part itself, or what it is made of: of the persisted data, that which the
        fewest parts need, and of several such that which is the fewest tasks away. For
        a part that is computed from nothing that is persisted, its own key.
        """
        found = [_persisted(self._graph, key) for key in self.keys]
        users = Counter(source for steps in found for source in steps)

        def best(key: Any, steps: dict[Any, int]) -> Any:
            def rank(source: Any) -> tuple[int, int, str]:
                return users[source], steps[source], str(source)

            return min(steps, key=rank, default=key)

        return [best(key, steps) for key, steps in zip(self.keys, found, strict=True)]


def _ours(
    tasks: dict[str, Task], worker: str | None, strictly: bool
) -> MaterializedLayer:
    """A layer of our own tasks, on a worker if one is given."""
    annotations: dict[str, Any] = {"span": task_span(), "resources": {}}
    if worker is not None:
        annotations |= {"workers": [worker], "allow_other_workers": not strictly}
    return MaterializedLayer(tasks, annotations=annotations)


def _persisted(graph: dict[Any, Any], key: Any) -> dict[Any, int]:
    """The persisted keys that `key` needs, with the number of tasks between."""
    level, seen, found, steps = {key}, {key}, {}, 0
    while level and len(seen) <= MOST_SEEN:
        here = {k for k in level if isinstance(graph.get(k), Future | None)}
        found.update(dict.fromkeys(here, steps))
        level = {need for k in level - here for need in _needs(graph, k)} - seen
        seen |= level
        steps += 1
    return found


def _needs(graph: dict[Any, Any], key: Any) -> set[Any]:
    """The keys that a task needs, in the graph or persisted."""
    node = graph[key]
    if isinstance(node, GraphNode):
        return set(node.dependencies)
    return set(get_dependencies(graph, key))
