"""What a fit prints at each level of `verbose`, and what services log."""

from __future__ import annotations

import logging
import re

import numpy as np
import pytest

from skmlp import MLPClassifier

X = np.random.default_rng(0).normal(size=(60, 4))
Y = np.arange(60) % 3
SHORT = {"hidden_layer_sizes": 5, "max_iter": 2, "random_state": 0}


def printed(capsys, **params):
    model = MLPClassifier(**SHORT, **params).fit(X, Y)
    return model, capsys.readouterr().out.splitlines()


def test_nothing_is_told_unasked(capsys, caplog):
    assert printed(capsys)[1] == []
    assert caplog.messages == []


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_true_prints_the_lines_of_scikit_learn(n_jobs, capsys):
    _, lines = printed(capsys, verbose=True, n_jobs=n_jobs)
    assert [line.partition(" =")[0] for line in lines] == [
        "Iteration 1, loss",
        "Iteration 2, loss",
    ]


def test_two_adds_seconds_and_where_it_trained(capsys):
    _, lines = printed(capsys, verbose=2, early_stopping=True)
    assert re.fullmatch(r"Iteration 1, loss = [\d.]+, [\d.e-]+ s", lines[0])
    assert lines[1].startswith("Validation score: ")
    assert lines[-1].startswith("Trained in process, 2 epochs in ")
    assert lines[-1].endswith(
        ": n_jobs=None and joblib's backend ask for no other process"
    )
    assert len(lines) == 5


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("verbose", [False, 2])
def test_the_logger_has_all_of_it(solver, verbose, capsys, caplog):
    with caplog.at_level(logging.INFO, "skmlp"):
        _, lines = printed(capsys, verbose=verbose, solver=solver)
    assert {record.name for record in caplog.records} == {"skmlp"}
    assert [m.partition(",")[0] for m in caplog.messages] == [
        "Iteration 1",
        "Iteration 2",
        "Trained in process",
    ]
    if verbose and solver == "adam":
        assert lines == caplog.messages
