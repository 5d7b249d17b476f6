"""Ranks in other processes whose epochs are too long to be waited for after Ctrl-C."""

from __future__ import annotations

import os
import threading
from functools import partial
from typing import Any

import pytest

from skmlp.comm.base import Communicator
from skmlp.dask import rank_group
from skmlp.dask.rank_group import DaskGroup
from skmlp.launch.loky import process_group
from skmlp.launch.loky.process_group import LokyGroup
from skmlp.training import build, supervisor
from skmlp.training.protocol import Build, Message, RankGroup, RankWorker
from tests.laws.places import assert_same_model
from tests.laws.test_faults_in_every_place import (
    ADAM,
    client,
    place,
    press_soon,
    train,
    up_to,
)

__all__ = ["client", "place"]  # fixtures


class OfLongEpochs:
    """A rank whose epochs count as so long that none can be waited for."""

    def __init__(self, servant: Any) -> None:
        servant.long_epoch = 0.0
        self.handle, self.last_commit = servant.handle, servant.last_commit
        self.close = servant.close

    def pause(self) -> None:
        """It would end its order, after its epoch."""


def _of_long_epochs(
    make: Build, plan: Any, comm: Communicator, data: Any
) -> RankWorker:
    return OfLongEpochs(make(plan, comm, data))


def lengthen(patch: Any) -> None:
    """Let the gangs to come have long epochs."""
    for name in ("on_source", "on_partitions"):
        patch.setattr(build, name, partial(_of_long_epochs, getattr(build, name)))


GANGS = {"processes": LokyGroup, "dask": DaskGroup}
FAR = {"processes": process_group, "dask": rank_group}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pthread_kill")
@pytest.mark.parametrize("where", FAR)
def test_ctrl_c_keeps_untold_epochs(where, place, monkeypatch):
    """The ranks tell of the epoch before the one that they are in."""
    monkeypatch.setattr(supervisor, "ROUND_SECONDS", 1e6)
    lengthen(monkeypatch)
    monkeypatch.setattr(FAR[where], "PAUSE", 0.3)
    ask, told, pressed = GANGS[where].request, [], threading.Event()

    def asking(gang: RankGroup, message: Message) -> Message:
        (n_epochs,) = message.arrays[0]
        if n_epochs > 500 and not pressed.is_set():
            pressed.set()
            press_soon()
        answer = ask(gang, message)
        told.append(n_epochs)
        return answer

    model = ADAM.estimator(place.n_jobs)
    with monkeypatch.context() as patch:
        patch.setattr(GANGS[where], "request", asking)
        with pytest.warns(UserWarning, match="Training interrupted by user"):
            train(place, model, *ADAM.data())
    assert model.n_iter_ > sum(told)
    assert_same_model(model, up_to(ADAM, model.n_iter_), **ADAM.tolerances)
