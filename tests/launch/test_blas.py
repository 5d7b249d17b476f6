"""The limit of BLAS threads, whoever holds it and in whatever order they let go."""

from __future__ import annotations

import itertools
import sys
import threading
from pathlib import PurePath

import numpy as np
import pytest
import threadpoolctl
from scipy import optimize

from skmlp import MLPRegressor, threads
from skmlp.threads import Guard, blas_limit, blas_threads_now
from tests.limits import HANG_S


class Library:
    """A BLAS with one limit for the process, which one thread may control."""

    def __init__(self, number: int, filepath: str = "") -> None:
        self.number, self.filepath = number, filepath
        self._controller: threading.Thread | None = None

    def get_num_threads(self) -> int:
        return self.number

    def set_num_threads(self, number: int) -> None:
        me = threading.current_thread()
        self._controller = self._controller or me
        if self._controller is me:
            self.number = number

    def clear_controlling_thread(self, force: bool = False) -> None:
        if force or self._controller is threading.current_thread():
            self._controller = None


class OfEachThread:
    """A BLAS with a limit for each thread."""

    internal_api = "openblas"
    threading_layer = "openmp"

    def __init__(self, number: int) -> None:
        self._original = number
        self._local = threading.local()

    def get_num_threads(self) -> int:
        return getattr(self._local, "number", self._original)

    def set_num_threads(self, number: int) -> None:
        self._local.number = number


class Holder:
    """A limit that is held in a thread of its own."""

    def __init__(self, n_threads: int) -> None:
        self._held, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(n_threads,))
        self._thread.start()
        assert self._held.wait(HANG_S)

    def _run(self, n_threads: int) -> None:
        with blas_limit(n_threads):
            self._held.set()
            self._end.wait(HANG_S)

    def release(self) -> None:
        self._end.set()
        self._thread.join(HANG_S)


@pytest.fixture
def libraries(monkeypatch):
    found = [Library(8), Library(6)]
    monkeypatch.setattr(threads, "_GUARD", Guard(lambda: found))
    return found


ORDERS = [
    (asked, order)
    for asked in [(1, 1), (1, 4), (4, 1), (2, 1, 3), (1, 1, 2)]
    for order in itertools.permutations(range(len(asked)))
]


@pytest.mark.parametrize(("asked", "order"), ORDERS)
def test_the_smallest_limit_holds_until_the_last_one_ends(libraries, asked, order):
    holders: list[Holder | None] = []
    for k, n_threads in enumerate(asked):
        holders.append(Holder(n_threads))
        assert [x.number for x in libraries] == [min(asked[: k + 1])] * 2
    for k in order:
        holders[k].release()
        holders[k] = None
        left = [n for n, h in zip(asked, holders, strict=True) if h is not None]
        expected = [min(left)] * 2 if left else [8, 6]
        assert [x.number for x in libraries] == expected


@pytest.mark.parametrize(
    "filepath",
    [
        "/venv/site-packages/scipy.libs/libscipy_openblas-6cdc3b4a.so",
        "/venv/site-packages/scipy/.dylibs/libscipy_openblas.dylib",
    ],
)
def test_a_limit_of_the_blas_of_scipy_leaves_that_of_numpy(monkeypatch, filepath):
    of_numpy = "/home/scipy/site-packages/numpy.libs/libscipy_openblas64_-32a4b2a6.so"
    found = [Library(8, of_numpy), Library(6, filepath), Library(4, "/lib/libblas.so")]
    monkeypatch.setattr(threads, "_GUARD", Guard(lambda: found))

    def numbers():
        return [library.number for library in found]

    with blas_limit(1, of_scipy=True):
        assert numbers() == [8, 1, 4]
        with blas_limit(2):
            assert numbers() == [2, 1, 2]
            with blas_limit(1):
                assert numbers() == [1, 1, 1]
        assert numbers() == [8, 1, 4]
    with blas_limit(3), blas_limit(2, of_scipy=True):
        assert numbers() == [3, 2, 3]
    assert numbers() == [8, 6, 4]


def test_while_scipy_minimizes_its_blas_has_one_thread(monkeypatch):
    """That of numpy, with which the loss is evaluated, keeps its threads."""
    seen: list[list[tuple[str, int]]] = []
    minimize = optimize.minimize

    def threads():
        found = threadpoolctl.threadpool_info()
        return [
            (PurePath(library["filepath"]).parent.name, library["num_threads"])
            for library in found
            if library["user_api"] == "blas"
        ]

    def minimizing(*arguments, **keywords):
        seen.append(threads())
        return minimize(*arguments, **keywords)

    monkeypatch.setattr(optimize, "minimize", minimizing)
    X = np.arange(12.0).reshape(6, 2)
    before = threads()
    MLPRegressor(solver="lbfgs", max_iter=2).fit(X, X[:, 0])
    assert seen == [[(name, 1 if name == "scipy.libs" else n) for name, n in before]]
    assert threads() == before


def test_limits_nest(libraries):
    limit = blas_limit(2)
    with limit:
        with blas_limit(1):
            assert blas_threads_now() == 1
        assert blas_threads_now() == 2
        with pytest.raises(KeyError), blas_limit(1):
            raise KeyError
        assert blas_threads_now() == 2
    assert blas_threads_now() == 8


def test_a_library_that_comes_later_is_limited_and_restored(libraries):
    with blas_limit(2):
        late = Library(5)
        libraries.append(late)
        assert late.number == 5
        with blas_limit(3):
            assert late.number == 2
        assert late.number == 2
    assert late.number == 5


def test_a_limit_of_each_thread_is_set_and_restored_where_it_is_asked_for(libraries):
    libraries[:] = [OfEachThread(8)]
    seen = []

    def rank():
        seen.append(blas_threads_now())
        with blas_limit(2):
            seen.append(blas_threads_now())
        seen.append(blas_threads_now())

    with blas_limit(1):
        assert blas_threads_now() == 1
        thread = threading.Thread(target=rank)
        thread.start()
        thread.join(HANG_S)
        assert blas_threads_now() == 1
    assert blas_threads_now() == 8
    assert seen == [8, 2, 8]


def test_no_limit_costs_nothing(libraries):
    assert blas_limit(None) is blas_limit(None)
    with blas_limit(None), blas_limit(None):
        assert blas_threads_now() == 8


@pytest.mark.parametrize("n_threads", [0, -1])
def test_no_thread_at_all_is_an_error(n_threads):
    with pytest.raises(ValueError, match="at least one thread"):
        blas_limit(n_threads)


def test_without_a_known_library_there_is_nothing_to_limit(libraries):
    libraries.clear()
    with blas_limit(1):
        assert blas_threads_now() is None


def test_the_libraries_of_this_process_are_limited_from_any_thread():
    before = blas_threads_now()
    if before is None:
        pytest.skip("threadpoolctl knows no BLAS library here")
    first, second = Holder(1), Holder(1)
    assert blas_threads_now() == 1
    first.release()
    assert blas_threads_now() == 1
    second.release()
    assert blas_threads_now() == before


def test_libraries_are_looked_for_again_once_scipy_brings_its_own(monkeypatch):
    looks = []

    class Controller:
        lib_controllers: tuple[()] = ()

        def select(self, user_api):
            looks.append(user_api)
            return self

    monkeypatch.setattr(threads.threadpoolctl, "ThreadpoolController", Controller)
    monkeypatch.delitem(sys.modules, "scipy.linalg", raising=False)
    find = threads._Libraries()
    find(), find()
    assert looks == ["blas"]
    monkeypatch.setitem(sys.modules, "scipy.linalg", object())
    find(), find()
    assert looks == ["blas"] * 2
