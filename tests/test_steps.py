"""Which epochs are one compiled call, and from which rows."""

from __future__ import annotations

import pytest
from scipy import sparse

from skmlp import testing
from skmlp.data import files, sources
from skmlp.data.files import FileRows
from skmlp.data.sparse_files import SparseFileRows
from tests.laws.test_runs_of_steps import CLASSES, X, fitted, same


@pytest.mark.skipif(
    not files.AVAILABLE, reason="rows are kept in memory on this system"
)
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_rows_in_files(kind, monkeypatch, tmp_path):
    """Those of a Dask worker that are too many: sparse ones go one by one."""
    rows = X if kind == "dense" else sparse.csr_array(X * (X > 0))
    in_memory = fitted(**CLASSES, rows=rows)
    make = sources.RowTable.__init__

    def on_disk(self, table, *others):
        if sparse.issparse(table):
            file = SparseFileRows(str(tmp_path), table.shape[1], table.dtype)
            file.append(0, table)
            file.order([0])
        else:
            file = FileRows(str(tmp_path), table.shape, table.dtype)
            file.write(0, table)
        make(self, file, *others)

    monkeypatch.setattr(sources.RowTable, "__init__", on_disk)
    with testing.fused_epochs() as runs:
        same(fitted(**CLASSES, rows=rows), in_memory, "float64")
    assert bool(runs) == (kind == "dense")


@pytest.mark.parametrize(
    "parameters",
    [
        {"dropout": 0.1},
        {"clip_norm": 1.0},
        {"l1_ratio": 0.5},
        {"average": True},
        {"frozen_layers": [0]},
        {"label_smoothing": 0.1},
        {"activation": ["relu", "tanh"]},
        {"hidden_layer_sizes": (500, 500)},
    ],
    ids=lambda parameters: next(iter(parameters)),
)
def test_others_go_one_by_one(parameters):
    with testing.step_threads(1), testing.fused_epochs() as runs:
        fitted(**CLASSES, **parameters)
    assert not runs
