"""The parts of Dask collections, brought into the stores of the workers.

The tasks that do so are pinned. What is computed for the parts of one worker alone
prefers that worker, so that raw rows don't travel; but it may run elsewhere, for it
belongs to the user, and must not wait for a worker that is gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from dask._task_spec import GraphNode, Task, TaskRef
from dask.core import get_dependencies
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from distributed import Future

from skmlp.dask.demands import annotated
from skmlp.dask.graph import pinned, plain, put_key, task_span
from skmlp.dask.ingest.collections import Parts, graph_of, paired
from skmlp.dask.ingest.persisted import computed
from skmlp.dask.rpc import ClusterRPC, ended, results
from skmlp.dask.worker.tasks import merge_parts, put_part
from skmlp.dask.worker_group import WorkerGroup
from skmlp.data.assignment import UNKNOWN, Span, after, place
from skmlp.data.partitions import PartStats

#: No more tasks than this are looked at for where a part lies.
MOST_SEEN = 64


class DaskBlocks:
    """The parts of X, y and weights, side by side.

    Parameters
    ----------
    X, y : Parts
        Rows, and targets or labels.
    w : Parts or None
        Weights.

    Attributes
    ----------
    features : int
        Columns of X.
    dtype : dtype
        Of X.
    weighted : bool
        Whether there are weights.
    sizes : tuple of int or None
        The rows of each part; None if nobody knows.
    first : Span
        Number of the first part and of its first row; others come before these.

    Raises
    ------
    ValueError
        The inputs can't be paired.
    """

    first = Span(0, 0, 0)

    def __init__(self, X: Parts, y: Parts, w: Parts | None) -> None:
        given = paired([X, y] + ([] if w is None else [w]))
        self.sizes = next((one.sizes for one in given if one.sizes is not None), None)
        self.features: int = X.meta.shape[1]
        self.dtype = X.dtype
        self.weighted = w is not None
        # Kept: their futures keep what is persisted.
        self._given = given
        #: The columns of X and of y that each part must have; None for arrays.
        self._names = X.names, y.names
        #: The keys of the parts of X, y and, if there are any, weights.
        self._graph, self._columns, self._futures = graph_of(given)
        self._annotations = annotated(one.data for one in given)
        self._loaded: list[Future[Any]] = []

    @property
    def keys(self) -> list[Any]:
        """The keys of the parts of X."""
        return self._columns[0]

    async def load(self, rpc: ClusterRPC) -> None:
        """Compute the parts wherever Dask likes, before it is known who will train.

        They are held until they are with those that train.
        """
        keys = [k for column in self._columns for k in column if k in self._graph]
        if not keys:
            return
        layers = self._layers("load", self._graph)
        graph = HighLevelGraph(layers, {name: set() for name in layers})
        self._loaded = rpc.client.get(graph, keys, sync=False)
        await ended(self._loaded)
        failed = [one for one in self._loaded if one.status != "finished"]
        await results(rpc.client, failed[:1])

    async def holders(self, rpc: ClusterRPC) -> list[tuple[Collection[str], int]]:
        """For each part, the workers where its rows lie now, and how many they are.

        Of rows whose number is unknown, the bytes stand for it if all parts lie on the
        cluster; otherwise all parts count the same.
        """
        # What is being persisted at this moment will lie somewhere: wait for that.
        await computed(rpc, self._futures)
        keys = self.sources()
        who_has = await rpc.scheduler("who_has", keys=list(keys))
        held = [tuple(who_has.get(key) or ()) for key in keys]
        rows = self.sizes
        if rows is None:
            rows = (1,) * len(keys)
            if all(held):
                sizes = await rpc.scheduler("nbytes", keys=list(keys), summary=False)
                rows = tuple(max(1, sizes.get(key, 1)) for key in keys)
        return list(zip(held, rows, strict=True))

    def place(
        self, held: Sequence[tuple[Collection[str], int]], homes: Sequence[str]
    ) -> list[list[Span]]:
        """Give the parts to the shards; see `skmlp.data.assignment.place`."""
        rows = [n for _, n in held]
        placed = place(rows, [holders for holders, _ in held], homes)
        if self.sizes is None:
            placed = [[Span(s.part, UNKNOWN, UNKNOWN) for s in own] for own in placed]
        return [[after(self.first, span) for span in spans] for spans in placed]

    @property
    def end(self) -> Span:
        """Number of the part and of the row that would come next."""
        n_rows = UNKNOWN if self.sizes is None else sum(self.sizes)
        return after(self.first, Span(len(self.keys), n_rows, 0))

    async def bring(
        self, group: WorkerGroup, spans: Sequence[Sequence[Span]], homes: Sequence[str]
    ) -> PartStats:
        """Compute parts into the stores of their shards' workers: at first, all."""
        placed = [(s, shard) for shard, own in enumerate(spans) for s in own]
        merged = self._compute(group, sorted(placed), homes)
        try:
            found: list[PartStats] = await results(group.rpc.client, [merged])
        finally:
            merged.release()
            self._loaded = []
        if self.sizes is None and not found[0].problem:
            self.sizes = found[0].sizes
        return found[0]

    def _compute(
        self,
        group: WorkerGroup,
        placed: Sequence[tuple[Span, int]],
        homes: Sequence[str],
    ) -> Future[Any]:
        """Submit the tasks, for parts with their shard, by rising part."""
        stamp = group.stamp
        owners = self._owners((span.part, homes[shard]) for span, shard in placed)
        shared = {k: self._graph[k] for k, owner in owners.items() if owner is None}
        layers: dict[str, Any] = self._layers("shared", shared)
        needs: dict[str, set[str]] = {name: set() for name in layers}
        for worker in sorted({homes[shard] for _, shard in placed}):
            own = {k: self._graph[k] for k, owner in owners.items() if owner == worker}
            puts = [
                self._put_task(put_key(stamp, shard, span.part), group.run, shard, span)
                for span, shard in placed
                if homes[shard] == worker
            ]
            of_ours = {put.key: put for put in puts}
            for name, layer in self._layers(f"own-{worker}", own, worker).items():
                layers[name], needs[name] = layer, set(layers)
            needs[f"put-{worker}"] = set(layers)
            layers[f"put-{worker}"] = pinned(of_ours, worker, strictly=True)
        name = put_key(stamp, self.first.part, "all")
        in_order = [TaskRef(put_key(stamp, k, span.part)) for span, k in placed]
        needs["merge"] = set(layers)
        merge = {name: plain(name, merge_parts, *in_order)}
        layers["merge"] = MaterializedLayer(
            merge, annotations={"span": task_span(), "resources": {}}
        )
        whole = Delayed(name, HighLevelGraph(layers, needs), layer="merge")
        # It is optimised already; once more, and the tasks would lose their workers.
        return group.rpc.client.compute(whole, optimize_graph=False)

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
            layers[f"{name}-{number}" if number else name] = layer
        return layers

    def _put_task(self, key: str, run: str, shard: int, span: Span) -> Task:
        at = span.part - self.first.part
        inputs: list[Any] = [TaskRef(column[at]) for column in self._columns]
        if not self.weighted:
            inputs.append(None)
        cut = self._cut(span)
        return plain(key, put_part, run, shard, span.part, *inputs, cut, self._names)

    def _cut(self, span: Span) -> tuple[int, int] | None:
        """The rows that a shard has of a part; None for all of them."""
        at = span.part - self.first.part
        if self.sizes is None or span.rows in (UNKNOWN, self.sizes[at]):
            return None
        start = span.start - self.first.start - sum(self.sizes[:at])
        return start, start + span.rows

    def _owners(self, placed: Iterable[tuple[int, str]]) -> dict[Any, str | None]:
        """Whose parts need a task: a worker's, or None for those of several workers."""
        owners: dict[Any, str | None] = {}
        for part, worker in placed:
            stack = [column[part - self.first.part] for column in self._columns]
            while stack:
                key = stack.pop()
                # What is persisted is not in the graph.
                if key not in self._graph or owners.get(key, "") in (worker, None):
                    continue
                owners[key] = None if key in owners else worker
                stack.extend(get_dependencies(self._graph, key))
        return owners

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
