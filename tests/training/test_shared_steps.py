"""Shards of several ranks whose steps are shared by step threads."""

from __future__ import annotations

import pytest

from skmlp import testing
from tests.launch.dask_clusters import cluster
from tests.laws.fits import TABLE
from tests.laws.places import (
    HERE,
    all_shards_here,
    assert_same_bits,
    assert_same_model,
    dask_arrays,
    gangs_seen,
    on_dask,
    processes,
)

#: Fits of dense rows by a stochastic solver: the others go step by step.
FITS = [name for name, fit in TABLE.items() if fit.kind != "csr"]


@pytest.fixture(scope="module", autouse=True)
def _count():
    with gangs_seen():
        yield


@pytest.mark.parametrize("name", FITS)
def test_bits_depend_on_the_parts_and_not_on_the_threads(name):
    """On two shards of two parts each."""
    fit, place = TABLE[name], all_shards_here(2)
    with testing.step_threads(2, 1):
        alone = fit.run(place)
    assert_same_model(alone, fit.run(HERE), **fit.tolerances)
    with testing.step_threads(2, 2):
        assert_same_bits(fit.run(place), alone)


@pytest.mark.parametrize("name", ["adam", "stopping early, R2"])
def test_ranks_in_other_processes(name):
    fit = TABLE[name]
    with testing.step_threads(2):
        here = fit.run(all_shards_here(2))
        assert_same_bits(fit.run(processes(2)), here)
        with cluster(2, threads=2) as client:
            model = fit.run(on_dask(client, 2, 2))
            assert_same_bits(fit.run(dask_arrays(client, 2, "even")), model)
        assert_same_model(model, here, **fit.tolerances)
