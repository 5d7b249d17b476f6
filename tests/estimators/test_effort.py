"""What the ranks spent their time on: measured, told, and a warning with the cure."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

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


PLAN = SimpleNamespace(batch_size=100, n_rows=10_000)


def told(records: list[Record], plan: SimpleNamespace = PLAN) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        timing_report.tell_shares(1, records, plan)
    assert all(w.category is CommunicationWarning for w in caught)
    return [str(w.message) for w in caught]


def test_communication_of_more_than_half_warns_with_the_cure(capsys):
    (text,) = told([record(10.0, 3.0, 2.0)])
    assert "2 ranks spent 70% of their time communicating" in text
    # 3 s of computing and 7 of communicating: alone it would be 6 s, not 10.
    assert "batch_size=280 would bring that to a half" in text
    assert "one worker alone would be faster" in text
    assert "25% of their time computing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "cure"),
    [
        (10_000, "batch_size=150 would bring that to a half; n_jobs=7"),
        (120, "the largest batch_size there can be would not bring that to a half; n"),
        (100, "communicating: n_jobs=7, which Dask collections follow, would do"),
    ],
)
def test_the_cure_fits_the_rows_and_the_workers(rows, cure):
    plan = SimpleNamespace(batch_size=100, n_rows=rows)
    # Eight workers with 4 s each, 6 s of messages: seven take 32 / 7 + 6 = 10.6 s.
    (text,) = told([record(10.0, *[4.0] * 8)], plan)
    assert cure in text


def test_a_fit_of_moments_is_told_the_cure_where_all_is_told(capsys):
    for verbose in (1, 2):
        timing_report.tell_shares(verbose, [record(1.0, 0.3, 0.2)], PLAN)
    brief, long = capsys.readouterr().out.splitlines()
    assert brief.endswith("70% communicating.")
    assert (
        "communicating. A cure: batch_size=280 would bring that to a half; one" in long
    )


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
