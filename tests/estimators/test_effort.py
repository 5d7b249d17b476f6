"""What the ranks spent their time on: measured, told, and a warning with the cure."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from skmlp import config_context
from skmlp.estimators.advice import timing_report
from skmlp.exceptions import CommunicationWarning
from skmlp.state import Record
from tests.laws.places import HERE, Fit, gangs_seen, processes


def record(seconds: float, *computing: float) -> Record:
    return Record(1.0, np.nan, 0.1, 0, 0.1, seconds, computing)


FITS = {
    "adam": Fit("multiclass", {"early_stopping": True, "max_iter": 3}),
    "lbfgs": Fit("multiclass", {"solver": "lbfgs", "max_iter": 3}),
}


@pytest.mark.parametrize("task", FITS)
@pytest.mark.parametrize("place", [HERE, processes(2)], ids=lambda p: p.where)
def test_the_times_of_an_epoch_add_up(task, place):
    with gangs_seen():
        model = FITS[task].run(place)
    assert len(model.history_) == model.n_iter_ == 3
    off = []
    for epoch in model.history_:
        assert len(epoch["computing"]) == place.n_ranks
        assert min(epoch["computing"]) > 0
        assert min(epoch["waiting"]) == 0
        assert epoch["communicating"] >= 0
        for computing, waiting in zip(
            epoch["computing"], epoch["waiting"], strict=True
        ):
            total = computing + waiting + epoch["communicating"]
            off.append(abs(total - epoch["seconds"]))
    # The busiest rank may have looked at its clock later than the lead did, whose time
    # is the epoch's: a little, or on a busy machine now and then a lot.
    assert min(off) < max(0.05, 0.5 * model.history_[0]["seconds"])
    assert model.restarts_ == []


def test_the_shares_are_those_of_all_ranks():
    records = [record(10.0, 8.0, 4.0), record(10.0, 6.0, 6.0)]
    assert timing_report.shares(records) == pytest.approx((0.6, 0.1, 0.3))


def told(records: list[Record]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        timing_report.tell_shares(1, records)
    assert all(w.category is CommunicationWarning for w in caught)
    return [str(w.message) for w in caught]


def test_communication_of_more_than_half_warns_with_the_cure(capsys):
    (text,) = told([record(10.0, 3.0, 2.0)])
    assert "2 ranks spent 70% of their time communicating" in text
    assert "batch_size" in text
    assert "25% of their time computing" in capsys.readouterr().out


@pytest.mark.parametrize(
    "records",
    [
        [record(10.0, 6.0, 1.0)],  # waiting, not communicating
        [record(1.0, 0.1, 0.1)],  # moments
        [record(100.0, 1.0)],  # alone
        [],
    ],
    ids=["waiting", "moments", "alone", "no epoch"],
)
def test_nothing_else_warns(records):
    assert told(records) == []


def test_ranks_as_asked_are_no_question():
    with config_context(ranks="as_asked"):
        assert told([record(10.0, 1.0, 1.0)]) == []
