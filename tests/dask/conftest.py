"""A Dask cluster for the tests of a folder."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def client():
    """Of a cluster of three workers with a thread each."""
    from tests.launch.dask_clusters import shared

    with shared(3) as client:
        yield client


@pytest.fixture
def clean(client):
    """The same client; its cluster must be as it was when the test ends."""
    from tests.launch.dask_clusters import left_behind, until

    yield client
    until(lambda: not left_behind(client), "a clean cluster")
