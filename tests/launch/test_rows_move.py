"""A Dask worker that dies while rows move from worker to worker."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from distributed import Client

from skmlp.dask.ingest import rebalance
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


def test_one_that_gave_or_took_rows_dies(workers, seen, monkeypatch):
    """Its rows are cut out of their partitions again, to stand as they stood."""
    expected = model().fit(*uneven())
    victim = addresses(workers.client)[0]
    process = pids(workers.client)[victim]
    results, calls = rebalance.results, []

    async def kill_at_first(client: Client, futures: Any) -> Any:
        calls.append(futures)
        if len(calls) == 3:
            os.kill(process, signal.SIGKILL)
        return await results(client, futures)

    monkeypatch.setattr(rebalance, "PIECE", 1000)
    monkeypatch.setattr(rebalance, "results", kill_at_first)
    found = model().fit(*uneven())
    assert_same_bits(found, expected)
    assert seen[0] == (4, 4)
    assert seen[-1] == (3, 4)
