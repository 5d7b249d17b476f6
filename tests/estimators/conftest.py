"""Dask clusters for the tests of a folder."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def client(request):
    """Of a cluster of two workers, which must be clean when the module ends.

    Each has a thread, or as many as the module's `THREADS`.
    """
    from tests.launch.dask_clusters import shared

    with shared(2, threads=getattr(request.module, "THREADS", 1)) as client:
        yield client
