"""A Dask worker that dies while partitions are held, to be counted and placed."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from distributed import Client

from skmlp.dask.ingest import collection_source
from tests.launch.dask_clusters import addresses, pids
from tests.laws.places import assert_same_bits
from tests.laws.test_workers_come_and_go import (
    _settings,
    model,
    mortals,
    seen,
    uneven,
    workers,
)

__all__ = ["_settings", "mortals", "seen", "workers"]  # fixtures

pytestmark = [
    pytest.mark.timeout(90),
    pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL"),
]


@pytest.mark.parametrize("call", [1, 2], ids=["counting", "placing"])
def test_one_that_holds_partitions_dies(call, workers, seen, monkeypatch):
    """They are computed again, and the rows are placed as they would have been."""
    expected = model().fit(*uneven())
    victim = addresses(workers.client)[0]
    process = pids(workers.client)[victim]
    results, calls = collection_source.results, []

    async def kill_first(client: Client, futures: Any) -> Any:
        calls.append(futures)
        if len(calls) == call:
            os.kill(process, signal.SIGKILL)
        return await results(client, futures)

    monkeypatch.setattr(collection_source, "results", kill_first)
    found = model().fit(*uneven())
    assert_same_bits(found, expected)
    assert seen[0] == (4, 4)
    assert seen[-1] == (3, 4)
