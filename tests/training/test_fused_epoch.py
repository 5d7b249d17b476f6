"""Which epochs are one compiled call, and from which rows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from skmlp import testing
from skmlp.data import sampler
from skmlp.data.store import file_matrix
from skmlp.data.store.file_matrix import FileMatrix
from skmlp.kernels import compiled, epoch
from skmlp.model import predict
from tests.laws.test_runs_of_steps import CLASSES, CODES, REAL, VALUES, X, fitted, same
from tests.model.own import LogCosh, Sine


@pytest.mark.skipif(
    not file_matrix.AVAILABLE, reason="rows are kept in memory on this system"
)
def test_rows_in_files(monkeypatch, tmp_path):
    """Those of a Dask worker that are too many for its memory."""
    in_memory = fitted(**CLASSES, rows=X)
    make = sampler.RowTable.__init__

    def on_disk(self, plan, table, *others):
        file = FileMatrix(str(tmp_path), table.shape, table.dtype)
        file.write(0, table)
        make(self, plan, file, *others)

    monkeypatch.setattr(sampler.RowTable, "__init__", on_disk)
    with testing.fused_epochs() as runs:
        same(fitted(**CLASSES, rows=X), in_memory, "float64")
    assert runs


TARGETS = np.column_stack([CODES, (X[:, 3] > 0) + (X[:, 4] > 1)])
GAPS = np.where(np.arange(len(X))[:, None] % 3 == [0, 1], np.nan, VALUES)
ALL = {
    "dropout": 0.2,
    "input_dropout": 0.1,
    "clip_norm": 0.5,
    "l1_ratio": 0.3,
    "average": 0.8,
    "label_smoothing": 0.1,
    "activation": ["silu", "elu"],
    "solver": "adamw",
    "early_stopping": True,
}
OPTIONS = {
    "dropout": dict(CLASSES, dropout=[0.3, 0.0], input_dropout=0.2),
    "clip_norm": dict(CLASSES, clip_norm=0.3),
    **{
        f"l1, {solver}": dict(CLASSES, l1_ratio=0.5, alpha=0.1, solver=solver)
        for solver in ("sgd", "adam", "rmsprop")
    },
    "average": dict(CLASSES, average=True),
    "moving average": dict(CLASSES, average=0.9, solver="sgd"),
    **{
        f"frozen {layers}": dict(CLASSES, frozen_layers=layers)
        for layers in ([0], [1], [0, 2])
    },
    "label_smoothing": dict(CLASSES, label_smoothing=0.1),
    "two activations": dict(CLASSES, activation=["gelu", "tanh"]),
    "huber": dict(REAL, loss="huber"),
    "quantiles": dict(REAL, y=VALUES[:, 0], loss="quantile", quantile=[0.1, 0.5, 0.9]),
    "missing": dict(REAL, y=GAPS, missing_targets="mask"),
    "missing, quantiles": dict(
        REAL, y=GAPS[:, 0], missing_targets="mask", loss="quantile", quantile=[0.1, 0.9]
    ),
    "heads": dict(CLASSES, y=TARGETS),
    "all": dict(CLASSES, **ALL),
}


@pytest.mark.parametrize("n_parts", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", OPTIONS)
def test_whatever_a_step_has_runs_in_one_call(name, dtype, n_parts):
    with testing.step_threads(n_parts), testing.fused_epochs() as fused:
        together = fitted(dtype=dtype, **OPTIONS[name])
    assert len(fused) == together.n_iter_
    with testing.step_by_step():
        same(together, fitted(dtype=dtype, **OPTIONS[name]), dtype)


def test_each_kind_of_step_has_a_name_of_its_own():
    """Else the code of one, from the cache on disk, may be called for another one."""
    flags = itertools.product([False, True], repeat=3)
    kinds = [epoch._step_with(*some) for some in flags]
    assert len({kind.py_func.__qualname__ for kind in kinds}) == 8


@pytest.mark.parametrize(
    ("tables", "name", "case"),
    [
        (("FORWARD", "BACKWARD"), "elu", dict(CLASSES, activation="elu")),
        (("FORWARD", "DERIVING"), "mish", dict(CLASSES, activation="mish")),
        (("LOSS",), "huber", dict(REAL, loss="huber")),
        (("STEP",), "nadam", dict(CLASSES, solver="nadam")),
    ],
)
def test_a_formula_needs_no_kernel(tables, name, case, monkeypatch):
    """A new entry works before its kernel is written, also in large predictions."""
    with_kernel = fitted(**case)
    for table in tables:
        monkeypatch.delitem(getattr(compiled, table), name)
    many = np.tile(X, (100, 1))
    monkeypatch.setattr(predict, "_WORTH_THREADS", 1)
    with testing.fused_epochs() as fused:
        without = fitted(**case)
        predicted = without.predict(many)
    assert not fused
    same(without, with_kernel, "float64")
    np.testing.assert_allclose(predicted, with_kernel.predict(many), rtol=1e-7)


def test_own_objects_go_step_by_step():
    with testing.fused_epochs() as fused:
        fitted(**CLASSES, activation=Sine())
        fitted(**REAL, loss=LogCosh())
    assert not fused
