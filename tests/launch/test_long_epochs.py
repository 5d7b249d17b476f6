"""Ranks in other processes whose epoch is too long to be waited for after Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

import pytest

from skmlp import testing
from tests.laws.places import assert_same_model, gangs_seen
from tests.laws.test_faults_in_every_place import (
    ADAM,
    client,
    place,
    press_soon,
    train,
    up_to,
)

__all__ = ["client", "place"]  # fixtures


@pytest.fixture(scope="module", autouse=True)
def _count():
    with gangs_seen():
        yield


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pthread_kill")
@pytest.mark.parametrize("where", ["processes", "dask"])
def test_ctrl_c_keeps_the_last_round(where, place):
    """The ranks are ended within their epoch: what the driver has is what counts."""
    told, pressed = [], threading.Event()

    @contextlib.contextmanager
    def pressing(request: testing.Request) -> Iterator[None]:
        if request.n_epochs > 500 and not pressed.is_set():
            pressed.set()
            press_soon()
        yield
        told.append(request.n_epochs)

    model = ADAM.estimator(place.n_jobs)
    with (
        testing.settings(round_s=1e6, grace_s=0.0),
        testing.around_requests(pressing),
        pytest.warns(UserWarning, match="Training interrupted by user"),
    ):
        train(place, model, *ADAM.data())
    assert model.n_iter_ == sum(told) > 0
    assert_same_model(model, up_to(ADAM, model.n_iter_), **ADAM.tolerances)
