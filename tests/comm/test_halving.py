"""The schedule of many ranks, without numbers: who talks to whom, and the sums."""

from __future__ import annotations

import math
import random

import pytest

from skmlp.comm.base import Shards
from skmlp.comm.halving import Halving
from skmlp.comm.ordered_sum import additions, row_additions, tree_additions

RANDOM = random.Random(0)


def moved(n_shards, n_ranks):
    """Shards of which some have moved to other ranks."""
    holders = [*range(n_ranks), *RANDOM.choices(range(n_ranks), k=n_shards - n_ranks)]
    RANDOM.shuffle(holders)
    return tuple(holders)


LAYOUTS = [
    *(tuple(range(n)) for n in (2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 64)),
    *(moved(n, m) for n, m in [(3, 2), (8, 5), (17, 16), (33, 20), (40, 3), (64, 63)]),
]


def shape(holders):
    return f"{len(holders)} shards on {max(holders) + 1}"


all_layouts = pytest.mark.parametrize("holders", LAYOUTS, ids=shape)


def expressions(n_shards, order):
    """What additions come to, as nested pairs of the numbers of shards."""
    sums = list(range(n_shards))
    for k, other in order:
        sums[k] = (sums[k], sums[other])
    return sums[0]


@all_layouts
def test_what_one_rank_sends_the_other_one_expects(holders):
    halving = Halving(Shards(holders))
    ranks = range(halving.shards.n_ranks)
    for stages_of in (halving.reduce_stages, halving.gather_stages):
        stages = [stages_of(rank) for rank in ranks]
        for together in zip(*stages, strict=True):
            sent = {(r, o): p for r in ranks for o, p in together[r].outgoing.items()}
            got = {(o, r): p for r in ranks for o, p in together[r].incoming.items()}
            assert sent == got


@all_layouts
def test_each_segment_becomes_the_tree_of_all_shards(holders):
    halving = Halving(Shards(holders))
    n_shards = halving.shards.n_shards
    nodes = range(2 * halving.distances[0])
    sums = {node: halving.shard_of(node) for node in nodes}
    shown = {node: halving.block(node, 2 * halving.distances[0]) for node in nodes}
    for distance in halving.distances:
        for node in nodes:
            # A node goes on with a part of what it had.
            first, last = halving.block(node, distance)
            assert (shown[node][0] <= first and last <= shown[node][1]) or first >= last
            shown[node] = first, last
        sums = {
            node: (sums[min(node, node ^ distance)], sums[max(node, node ^ distance)])
            if halving.has_sum(node, distance)
            and halving.has_sum(node ^ distance, distance)
            else sums[node]
            for node in nodes
        }
    want = expressions(n_shards, tree_additions(n_shards))
    assert [sums[k] for k in range(n_shards)] == [want] * n_shards
    assert [shown[k] for k in range(n_shards)] == [(k, k + 1) for k in range(n_shards)]


@all_layouts
def test_all_segments_come_to_all_ranks_once(holders):
    halving = Halving(Shards(holders))
    ranks = range(halving.shards.n_ranks)
    known = {rank: set(halving.shards.held_by(rank)) for rank in ranks}
    for together in zip(*map(halving.gather_stages, ranks), strict=True):
        before = {rank: set(own) for rank, own in known.items()}
        for rank in ranks:
            for other, pieces in together[rank].incoming.items():
                for piece in pieces:
                    shards = set(range(piece.first, piece.last))
                    assert shards <= before[other]
                    assert not shards & known[rank]
                    known[rank] |= shards
    assert all(own == set(range(len(holders))) for own in known.values())


@pytest.mark.parametrize("n", [17, 31, 32, 33, 100, 1000, 1024, 10_000])
def test_partners_and_stages_grow_with_the_logarithm(n):
    halving = Halving(Shards(tuple(range(n))))
    bits = math.ceil(math.log2(n))
    assert len(halving.distances) == bits
    ranks = range(n) if n <= 1024 else RANDOM.sample(range(n), 200)
    counts = [len(halving.partners(rank)) for rank in ranks]
    assert max(counts) <= 2 * bits
    assert n & (n - 1) or set(counts) == {bits}


def test_few_shards_are_a_row_and_many_a_tree():
    assert additions(16) == row_additions(16)
    assert additions(17) == tree_additions(17)
    assert expressions(3, row_additions(3)) == ((0, 1), 2)
    assert expressions(4, tree_additions(4)) == ((0, 2), (1, 3))
    assert expressions(3, tree_additions(3)) == ((0, 2), 1)
