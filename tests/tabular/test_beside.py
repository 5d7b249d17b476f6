"""A fit of several networks that fails leaves none that trains on."""

from __future__ import annotations

import _thread
import itertools
from typing import Any

import joblib
import numpy as np
import pytest

from skmlp import TabularMLPRegressor
from skmlp.tabular import base
from skmlp.tabular.beside import Beside
from tests.tabular.test_tabular import REAL, frame, quick

FAILURES = {
    "an error": (RuntimeError, "own"),
    "Ctrl-C": (KeyboardInterrupt, None),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_no_network_trains_on(failure, monkeypatch):
    made: list[Beside] = []
    calls = itertools.count(1)
    kind, words = FAILURES[failure]

    class Seen(Beside):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    def scorer(model: Any, X: Any, y: Any) -> float:
        call = next(calls)
        if call == 6 and kind is RuntimeError:
            raise RuntimeError("own")
        if call == 6:
            _thread.interrupt_main()
        return float(call)  # better each time: no network stops early

    monkeypatch.setattr(base, "Beside", Seen)
    model = quick(TabularMLPRegressor, scoring=scorer, max_iter=10**6, n_estimators=4)
    with joblib.parallel_config(n_jobs=2), pytest.raises(kind, match=words):
        model.fit(frame("pandas"), REAL)
    (beside,) = made
    assert beside._running == 0
    assert not hasattr(model, "estimators_")
    with pytest.raises(RuntimeError, match="another network"):
        beside.checked(print)([])


def test_nothing_of_it_is_left():
    model = quick(TabularMLPRegressor).fit(frame("pandas"), REAL)
    assert not any(hasattr(network, "_beside") for network in model.estimators_)
    assert np.isfinite(model.predict(frame("pandas"))).all()
