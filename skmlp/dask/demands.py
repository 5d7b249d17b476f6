"""Where the user lets tasks run: Dask's annotations ``workers`` and ``resources``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import dask
import dask.array as da
from dask.delayed import Delayed
from distributed.comm import get_address_host, resolve_address

#: What is known of each worker: ``scheduler_info()["workers"]``.
Known = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Demand:
    """What one layer of tasks, or a call of ``fit``, asks of workers.

    Attributes
    ----------
    workers : tuple
        Addresses, names or hosts; empty for all.
    resources : mapping from str to float
        What a worker must have.
    """

    workers: tuple[Any, ...] = ()
    resources: Mapping[str, float] = field(default_factory=dict)

    def lacks(self, address: str, known: Mapping[str, Any]) -> str:
        """What a worker lacks, in words; "" for nothing."""
        if self.workers and not any(_is(w, address, known) for w in self.workers):
            return f"is not one of workers={list(self.workers)}"
        has = known.get("resources") or {}
        for name, amount in self.resources.items():
            if has.get(name, 0) < amount:
                return f"does not have resources={{{name!r}: {amount:g}}}"
        return ""


@dataclass(frozen=True)
class Demands:
    """All that is asked of the workers of a fit.

    Attributes
    ----------
    of_fit : Demand
        By the annotations in force when ``fit`` is called.
    of_rows : tuple of Demand
        By layers of the graphs of its inputs: a worker must do for one of them.
    """

    of_fit: Demand = Demand()
    of_rows: tuple[Demand, ...] = ()

    def lacks(self, address: str, known: Mapping[str, Any]) -> str:
        """What a worker lacks, in words; "" for nothing."""
        reasons = [demand.lacks(address, known) for demand in self.of_rows]
        of_rows = "" if not all(reasons) else next(iter(reasons), "")
        return self.of_fit.lacks(address, known) or of_rows


ANYWHERE = Demands()


def demands_of(*inputs: Any) -> Demands:
    """The demands of a fit that is called now, on these inputs.

    The layers of data frames have lost theirs.
    """
    layers = {
        name: layer
        for one in _collections(inputs)
        for name, layer in getattr(one.__dask_graph__(), "layers", {}).items()
    }
    of_rows = [
        demand
        for layer in layers.values()
        for demand in [_demand(layer.annotations or {}, layer)]
        if demand.workers or demand.resources
    ]
    return Demands(_demand(dask.get_annotations(), ["skmlp-rank"]), tuple(of_rows))


def annotated(inputs: Iterable[Any]) -> dict[Any, Mapping[str, Any]]:
    """The annotations of each task in the graphs of inputs that has some.

    Tasks of one layer have the same object.
    """
    return {
        key: layer.annotations
        for one in _collections(inputs)
        for layer in getattr(one.__dask_graph__(), "layers", {}).values()
        if layer.annotations
        for key in layer
    }


def _collections(inputs: Iterable[Any]) -> list[Any]:
    """Arrays and delayed objects, of which only these keep annotations."""
    flat = [
        o for one in inputs for o in (one if isinstance(one, list | tuple) else [one])
    ]
    return [one for one in flat if isinstance(one, da.Array | Delayed)]


def _demand(annotations: Mapping[str, Any], keys: Iterable[Any]) -> Demand:
    """What annotations demand; a callable is asked for each key."""

    def values(name: str) -> list[Any]:
        value = annotations.get(name)
        found = [value(key) for key in keys] if callable(value) else [value]
        return [one for one in found if one]

    workers: dict[Any, None] = {}
    for one in values("workers"):
        workers.update(
            dict.fromkeys(one if isinstance(one, list | tuple | set) else [one])
        )
    resources: dict[str, float] = {}
    for one in values("resources"):
        resources |= one
    # Tasks that may run on other workers, too, demand none.
    if any(values("allow_other_workers")):
        workers.clear()
    return Demand(tuple(workers), resources)


def _is(wanted: Any, address: str, known: Mapping[str, Any]) -> bool:
    """Whether a worker is the one, or on the host, that an annotation names."""
    if wanted in (address, known.get("name"), known.get("host")):
        return True
    try:
        if "://" in wanted or ":" in wanted:
            return bool(resolve_address(wanted) == address)
        host = get_address_host(resolve_address(f"tcp://{wanted}:1"))
    except (OSError, TypeError, ValueError):  # a name that is no host's
        return False
    return bool(host == get_address_host(address))
