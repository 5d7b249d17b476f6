"""The workers of a cluster that take part in a fit."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from skmlp.launch.base import RankFailed
from skmlp.launch.dask_client import Line, results

#: Seconds to wait for the first worker of a cluster that has none.
FIRST_WORKER = 120.0


async def present_workers(line: Line, asked: Sequence[str] | None) -> list[str]:
    """The workers to choose from; waits for the first one.

    Raises
    ------
    RankFailed
        None came in time, or one of those `asked` for is not there.
    """
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


def choose_workers(
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
