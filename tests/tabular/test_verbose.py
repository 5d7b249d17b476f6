"""What the estimators of raw tables print."""

from __future__ import annotations

import pytest

from skmlp import TabularMLPRegressor
from tests.tabular.test_tabular import REAL, frame, quick


@pytest.mark.parametrize("verbose", [0, 1, 2])
def test_verbose_tells_of_each_network(verbose, capsys):
    model = quick(TabularMLPRegressor, verbose=verbose).fit(frame("pandas"), REAL)
    lines = capsys.readouterr().out.splitlines()
    for k, network in enumerate(model.estimators_, 1):
        told = [line for line in lines if line.startswith(f"Network {k} of 2: ")]
        best = f"{network.n_iter_} epochs, best loss "
        best += f"{min(network.validation_loss_curve_):.4f}"
        assert told == [f"Network {k} of 2: {best}"] * (verbose > 0)
    assert (len(lines) > 2) == (verbose == 2)
