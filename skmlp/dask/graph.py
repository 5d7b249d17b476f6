"""Tasks of ours on a Dask cluster: pinned to workers, and leaving little behind.

Of any task that was ever submitted, Dask's scheduler keeps a record of its *group* (the
tasks of one name, until the last of them is forgotten) for ever, and a line for each
graph; beside a cache of the names of keys, which is full at some time. So a fit has two
groups, ``skmlp-rows`` and ``skmlp-rank``, and submits in one graph what goes together.
"""

from __future__ import annotations

import builtins
import functools
import operator
import pickle
import uuid
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, TypeVar

import dask
from dask._task_spec import Task
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from distributed import Client, Future
from distributed.protocol.pickle import dumps

T = TypeVar("T")

#: Annotation of our tasks. The scheduler keeps every span for ever, and begins another
#: one for tasks without whenever it was idle: several for each fit. This one is the
#: same for all fits.
_SPAN = {"name": ("skmlp",), "ids": ("skmlp",)}


def task_span() -> dict[str, tuple[str, ...]]:
    """The annotation ``span`` of tasks that are submitted now: the user's, or ours."""
    users: dict[str, tuple[str, ...]] = dask.get_annotations().get("span", _SPAN)
    return users


def lease_key(run: str, stamp: str, number: int) -> str:
    """The key of the task that begins a fit on a worker, one of the group of its rows.

    They live as long as the rows do.
    """
    return f"skmlp-rows-{run}-{stamp}-lease-{number}"


def put_key(stamp: str, *what: int | str) -> str:
    """The key of a task that brings rows: of which shard and part, for example."""
    return f"skmlp-rows-{stamp}-{'-'.join(map(str, what))}"


def rank_key(run: str, generation: int, rank: int) -> str:
    """The key of the task that is a rank; they are long, and a group of their own.

    For Dask tells from its group how long a task will take.
    """
    return f"skmlp-rank-{run}-{generation}-{rank}"


def stay_key() -> str:
    """The key of a task that keeps a worker; it is long, as ranks are."""
    return f"skmlp-rank-{uuid.uuid4().hex}-stay"


@functools.cache
def by_value(function: Callable[..., T]) -> Callable[..., T]:
    """A copy of a function that is pickled by value: there may be no skmlp to import.

    It uses nothing but its arguments and builtins.
    """
    copy = FunctionType(function.__code__, {"__builtins__": builtins})
    # Of no module, so it can't be found by name.
    copy.__module__ = None  # type: ignore[assignment]  # a str for all others
    return copy


#: The bytes of each of our functions: one is pickled once, not for each of its tasks.
_pickled = functools.cache(dumps)


def for_scheduler(function: Callable[..., Any], *arguments: Any) -> dict[str, bytes]:
    """What the scheduler's ``run_function`` takes to call one of our functions."""
    return {"function": _pickled(by_value(function)), "args": dumps(arguments)}


def plain(key: str, function: Callable[..., Any], *arguments: Any) -> Task:
    """A task that is plain data until it runs, if its arguments are.

    The scheduler reads tasks, and so does each worker as they arrive: one that can't
    import what a task names would end. Here, only the task fails.
    """
    load = Task(None, pickle.loads, _pickled(function))
    return Task(key, operator.call, load, *arguments)


def lazily(function: Callable[..., Any], *arguments: Any) -> Delayed:
    """A delayed call of a function of ours; as with `plain`, data until it runs."""
    load = dask.delayed(pickle.loads)(pickle.dumps(function))
    return dask.delayed(operator.call)(load, *arguments)


def pinned(tasks: dict[Any, Any], worker: str, strictly: bool) -> MaterializedLayer:
    """A layer of tasks that run on a worker; or, the user's, that had better."""
    where: dict[str, Any] = {"workers": [worker]}
    where["allow_other_workers"] = not strictly
    if strictly:
        # Resources that the user's annotations name are the ranks' to hold.
        where |= {"span": task_span(), "resources": {}}
    return MaterializedLayer(tasks, annotations=where)


def submit_to_each(
    client: Client,
    calls: Mapping[str, tuple[str, Callable[..., Any], tuple[Any, ...]]],
    **annotations: Any,
) -> list[Future[Any]]:
    """Submit a task to each of several workers, in one graph. From any thread.

    `calls` has for each worker the task's key, its function and the arguments; the
    futures come in its order. The annotations are of all these tasks.
    """
    layers = {
        f"skmlp-{worker}": pinned({key: plain(key, function, *args)}, worker, True)
        for worker, (key, function, args) in calls.items()
    }
    for layer in layers.values():
        layer.annotations |= annotations
    graph = HighLevelGraph(layers, {name: set() for name in layers})
    keys = [key for key, _, _ in calls.values()]
    futures: list[Future[Any]] = client.get(graph, keys, sync=False)
    return futures
