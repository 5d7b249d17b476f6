"""The laws of all communicators, over all ways to spread shards on ranks."""

from __future__ import annotations

import itertools
import socket
import struct
import sys

import numpy as np
import pytest

from skmlp.comm import mesh
from skmlp.comm.base import Aborted
from skmlp.comm.halving_sockets import HalvingCommunicator
from skmlp.comm.ordered_sum import MOST_IN_A_ROW
from tests.comm import laws
from tests.comm.gangs import gang, good, make_contexts, run

LAYOUTS = [(0,), (0, 1), (0, 1, 2), (0, 1, 0), (0, 0, 1), (1, 0), (0, 1, 1, 0, 2)]
#: Of the other kind: a power of two, a bit less, a bit more; shards that have moved.
HALVING = [
    *((0, 1), (0, 1, 2), (0, 1, 0), (0, 1, 2, 3), (0, 1, 2, 3, 4), (1, 0, 2, 1, 2, 0)),
    *((6, 5, 4, 3, 2, 1, 0), (0, 1, 1, 1, 2, 3, 1, 4, 2)),
]
CASES = [
    *itertools.product(["solo"], [(0,), (0, 0), (0, 0, 0, 0, 0), (0,) * 17, (0,) * 32]),
    *itertools.product(["sockets"], LAYOUTS),
    *itertools.product(["tls"], [(0, 1), (0, 1, 1, 0, 2)]),
    *itertools.product(["halving"], HALVING),
    ("halving, tls", (0, 1, 2)),
]
MANY = [case for case in CASES if case[0] != "solo"]
SIZES = [1, 2, 3, 5, 97, 10_007]
MEGABYTES_4 = {np.float32: 1_000_003, np.float64: 500_003}


@pytest.fixture(scope="module")
def contexts(tmp_path_factory):
    return make_contexts(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def comms(request, contexts):
    kind, holders = request.param
    with gang(kind, holders, contexts if "tls" in kind else None) as comms:
        yield comms


def case_id(value):
    return f"{value[0]}-{''.join(map(str, value[1]))}"


def sum_of(comms, dtype, size, step):
    """The sum of all parts, in the order of these communicators."""
    n = comms[0].shards.n_shards
    is_tree = isinstance(comms[0], HalvingCommunicator) or n > MOST_IN_A_ROW
    return laws.sum_of(dtype, size, step, n, is_tree)


all_cases = pytest.mark.parametrize("comms", CASES, ids=case_id, indirect=True)


def test_the_order_of_a_sum_shows_in_these_data():
    parts = [laws.part(np.float64, 97, 0, k) for k in range(3)]
    forth = parts[0] + parts[1] + parts[2]
    assert (forth != parts[2] + parts[1] + parts[0]).any()


@all_cases
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_bytes", ["small", "4 MB"])
def test_steps_sum_the_parts_in_shard_order_and_gather_the_segments(
    comms, dtype, n_bytes
):
    sizes = SIZES if n_bytes == "small" else [MEGABYTES_4[dtype]]
    n_steps = laws.N_STEPS if n_bytes == "small" else 2
    for size in sizes:
        expected = [sum_of(comms, dtype, size, step) for step in range(n_steps)]
        ranks = good(run(comms, lambda c, n=size: laws.steps(c, dtype, n, n_steps)))
        for got in ranks:
            assert [a.tobytes() for a in got] == [a.tobytes() for a in expected]


@all_cases
def test_fifty_steps_with_changing_data(comms):
    def rank(comm):
        return [*laws.steps(comm, np.float32, 131, 50), *laws.row_sums(comm, 5, 20)]

    wants = [
        *(sum_of(comms, np.float32, 131, step) for step in range(50)),
        *(sum_of(comms, np.float64, 5, call) for call in range(20)),
    ]
    for want, *results in zip(wants, *good(run(comms, rank)), strict=True):
        assert [a.tobytes() for a in results] == [want.tobytes()] * len(comms)


@all_cases
def test_the_ranks_segments_cover_the_flat_array_once(comms):
    for size in SIZES:
        ranks = good(run(comms, lambda c, n=size: laws.segments(c, n)))
        covered = [i for own in ranks for s in own for i in range(s.start, s.stop)]
        assert sorted(covered) == list(range(size))


@all_cases
def test_two_exchanges_do_not_disturb_each_other(comms):
    def interleave(comm):
        flats = [np.zeros(11), np.zeros(11)]
        parts = [[np.ones(11) for _ in comm.own_shards] for _ in flats]
        one, two = map(comm.exchange, parts, flats)
        for exchange, factor in ((one, 1.0), (two, 10.0)):
            exchange.reduce_scatter()
            for s, total in zip(exchange.segments, exchange.totals, strict=True):
                flats[exchange is two][s] = factor * total
            exchange.all_gather()
        two.all_gather()
        one.all_gather()
        return [flat.tolist() for flat in flats]

    n = float(comms[0].shards.n_shards)
    for flats in good(run(comms, interleave)):
        assert flats == [[n] * 11, [10 * n] * 11]


@all_cases
@pytest.mark.parametrize("width", [1, 5])
def test_all_reduce_sums_in_shard_order(comms, width):
    for sums in good(run(comms, lambda c: laws.row_sums(c, width, 10))):
        for call, got in enumerate(sums):
            want = sum_of(comms, np.float64, width, call)
            assert got.tobytes() == want.tobytes()


@all_cases
def test_a_sum_of_rows_is_a_new_array(comms):
    def twice(comm):
        table = np.ones((comm.shards.n_shards, 2))
        first = comm.all_reduce(table)
        first += 1
        return comm.all_reduce(table).tolist()

    n = float(comms[0].shards.n_shards)
    assert good(run(comms, twice)) == [[n, n]] * len(comms)


@all_cases
@pytest.mark.parametrize(
    ("parts", "flat", "match"),
    [
        ([], np.zeros(3), "parts"),
        ([np.zeros(3)], np.zeros(4), "alike"),
        ([np.zeros(3, np.float32)], np.zeros(3), "alike"),
        ([np.zeros((3, 1))], np.zeros(3), "flat"),
        ([np.zeros(6)[::2]], np.zeros(3), "flat"),
    ],
)
def test_unfit_buffers_are_refused(comms, parts, flat, match):
    comm = comms[0]
    with pytest.raises(ValueError, match=match):
        comm.exchange(parts * len(comm.own_shards), flat)
    with pytest.raises(ValueError, match="table"):
        comm.all_reduce(np.zeros((99, 1)))


@pytest.mark.parametrize("comms", MANY, ids=case_id, indirect=True)
def test_after_an_abort_every_verb_raises_with_the_reason(comms):
    def bind(comm):
        return comm.exchange([np.zeros(3) for _ in comm.own_shards], np.zeros(3))

    exchanges = good(run(comms, bind))
    for comm in comms:
        comm.abort("the user has had enough")
    for comm, exchange in zip(comms, exchanges, strict=True):
        table = np.zeros((comm.shards.n_shards, 1))
        for verb in (
            exchange.reduce_scatter,
            exchange.all_gather,
            lambda c=comm, t=table: c.all_reduce(t),
        ):
            with pytest.raises(Aborted, match="the user has had enough"):
                verb()


@all_cases
def test_a_second_close_does_nothing(comms):
    for comm in comms * 2:
        comm.close()


@pytest.mark.parametrize("holders", [(0, 1), (0, 1, 0), (0, 1, 1, 0, 2)])
def test_steps_where_the_system_has_no_poll(holders, monkeypatch):
    monkeypatch.setattr(mesh, "wait", mesh._wait_by_select)
    with gang("sockets", holders) as comms:
        ranks = good(run(comms, lambda c: laws.steps(c, np.float32, 1_000_003, 2)))
    for step in range(2):
        want = laws.sum_of(np.float32, 1_000_003, step, len(holders))
        assert all(history[step].tobytes() == want.tobytes() for history in ranks)


def received(comms):
    """Bytes that have come in over all connections, as the system has counted them."""
    total = 0
    for comm in comms:
        for connection in comm._mesh.connections.values():
            info = connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
            total += struct.unpack_from("Q", info, 128)[0]
    return total


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts them")
@pytest.mark.parametrize(
    ("comms", "n_messages"),
    [
        (("sockets", (0, 1)), 4),
        (("sockets", (0, 1, 2)), 12),
        (("halving", (0, 1, 2, 3)), 16),
        # Where a node is a ghost, its messages are those of the rank that plays it.
        (("halving", (0, 1, 2)), 12),
        (("halving", tuple(range(8))), 48),
    ],
    ids=str,
    indirect=["comms"],
)
def test_a_step_sends_each_weight_twice_to_all_but_one(comms, n_messages):
    size, n_steps = 10_007, 3
    before = received(comms)
    good(run(comms, lambda c: laws.steps(c, np.float32, size, n_steps)))
    step = (received(comms) - before) / n_steps
    n_bytes = np.dtype(np.float32).itemsize * size
    assert step == 2 * n_bytes * (len(comms) - 1) + 16 * n_messages
