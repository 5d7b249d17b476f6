"""The state of a Mersenne twister as a value.

NumPy hands the state out, and takes it in, word by word through Python objects: 40 us
each time, and 90 us for a new `RandomState`, as much as an epoch of a small fit. So the
state is copied as it lies in memory, at the address that bit generators tell for use by
`ctypes`. How it lies there is no promise of NumPy's: it is tried out once in each
process, and where it is otherwise, the state goes the slow way.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import threading

import numpy as np

#: The words, and where among them the next draw begins.
State = tuple[bytes, int]

_WORDS = 624 * 4
_POSITION = ctypes.sizeof(ctypes.c_int)


def twister_state(rng: np.random.RandomState) -> State:
    """The part of a Mersenne twister's state that shuffling advances."""
    return _read(rng) if _lies_as_expected() else _ask(rng)


def set_twister_state(rng: np.random.RandomState, state: State) -> None:
    """Put `rng` where `twister_state` found another; its Gaussian cache stays."""
    (_write if _lies_as_expected() else _tell)(rng, state)


def twister_at(state: State) -> np.random.RandomState:
    """The thread's own twister, put at `state`: for draws before the next call."""
    rng = _of_this_thread()
    set_twister_state(rng, state)
    return rng


def seeded_twister(seed: int) -> np.random.RandomState:
    """The thread's own twister, as ``RandomState(seed)``; see `twister_at`."""
    rng = _of_this_thread()
    rng.seed(seed)
    return rng


_thread = threading.local()


def _of_this_thread() -> np.random.RandomState:
    rng: np.random.RandomState | None = getattr(_thread, "rng", None)
    if rng is None:
        rng = _thread.rng = np.random.RandomState(0)
    return rng


def _ask(rng: np.random.RandomState) -> State:
    inner = rng.get_state(legacy=False)["state"]
    return np.asarray(inner["key"], dtype=np.uint32).tobytes(), int(inner["pos"])


def _tell(rng: np.random.RandomState, state: State) -> None:
    whole = rng.get_state(legacy=False)
    words = np.frombuffer(state[0], dtype=np.uint32)
    whole["state"] = {"key": words, "pos": state[1]}
    rng.set_state(whole)


def _read(rng: np.random.RandomState) -> State:
    generator = rng._bit_generator
    with generator.lock:
        raw = ctypes.string_at(generator.ctypes.state_address, _WORDS + _POSITION)
    return raw[:_WORDS], int.from_bytes(raw[_WORDS:], sys.byteorder)


def _write(rng: np.random.RandomState, state: State) -> None:
    raw = state[0] + state[1].to_bytes(_POSITION, sys.byteorder)
    generator = rng._bit_generator
    with generator.lock:
        ctypes.memmove(generator.ctypes.state_address, raw, _WORDS + _POSITION)


@functools.cache
def _lies_as_expected() -> bool:
    """Whether the words come first in memory, and the position after them."""
    one, other = np.random.RandomState(1), np.random.RandomState(2)
    one.random_sample(5)
    expected = _ask(one)
    if _read(one) != expected:
        return False
    _write(other, expected)
    return _ask(other) == expected
