"""joblib's processes that are killed again and again: the fit goes on in this one."""

from __future__ import annotations

import copy
import os
from functools import partial
from typing import Any

import numpy as np
import pytest

from skmlp import testing
from skmlp.testing import FAILURES, RankFailed, failing_rank
from tests.estimators.attempts import same
from tests.laws.fits import Fit
from tests.laws.in_workers import die_elsewhere, die_if, die_once
from tests.laws.places import assert_same_bits, gangs_seen, processes, seen_here

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")

ENDLESS = {"tol": 0.0, "n_iter_no_change": np.inf}
ADAM = Fit("multiclass", {**ENDLESS, "max_iter": 30}, weighted=True)
SCORED = {**ENDLESS, "max_iter": 6, "early_stopping": True, "scoring": "roc_auc"}
TASKS = [
    ADAM,
    Fit("binary", SCORED, weighted=True),
    Fit("multiclass", {"solver": "lbfgs", "tol": 0.0, "max_iter": 12}),
]


@pytest.fixture(scope="module", autouse=True)
def _count():
    with gangs_seen():
        yield


def train(task: Fit, model: Any = None) -> Any:
    """Fit on two processes; nothing is counted, for it may not come so far."""
    with processes(2).around():
        return (model or task.estimator(None)).fit(*task.data())


@pytest.mark.parametrize("task", TASKS, ids=["adam", "scorer", "lbfgs"])
def test_a_fit_whose_processes_are_killed_again_and_again_goes_on_here(task, tmp_path):
    undisturbed, flag = train(task), tmp_path / "dead"
    before = len(seen_here())
    with (
        # The first time after some progress, and then at once.
        failing_rank(1, 3, partial(die_once, str(flag))),
        failing_rank(1, 1, partial(die_if, str(flag), os.getpid())),
        pytest.warns(RuntimeWarning, match="goes on in this process"),
    ):
        model = train(task)
    gangs = [("processes", 2, 2)] * FAILURES + [("in process", 1, 2)]
    assert seen_here()[before:] == gangs
    assert len(model.restarts_) == FAILURES
    assert_same_bits(model, undisturbed)


def test_processes_that_are_killed_for_want_of_memory_end_the_fit(tmp_path):
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("nr_free_pages 7\noom_kill 6\n")
    model = ADAM.estimator(None)
    before = copy.deepcopy(vars(model))
    with (
        testing.settings(vmstat_file=vmstat),
        failing_rank(0, 1, partial(die_elsewhere, os.getpid(), str(vmstat))),
        pytest.raises(RankFailed, match="killed 3 processes for want of memory"),
    ):
        train(ADAM, model)
    assert same(vars(model), before)
