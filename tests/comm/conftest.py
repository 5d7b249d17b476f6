"""Listeners and threads that end with the test."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from skmlp.comm.sockets import Listener
from tests.comm.gangs import HOST


@pytest.fixture
def listeners():
    with contextlib.ExitStack() as stack:
        made = [Listener(HOST) for _ in range(3)]
        for listener in made:
            stack.callback(listener.close)
        yield made


@pytest.fixture
def pool():
    with ThreadPoolExecutor(3) as pool:
        yield pool
