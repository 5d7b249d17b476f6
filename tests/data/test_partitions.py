"""Parts of a table: what is known of them, who gets them, what a shard does."""

from __future__ import annotations

import pickle
import tracemalloc
from itertools import chain

import numpy as np
import pytest
from scipy import sparse

from skmlp.data.assignment import EVEN, Span, even_out, join_ranges, place
from skmlp.data.partitions import PartStats, merge, training_dtype
from skmlp.data.store.shard_store import Piece, ShardStore, cut_out

ROWS, FEATURES = 12, 3
X = np.arange(1.0, ROWS * FEATURES + 1).reshape(ROWS, FEATURES)
Y = np.arange(ROWS) % 4 // 1.5 // 1
W = np.linspace(0.5, 2, ROWS)


def spans_of(*rows: int) -> list[Span]:
    starts = np.cumsum([0, *rows]).tolist()
    return [Span(part, starts[part], n) for part, n in enumerate(rows)]


def store_of(spans, dtype=np.float64, weighted=True, labels=False) -> ShardStore:
    return ShardStore(join_ranges(spans), FEATURES, dtype, weighted, labels)


def put(store: ShardStore, span: Span, X=X, y=Y, w=W) -> PartStats:
    """Rows as a part of their own."""
    n = span.rows
    place = f"chunk {span.part}: rows {span.start} to {span.start + n - 1}"
    some = slice(span.start, span.start + n)
    w = None if w is None else w[some]
    piece = Piece(span.start, n, 0, n, place)
    try:
        cut = cut_out(piece, FEATURES, (None, None), X[some], y[some], w)
    except ValueError as error:
        return PartStats(n, FEATURES, problem=f"{error} ({place})")
    return store.put(piece, *cut)


# ---- Placement ---------------------------------------------------------------------

EQUAL = [10] * 12
UNEVEN = [1, 30, 2, 2, 17, 9, 40, 3, 0, 8]
NOWHERE = ()


def holders(parts: int, *names: str) -> list[tuple[str, ...]]:
    """Each part on one of the workers `names`, in turn."""
    return [(names[i % len(names)],) if names else NOWHERE for i in range(parts)]


@pytest.mark.parametrize("rows", [EQUAL, UNEVEN, [7], [100, 1], [5, 0, 0, 5]])
@pytest.mark.parametrize("homes", ["a", "ab", "aab", "abc", "aabbccd"])
@pytest.mark.parametrize("lie", ["", "a", "ab", "x", "aaab"])
def test_every_part_goes_to_one_shard_and_none_gets_too_much(rows, homes, lie):
    placed = place(rows, holders(len(rows), *lie), homes)
    assert len(placed) == len(homes)
    assert sorted(chain(*placed)) == [part for part, n in enumerate(rows) if n]
    assert all(shard == sorted(shard) for shard in placed)
    most = max(sum(rows[part] for part in shard) for shard in placed)
    assert most <= sum(rows) / len(homes) + max(rows)


def test_parts_stay_where_they_lie_if_that_is_even():
    placed = place(EQUAL, holders(12, "b", "a", "c"), "abc")
    assert placed == [[1, 4, 7, 10], [0, 3, 6, 9], [2, 5, 8, 11]]


def test_a_worker_that_holds_all_keeps_its_share_only():
    placed = place(EQUAL, holders(12, "b"), "abc")
    assert [len(shard) for shard in placed] == [4, 4, 4]
    assert placed[1] == [0, 1, 2, 3]


def test_parts_that_lie_nowhere_keep_their_order():
    placed = place(UNEVEN, holders(len(UNEVEN)), "abc")
    assert [*chain(*placed)] == [part for part, n in enumerate(UNEVEN) if n]


def test_a_part_on_several_workers_goes_to_the_one_with_less():
    placed = place([10, 10, 10, 10], [("a",), ("a", "b"), ("a", "b"), ("b",)], "ab")
    assert placed == [[0, 2], [1, 3]]


#: The rows of the parts of each shard.
LAYOUTS = {
    "even": [[5, 5], [10], [4, 6]],
    "nearly even": [[11], [10], [9]],
    "one giant part": [[90], [], []],
    "all on one of three": [[], [7, 3, 20, 11], []],
    "a giant among small ones": [[1, 1, 1], [1, 80, 2], [1, 1, 1]],
    "two givers": [[3, 30, 2], [1], [40], [5], [2, 2]],
    "two givers, one taker": [[30], [3], [33]],
    "empty parts": [[0, 30], [0], [3, 0]],
    "fewer rows than shards": [[2], [], [], []],
    "one row": [[], [1], []],
    "one shard": [[8, 9]],
    "no rows": [[], []],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_shard_has_its_share(layout):
    """To the row, if the parts as they are placed are far from it."""
    sizes, placed = [], [[] for _ in LAYOUTS[layout]]
    for turn in range(max(map(len, LAYOUTS[layout]))):
        for shard, rows in enumerate(LAYOUTS[layout]):
            if turn < len(rows):
                placed[shard].append(len(sizes))
                sizes.append(rows[turn])
    whole = spans_of(*sizes)
    before = [[whole[part] for part in own if sizes[part]] for own in placed]
    after = even_out(placed, sizes)
    had, have = ([numbers(own) for own in spans] for spans in (before, after))
    assert sorted(chain(*have)) == sorted(chain(*had)) == [*range(sum(sizes))]
    counts, total = [len(own) for own in have], sum(sizes)
    if after == before:
        assert max(counts) <= max(-(-total // len(counts)), EVEN * total / len(counts))
    else:
        assert max(counts) - min(counts) <= 1
    for own, old, spans in zip(have, had, after, strict=True):
        assert own == sorted(own)
        assert all(rows for *_, rows in spans)
        # No more rows move than necessary: those that a shard has too many of.
        n_kept = min(len(own), len(old))
        assert set(own) >= set(old[:n_kept])


def numbers(spans: list[Span]) -> list[int]:
    return [row for _, start, n in spans for row in range(start, start + n)]


@pytest.mark.parametrize(
    ("spans", "ranges"),
    [
        ([], ()),
        ([Span(4, 7, 2)], ((7, 2),)),
        ([Span(0, 0, 2), Span(1, 2, 3), Span(5, 9, 1)], ((0, 5), (9, 1))),
    ],
)
def test_neighbours_become_one_range(spans, ranges):
    assert join_ranges(spans) == ranges


# ---- What a shard makes of its parts -----------------------------------------------

KINDS = {
    "float64": X,
    "float32": X.astype(np.float32),
    "integers": X.astype(np.int16),
    "fortran": np.asfortranarray(X),
    "objects": X.astype(object),
    "csr_array": sparse.csr_array(X * (X % 3 > 0)),
    "csr_matrix of float32": sparse.csr_matrix((X * (X % 3 > 0)).astype(np.float32)),
    "csc_matrix": sparse.csc_matrix(X * (X % 2 > 0)).tocsr(),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighted", [False, True])
def test_parts_come_back_as_one_table_in_the_training_dtype(kind, weighted):
    given = KINDS[kind]
    store = store_of(spans_of(5, 3, 4), training_dtype(given.dtype), weighted)
    stats = merge(
        [put(store, span, given, Y, W) for span in reversed(spans_of(5, 3, 4))][::-1]
    )
    assert stats.problem == ""
    rows = store.rows(stats)
    assert rows.X.dtype == training_dtype(given.dtype)
    assert rows.ranges == ((0, ROWS),)
    np.testing.assert_array_equal(rows.y, Y)
    np.testing.assert_array_equal(rows.w, W if weighted else np.empty(0))
    assert stats.sparse == sparse.issparse(rows.X) == sparse.issparse(given)
    if stats.sparse:
        assert isinstance(rows.X, sparse.csr_array)
        np.testing.assert_array_equal(rows.X.toarray(), given.toarray())
    else:
        assert rows.X.flags.c_contiguous
        np.testing.assert_array_equal(rows.X, given)
    assert store.rows(stats) is rows


def test_a_shard_with_gaps_says_where_its_rows_stand():
    spans = [Span(2, 4, 2), Span(5, 9, 3)]
    store = store_of(spans)
    stats = merge([put(store, span) for span in spans])
    rows = store.rows(stats)
    assert rows.ranges == ((4, 2), (9, 3))
    np.testing.assert_array_equal(rows.X, X[[4, 5, 9, 10, 11]])


@pytest.mark.parametrize("kind", ["float32", "csr_array"])
@pytest.mark.parametrize("y", [Y, np.ones((ROWS, 2), np.int8), np.array(["a"] * ROWS)])
def test_an_empty_shard_looks_like_the_others(kind, y):
    given, dtype = KINDS[kind], training_dtype(KINDS[kind].dtype)
    full = store_of(spans_of(ROWS), dtype, labels=True)
    stats = merge([put(full, Span(0, 0, ROWS), given, y)])
    rows = full.rows(stats)
    empty = store_of([], dtype).rows(stats)
    assert empty.X.shape == (0, FEATURES)
    assert (type(empty.X), empty.X.dtype) == (type(rows.X), rows.X.dtype)
    assert (empty.y.shape[1:], empty.y.dtype) == (rows.y.shape[1:], rows.y.dtype)
    assert empty.w.shape == (0,)
    assert empty.ranges == ()


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_no_more_than_one_part_is_held_twice(kind):
    parts, rows, features = 16, 2000, 50
    spans = spans_of(*[rows] * parts)
    X = np.ones((rows, features))
    X = X if kind == "dense" else sparse.csr_array(X)
    y = np.zeros(rows)
    tracemalloc.start()
    try:
        store = ShardStore(join_ranges(spans), features, np.float64)
        pieces = [Piece(start, n, 0, n, "") for _, start, n in spans]
        stats = merge([store.put(piece, X, y, None) for piece in pieces])
        held = store.rows(stats)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    if kind == "sparse":
        # What is sparse is joined part by part; numpy's room for it counts at once
        # here, while a system gives pages as they are written.
        room = held.X.data.nbytes + held.X.indices.nbytes + held.X.indptr.nbytes
        assert peak <= 2.2 * room
    else:
        assert peak <= held.X.nbytes * (1 + 1.5 / parts)


# ---- What is known of parts --------------------------------------------------------


def test_statistics_of_targets_and_weights():
    store = store_of(spans_of(5, 7))
    stats = merge([put(store, span) for span in spans_of(5, 7)])
    assert (stats.rows, stats.features, stats.sparse) == (ROWS, FEATURES, False)
    assert stats.weight_sum == pytest.approx(W.sum(), rel=1e-15)
    assert (stats.y_shape, stats.y_min, stats.classes) == ((), Y.min(), None)
    assert pickle.loads(pickle.dumps(stats)) == stats


def test_without_weights_each_row_weighs_one():
    store = store_of(spans_of(5, 7), weighted=False)
    stats = merge([put(store, span, w=None) for span in spans_of(5, 7)])
    assert stats.weight_sum == ROWS


LABELS = {
    "integers": np.array([3, 1, 3, 7, 1, 9]),
    "whole floats": np.array([3.0, 1, 3, -7, 1, 9]),
    "strings": np.array(["b", "a", "b", "long name", "a", "c"]),
    "objects": np.array(["b", "a", "b", "long name", "a", "c"], dtype=object),
    "booleans": np.array([True, False, True, True, False, False]),
    "a column": np.array([[3], [1], [3], [7], [1], [9]]),
    "an indicator": np.array([[1, 0], [0, 0], [1, 1], [1, 0], [0, 1], [1, 1]]),
}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("cut", [1, 3, 5])
def test_classes_are_the_union_over_the_parts(kind, cut):
    y = LABELS[kind]
    spans = spans_of(cut, 6 - cut)
    store = store_of(spans, weighted=False, labels=True)
    stats = merge([put(store, span, X, y, None) for span in spans])
    columns = y.reshape(len(y), -1).T
    for (labels, counts), column in zip(stats.labels, columns, strict=True):
        found = np.unique(column, return_counts=True)
        np.testing.assert_array_equal(labels, found[0])
        np.testing.assert_array_equal(counts, found[1])
    assert stats.y_shape == y.shape[1:]
    np.testing.assert_array_equal(store.rows(stats).y, y)


def spoiled(array, row, value):
    array = array.copy()
    array[row] = value
    return array


BIG = np.full((ROWS, FEATURES), 1e300)
TARGET = "Unknown label type: continuous"
#: What is given instead, and what is said about part 1, which holds rows 5 to 7.
WRONG = {
    "NaN in X": ({"X": spoiled(X, 6, np.nan)}, "Input X contains NaN."),
    "infinite X": ({"X": spoiled(X, 7, -np.inf)}, "Input X contains infinity"),
    "NaN in sparse X": (
        {"X": sparse.csr_array(spoiled(X, 6, np.nan))},
        "Input X contains NaN.",
    ),
    "NaN in y": ({"y": spoiled(Y, 5, np.nan)}, "Input y contains NaN."),
    "infinite y": ({"y": spoiled(Y, 5, np.inf)}, "Input y contains infinity"),
    "None in y": ({"y": spoiled(Y.astype(object), 5, None)}, "Input y contains NaN."),
    "NaN among weights": (
        {"w": spoiled(W, 5, np.nan)},
        "Input sample_weight contains NaN.",
    ),
    "complex X": ({"X": X + 1j}, "Complex data not supported"),
    "complex y": ({"y": Y + 1j}, "Complex data not supported"),
    "texts in X": ({"X": spoiled(X.astype(object), 5, "red")}, "could not convert"),
    "few columns": ({"X": X[:, :2]}, "3 rows and 2 columns here"),
    "many dimensions of X": ({"X": X[:, :, None]}, "X has 3 dimensions"),
    "many dimensions of y": ({"y": X[:, :, None]}, "y has 3 dimensions"),
    "weights of two dimensions": ({"w": X}, "sample_weight has 2 dimensions"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_said_with_the_place(what):
    change, message = WRONG[what]
    spans = spans_of(5, 3, 4)
    store = store_of(spans)
    good = put(store, spans[0])
    bad = put(store, spans[1], **{"X": X, "y": Y, "w": W, **change})
    assert good.problem == ""
    assert message in bad.problem
    assert "chunk 1: rows 5 to 7" in bad.problem
    assert merge([good, bad]).problem == bad.problem


WRONG_LABELS = {
    "real numbers": (np.linspace(0, 1, ROWS), TARGET),
    "mixed": (np.array(["a", 1] * 6, dtype=object), "Mix of label input types"),
}


@pytest.mark.parametrize("what", WRONG_LABELS)
def test_labels_must_be_labels(what):
    y, message = WRONG_LABELS[what]
    store = store_of(spans_of(ROWS), labels=True)
    assert message in put(store, Span(0, 0, ROWS), X, y).problem


def test_what_overflows_the_training_dtype_is_found():
    store = store_of(spans_of(ROWS), np.float32)
    assert "infinity" in put(store, Span(0, 0, ROWS), BIG).problem


def test_large_sums_are_no_error():
    store = store_of(spans_of(ROWS))
    assert put(store, Span(0, 0, ROWS), np.full_like(X, 1e308)).problem == ""


@pytest.mark.parametrize("length", [2, 4])
@pytest.mark.parametrize("name", ["X", "y", "w"])
def test_a_part_must_have_the_rows_that_its_collection_says(name, length):
    given = {"X": X[:3], "y": Y[:3], "w": W[:3]}
    given[name] = {"X": X, "y": Y, "w": W}[name][:length]
    piece, names = Piece(0, 2, 1, 3, ""), (None, None)
    with pytest.raises(ValueError, match="3 rows") as caught:
        cut_out(piece, FEATURES, names, *given.values())
    assert f"{length}" in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_piece_is_cut_out_of_its_part(kind):
    given = KINDS[kind]
    rows, y, w = cut_out(Piece(7, 4, 2, ROWS, ""), FEATURES, (None, None), given, Y, W)
    assert_array_equal = np.testing.assert_array_equal
    if sparse.issparse(given):
        assert_array_equal(rows.toarray(), given.toarray()[2:6])
    else:
        assert_array_equal(rows, given[2:6])
    assert_array_equal(y, Y[2:6])
    assert_array_equal(w, W[2:6])


APART = {
    "sparse and dense": (
        [PartStats(1, 2), PartStats(1, 2, sparse=True)],
        "Some chunks of X are sparse",
    ),
    "order of columns": (
        [PartStats(1, 2, columns=("a", "b")), PartStats(1, 2, columns=("b", "a"))],
        "partitions of X differ in their columns",
    ),
    "columns of y": (
        [PartStats(1, 2, y_shape=(2,)), PartStats(1, 2, y_shape=(3,))],
        "number of columns",
    ),
    "texts and numbers": (
        [
            PartStats(1, 2, labels=((np.array([1, 2]), np.ones(1)),)),
            PartStats(1, 2, labels=((np.array(["a"]), np.ones(1)),)),
        ],
        "Mix of label input types",
    ),
    "texts and numbers as objects": (
        [
            PartStats(1, 2, labels=((np.array([1, 2], dtype=object), np.ones(1)),)),
            PartStats(1, 2, labels=((np.array(["a"], dtype=object), np.ones(1)),)),
        ],
        "Mix of label input types",
    ),
}


@pytest.mark.parametrize("what", APART)
def test_sound_parts_must_go_together(what):
    parts, message = APART[what]
    assert message in merge(parts).problem


def test_the_first_problem_by_row_is_told():
    parts = [
        PartStats(1, 2),
        PartStats(1, 2, problem="a"),
        PartStats(1, 2, problem="b"),
    ]
    assert merge(parts).problem == "a"


@pytest.mark.parametrize(
    ("labels", "itemsize"),
    [
        ([0, 1, -3, 100], 1),
        ([0, 255], 2),
        ([-1, 2**20], 4),
        ([0, 2**40], 8),
        (np.array([3, 2**64 - 1], np.uint64), 8),
        ([True, False], 1),
    ],
)
def test_labels_are_kept_narrow_and_whole(labels, itemsize):
    """Each part by itself: together they are the labels that came."""
    labels = np.asarray(labels)
    store = store_of(spans_of(*[1] * len(labels)), weighted=False, labels=True)
    parts = [
        store.put(Piece(k, 1, 0, 1, ""), X[:1], labels[k : k + 1], None)
        for k in range(len(labels))
    ]
    held = store.rows(merge(parts)).y
    np.testing.assert_array_equal(held, labels)
    assert held.dtype.itemsize == itemsize
    assert held.dtype.kind == labels.dtype.kind
