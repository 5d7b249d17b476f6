"""Shards that are uneven once all rows have come: who gives what to whom, and how."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy import sparse

from skmlp.data.assignment import EVEN, UNKNOWN, Move, Span, evened
from skmlp.data.partitions import LocalRows, PartStats, merge
from skmlp.data.store import sparse_buffers
from skmlp.data.store.file_rows import AVAILABLE, FileRows
from skmlp.data.store.shard_store import ShardStore

#: The rows of the parts of each shard.
LAYOUTS = {
    "even": [[5, 5], [10], [4, 6]],
    "nearly even": [[11], [10], [9]],
    "one giant part": [[90], [], []],
    "all on one of three": [[], [7, 3, 20, 11], []],
    "a giant among small ones": [[1, 1, 1], [1, 80, 2], [1, 1, 1]],
    "two givers": [[3, 30, 2], [1], [40], [5], [2, 2]],
    "two givers, one taker": [[30], [3], [33]],
    "fewer rows than shards": [[2], [], [], []],
    "one row": [[], [1], []],
    "one shard": [[8, 9]],
    "no rows": [[], []],
}
EVERY_LAYOUT = pytest.mark.parametrize("layout", LAYOUTS)


def spans_of(layout: list[list[int]]) -> list[list[Span]]:
    """The parts in turn, one of each shard after the other."""
    sizes, shards = [], []
    for turn in range(max(map(len, layout))):
        for shard, rows in enumerate(layout):
            if turn < len(rows):
                sizes.append(rows[turn])
                shards.append(shard)
    starts = [0, *accumulate(sizes)]
    spans = [Span(part, starts[part], n) for part, n in enumerate(sizes)]
    return [
        [span for span, shard in zip(spans, shards, strict=True) if shard == k]
        for k in range(len(layout))
    ]


def numbers(spans: Sequence[Span]) -> list[int]:
    return [row for _, start, n in spans for row in range(start, start + n)]


@pytest.mark.parametrize("most", [1, 4, 1000])
@EVERY_LAYOUT
def test_each_shard_has_its_share(layout, most):
    before = spans_of(LAYOUTS[layout])
    moves, after = evened(before, most)
    had = [numbers(own) for own in before]
    have = [numbers(own) for own in after]
    assert sorted(chain(*have)) == sorted(chain(*had))
    counts, total = [len(own) for own in have], sum(map(len, have))
    if moves:
        assert max(counts) - min(counts) <= 1
    else:
        assert after == before
        assert max(counts) <= max(-(-total // len(counts)), EVEN * total / len(counts))
    # No more rows than necessary, in pieces that are not too large.
    surplus = sum(max(len(old) - n, 0) for old, n in zip(had, counts, strict=True))
    sizes = [len(numbers(move.spans)) for move in moves]
    assert sum(sizes) == surplus
    assert all(0 < size <= most for size in sizes)
    for own, old in zip(have, had, strict=True):
        # What stays are the first rows; behind them, what came is rising.
        kept = [row for row in own if row in old]
        assert kept == old[: len(kept)] == own[: len(kept)]
        assert own[len(kept) :] == sorted(own[len(kept) :])
    for own in after:
        assert len({span.part for span in own}) == len(own)
    for giver, old in enumerate(had):
        gone = [numbers(move.spans[::-1]) for move in moves if move.giver == giver]
        assert [*chain(*gone[::-1])] == old[len(old) - sum(map(len, gone)) :]
    for taker, own in enumerate(have):
        come = [r for move in moves if move.taker == taker for r in numbers(move.spans)]
        assert sorted(come) == own[len(own) - len(come) :]


# ---- Between the stores of shards --------------------------------------------------

N, FEATURES = 137, 5
RNG = np.random.default_rng(0)
DENSE = RNG.uniform(-1, 1, (N, FEATURES))
THIN = sparse.csr_array(DENSE * (DENSE > 0.3))
Y = np.arange(N) % 7
W = RNG.uniform(size=N)


def part_of(X, span: Span) -> tuple:
    rows = slice(span.start, span.start + span.rows)
    texts = np.array([f"{'long ' * (span.part % 3)}{y}" for y in Y[rows]])
    return X[rows], texts, W[rows]


def filled(spans: list[list[Span]], X, unknown: bool, folder_for) -> tuple:
    """The stores of shards whose parts have come, and what is known of these."""
    stores, told = [], {}
    for own in spans:
        expected = own
        if unknown:
            expected = [Span(span.part, UNKNOWN, UNKNOWN) for span in own]
        stores.append(ShardStore(expected, FEATURES, float, True, True, folder_for))
        for span in reversed(own):
            told[span.part] = stores[-1].put(span.part, *part_of(X, span))
    return stores, merge([told[part] for part in sorted(told)])


def carry_out(
    moves: list[Move], before: list[list[Span]], after: list[list[Span]], stores
) -> None:
    """What the workers do of it."""
    for taker in {move.taker for move in moves}:
        stores[taker].settle(after[taker])
    for giver, taker, lot in moves:
        begins = {span.part: span.start for span in before[giver]}
        there = {span.part: span.start for span in after[taker]}
        for part, start, n in lot:
            at = start - begins[part]
            given = stores[giver].give(part, at, at + n)
            stores[taker].take(part, start - there[part], *given)
    for giver in {move.giver for move in moves}:
        stores[giver].settle(after[giver])


def brought_again(own: list[Span], sizes, X, stats: PartStats) -> LocalRows:
    """What a store has that gets those rows at once, each cut out of its part."""
    store = ShardStore(own, FEATURES, float, True, True)
    starts = [0, *accumulate(sizes)]
    for span in own:
        begin = starts[span.part]
        whole = part_of(X, Span(span.part, begin, sizes[span.part]))
        cut = span.start - begin, span.start - begin + span.rows
        assert store.put(span.part, *whole, cut).problem == ""
    return store.rows(stats)


def dense(X):
    if isinstance(X, np.ndarray | FileRows):
        return X[:]
    if sparse.issparse(X):
        return X.toarray()
    rows = X.rows(np.arange(X.shape[0]))
    table = sparse.csr_array(rows.parts, shape=(len(rows.parts[2]) - 1, FEATURES))
    return table[rows.rows].toarray()


STORES = [name for name in LAYOUTS if name not in ("no rows", "one shard", "even")]


@pytest.mark.parametrize("where", ["memory", "files"])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("unknown", [False, True], ids=["known", "unknown"])
@pytest.mark.parametrize("layout", STORES)
def test_rows_go_from_store_to_store(
    layout, unknown, kind, where, tmp_path, monkeypatch
):
    """All rows are there once, and as if they had come so in the first place."""
    if where == "files" and not AVAILABLE:
        pytest.skip("rows are kept in memory on this system")
    monkeypatch.setattr(sparse_buffers, "PIECE", 200)  # several blocks a part
    folder = str(tmp_path) if where == "files" else ""
    X = DENSE if kind == "dense" else THIN
    before = spans_of(LAYOUTS[layout])
    stores, stats = filled(before, X, unknown, lambda size, grows: folder)
    moves, after = evened(before, 7)
    carry_out(moves, before, after, stores)
    for store, own in zip(stores, after, strict=True):
        rows = store.rows(stats)
        expected = brought_again(own, stats.sizes, X, stats)
        assert rows.ranges == expected.ranges
        for name in ("y", "w"):
            assert_array_equal(getattr(rows, name), getattr(expected, name))
        here = dense(rows.X)
        assert_array_equal(here, dense(expected.X))
        assert_array_equal(here, dense(X[numbers(own)]))
        if folder and own:
            assert not isinstance(rows.X, np.ndarray)
            assert store.resident_bytes == 0
    assert list(tmp_path.iterdir()) == []


def test_memory_is_free_and_files_are_left_as_rows_go(tmp_path):
    """Who had too many for the memory goes back to it when they are few enough."""
    row = DENSE[0].nbytes

    def folder_for(size, grows):
        return str(tmp_path) if grows and size > 60 * row else ""

    before = spans_of([[130], [], []])
    stores, stats = filled(before, DENSE, True, folder_for)
    assert stores[0].resident_bytes == 0
    moves, after = evened(before, 10)
    carry_out(moves, before, after, stores)
    assert [s.resident_bytes // row for s in stores] == [44, 43, 43]
    for store, own in zip(stores, after, strict=True):
        rows = store.rows(stats)
        assert isinstance(rows.X, np.ndarray)
        assert_array_equal(rows.X, DENSE[numbers(own)])


@pytest.mark.parametrize("unknown", [False, True], ids=["known", "unknown"])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_validation_rows_come_behind(kind, unknown):
    """They are expected, and evened out, when the training rows are where they stay."""
    X = DENSE if kind == "dense" else THIN
    training = spans_of([[60, 20], [3], [7]])
    stores, stats = filled(training, X, unknown, lambda size, grows: "")
    moves, settled = evened(training, 11)
    carry_out(moves, training, settled, stores)
    held_out = [[Span(4, 90, 2)], [Span(5, 92, 40)], [Span(6, 132, 1)]]
    told = []
    for store, own in zip(stores, held_out, strict=True):
        store.expect([Span(s.part, UNKNOWN, UNKNOWN) if unknown else s for s in own])
        told += [store.put(span.part, *part_of(X, span)) for span in own]
    moves, after = evened(held_out, 11)
    whole = [old + new for old, new in zip(settled, after, strict=True)]
    carry_out(moves, held_out, whole, stores)
    stats = merge([stats, *told])
    for store, own in zip(stores, whole, strict=True):
        rows = store.rows(stats)
        assert_array_equal(dense(rows.X), dense(X[numbers(own)]))
        assert sum(n for _, n in rows.ranges) == rows.X.shape[0]


def test_what_comes_after_the_fit_is_refused():
    before = spans_of([[40], []])
    stores, _ = filled(before, DENSE, True, lambda size, grows: "")
    stores[0].close()
    with pytest.raises(ValueError, match="the fit is over"):
        stores[0].give(0, 20, 40)
    stores[1].settle([Span(0, 20, 20)])
    stores[1].close()
    with pytest.raises(ValueError, match="the fit is over"):
        stores[1].take(0, 0, DENSE[20:40], Y[20:40], W[20:40])
