"""Sums of small tables between processes: by messages, or where the rows lie.

A table that comes again is laid into memory that the peers of this host see, as the
arrays of a step are. Otherwise its messages would put a rank to sleep at the end of
each epoch, and to be woken has a price (`skmlp.comm.counters`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from skmlp.comm.base import Array
from skmlp.comm.counters import Watch
from skmlp.comm.mesh import Lane
from skmlp.comm.sums import check_table, sum_table

if TYPE_CHECKING:
    from skmlp.comm.sockets import SocketCommunicator

#: Tables that are remembered; a fit has one or two that come again and again.
_KEPT = 4

#: Messages to send and to receive, and peers of whom only a word is wanted.
Move = tuple[Sequence[Lane], Watch | None]


@dataclass
class _Bound:
    """How a table is summed.

    Attributes
    ----------
    table : ndarray
        Kept, so that no other one gets its identity.
    move : Move
        What moves.
    ours : ndarray of shape (2, n_shards, k), or None
        Two places for this rank's rows, by turns: who is slow may still be reading one
        while the other is written. None if no peer looks.
    theirs : list of (list of int, ndarray)
        The shards of each peer that is looked at, and its two places.
    turn : int
        The place of the next sum.
    """

    table: Array
    move: Move
    ours: Array | None = None
    theirs: list[tuple[list[int], Array]] = field(default_factory=list)
    turn: int = 0


class TableSums:
    """The sums of tables of one rank; all ranks bring the same ones in the same order.

    Parameters
    ----------
    comm : SocketCommunicator
        The way to the others.
    """

    def __init__(self, comm: SocketCommunicator) -> None:
        self._comm = comm
        self._bound: dict[int, _Bound] = {}

    def __call__(self, table: Array) -> Array:
        """Fetch the rows of the others, and sum all in shard order."""
        comm = self._comm
        check_table(table, comm.shards.n_shards)
        bound = self._bound.get(id(table))
        if bound is None:
            if len(self._bound) == _KEPT:
                del self._bound[next(iter(self._bound))]
            lanes = {peer: self._lane(table, peer) for peer in comm.links}
            bound = _Bound(table, (list(lanes.values()), None))
            self._bound[id(table)] = bound
        elif bound.ours is None and comm.shares:
            bound = self._bound[id(table)] = self._share(table)
        turn, own = bound.turn, list(comm.own_shards)
        if bound.ours is not None:
            bound.ours[turn, own] = table[own]
            bound.turn = 1 - turn
        comm.run(*bound.move)
        for shards, places in bound.theirs:
            table[shards] = places[turn, shards]
        return sum_table(table)

    def _lane(self, table: Array, peer: int) -> Lane:
        """The rows of both, as messages."""
        comm = self._comm
        ours = [table[k] for k in comm.own_shards]
        return Lane(
            comm.links[peer], ours, [table[k] for k in comm.shards.held_by(peer)]
        )

    def _share(self, table: Array) -> _Bound:
        """Lay a table where the peers of this host see it."""
        comm, shape = self._comm, (2, *table.shape)
        places = comm.share(2 * table.size, table.dtype)
        shown = comm.show([places], places.size, places.dtype, by_shard=False)
        lanes, theirs = {}, []
        for peer, link in comm.links.items():
            if peer in shown:
                lanes[peer] = Lane(link, [], [])
                seen = shown[peer][0].reshape(shape)
                theirs.append((list(comm.shards.held_by(peer)), seen))
            else:
                lanes[peer] = self._lane(table, peer)
        return _Bound(table, comm.move(lanes, shown), places.reshape(shape), theirs)
