"""The shards of a minibatch are the minibatch, wherever the rows lie."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from skmlp.data.partitioned_dataset import PartitionedDataset
from skmlp.data.partitions import ShardData
from skmlp.data.sampler import SharedDataset
from skmlp.data.split import split_rows
from skmlp.plan import Plan, Split
from skmlp.rng_state import twister_state

N, FEATURES = 53, 3
RNG = np.random.default_rng(0)
X = np.arange(N * FEATURES, dtype=float).reshape(N, FEATURES)
Y = np.arange(N, dtype=float).reshape(-1, 1)
W = RNG.uniform(size=N)
START = twister_state(np.random.RandomState(0))


def plan_of(
    batch_size, n_shards, *, shuffle=True, split=None, solver="adam", keyed=False
):
    n_validation = 0 if split is None else len(split_rows(split)[1])
    return Plan(
        units=(FEATURES, 4, 1),
        activation="relu",
        loss="squared_error",
        solver=solver,
        dtype="float64",
        alpha=0.0,
        batch_size=batch_size,
        n_rows=N - n_validation,
        weighted=True,
        learning_rate="constant",
        learning_rate_init=0.1,
        power_t=0.5,
        momentum=0.9,
        nesterovs_momentum=True,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        max_iter=1,
        tol=0.0,
        n_iter_no_change=10,
        early_stopping=split is not None,
        split=split,
        n_validation=n_validation,
        order_rng=START if shuffle else None,
        keyed_order=keyed and shuffle,
        n_shards=n_shards,
    )


def shared(plan, kind):
    train = validation = None
    if plan.split is not None:
        train, validation = split_rows(plan.split)
    rows = sparse.csr_array(X) if kind == "sparse" else X
    return SharedDataset(rows, Y, W, train, validation)


def placed(plan, kind):
    """Rows in ranges of uneven sizes, dealt to the shards by turns."""
    cuts = [0, 1, 9, 30, 33, 50, N]
    spans = [(a, b - a) for a, b in pairwise(cuts)]
    held = {}
    for shard in range(plan.n_shards):
        # With three shards the last holds nothing.
        mine = tuple(spans[shard::2]) if shard < 2 else ()
        if plan.n_shards == 1:
            mine = tuple(spans)
        rows = np.concatenate([np.arange(0), *(np.arange(a, a + n) for a, n in mine)])
        rows = rows.astype(int)
        X_part = sparse.csr_array(X)[rows] if kind == "sparse" else X[rows]
        held[shard] = ShardData(X_part, Y[rows], W[rows], mine)
    return PartitionedDataset(held)


def numbers(block):
    """Which rows a block holds, checked against each other."""
    rows, y, w = block
    which = y[:, 0].astype(int)
    assert_array_equal(w, W[which])
    if isinstance(rows, np.ndarray):
        assert_array_equal(rows, X[which])
    else:
        data, indices, indptr = rows.parts
        whole = sparse.csr_array((data, indices, indptr), shape=(len(indptr) - 1, 3))
        assert_array_equal(whole[rows.rows].toarray(), X[which])
    return which


@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("make", [shared, placed])
@pytest.mark.parametrize("n_shards", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 10, N])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("keyed", [False, True])
def test_shards_are_the_minibatch(
    keyed, early, shuffle, batch_size, n_shards, make, kind, monkeypatch
):
    monkeypatch.setattr("skmlp.data.sampler.WINDOW", 30)
    monkeypatch.setattr("skmlp.data.partitioned_dataset.WINDOW", 9)
    monkeypatch.setattr("skmlp.data.partitioned_dataset.PIECE", 4)
    split = Split(N, 0.2, START, keyed=keyed) if early else None
    train, validation = np.arange(N), np.arange(0)
    if early:
        train, validation = (rows[:] for rows in split_rows(split))
    plan = plan_of(
        min(batch_size, len(train)),
        n_shards,
        shuffle=shuffle,
        split=split,
        keyed=keyed,
    )
    source = make(plan, kind)
    shards = [source.shard(plan, k) for k in range(n_shards)]
    for epoch in (1, 2):
        order = source.row_order(plan).seek(epoch) if shuffle else None
        for shard in shards:
            shard.begin_epoch(order)
        expected = train if order is None else order[:]
        for number in range(plan.n_batches):
            blocks = [shard.take(number) for shard in shards]
            for shard, block in zip(shards, blocks, strict=True):
                assert block is None or 0 < block[0].shape[0] <= shard.max_rows
            which = [numbers(b) for b in blocks if b is not None]
            found = np.concatenate(which)
            batch = expected[plan.batch(number)]
            assert_array_equal(np.sort(found), np.sort(batch))
            if make is shared:
                assert_array_equal(found, batch)
    held_back = [numbers(b) for s in shards for b in s.validation_blocks()]
    found = np.concatenate([np.arange(0), *held_back])
    assert_array_equal(np.sort(found), np.sort(validation))
    weights = [w for shard in shards for _, w in shard.training_targets()]
    assert_allclose(np.concatenate(weights).sum(), W[train].sum())


@pytest.mark.parametrize("make", [shared, placed])
@pytest.mark.parametrize("n_shards", [1, 2, 3])
def test_training_blocks_are_all_rows(n_shards, make):
    plan = plan_of(N, n_shards, solver="lbfgs", shuffle=False)
    source = make(plan, "dense")
    blocks = [
        numbers(block)
        for k in range(n_shards)
        for block in source.shard(plan, k).training_blocks()
    ]
    assert_array_equal(np.sort(np.concatenate(blocks)), np.arange(N))
