"""How many threads BLAS may use: one limit per process, whoever asks for it.

The usual BLAS libraries have one pool of threads for the whole process, and so one
limit. Two overlapping ``threadpoolctl.threadpool_limits(1)`` in two threads leave the
process at one thread for good: the second takes the first one's limit for the original.
Here all limits of the process are counted together: the first holder records the
original numbers, the last one restores them.

While holders overlap that ask for different numbers, the smallest one holds for all.

The wheels of numpy and scipy each bring an OpenBLAS of their own, whose threads wait
for work by spinning: two pools on the same cores take each other's time. So there are
also limits for scipy's alone.

An OpenBLAS on top of OpenMP has a limit for each thread instead; there each holder
limits and restores the thread that it is in.

What other code of the process sets by itself in the meantime is not seen here.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import PurePath
from typing import Protocol

import threadpoolctl


class Library(Protocol):
    """What is used here of `threadpoolctl.LibController`."""

    def get_num_threads(self) -> int | None:
        """Return the limit in force."""
        ...

    def set_num_threads(self, num_threads: int) -> None:
        """Set the limit."""
        ...


class _Libraries:
    """The BLAS libraries that this process has loaded; finding them takes ms."""

    def __init__(self) -> None:
        self._found: list[Library] | None = None
        self._with_scipy = False

    def __call__(self) -> Sequence[Library]:
        # The wheels of scipy bring a second BLAS, which may come after the first look.
        with_scipy = "scipy.linalg" in sys.modules
        if self._found is None or with_scipy != self._with_scipy:
            controller = threadpoolctl.ThreadpoolController().select(user_api="blas")
            self._found = controller.lib_controllers
            self._with_scipy = with_scipy
        return self._found


class Guard:
    """The limits of a process, counted over all holders. `blas_limit` uses the one.

    Parameters
    ----------
    libraries : callable
        Returns the libraries to limit.
    """

    def __init__(self, libraries: _Libraries) -> None:
        self._libraries = libraries
        self._lock = threading.Lock()
        #: What the holders of the moment ask for, and whether of scipy's BLAS alone.
        self._asked: list[tuple[int, bool]] = []
        #: The process-wide libraries that are limited, with their original numbers.
        self._before: list[tuple[Library, int]] = []

    def acquire(
        self, n_threads: int, of_scipy: bool = False
    ) -> list[tuple[Library, int]]:
        """Limit to `n_threads`; returns what `release` needs."""
        with self._lock:
            libraries = self._libraries()
            known = [id(library) for library, _ in self._before]
            for library in libraries:
                if not _per_thread(library) and id(library) not in known:
                    self._before.append((library, library.get_num_threads() or 1))
            asked = list(self._asked)
            try:
                self._asked.append((n_threads, of_scipy))
                self._apply()
            except BaseException:  # Ctrl-C falls anywhere
                self._asked = asked
                self._apply()
                raise
            own = [
                (library, library.get_num_threads() or 1)
                for library in libraries
                if _per_thread(library) and (_of_scipy(library) or not of_scipy)
            ]
            for library, _ in own:
                library.set_num_threads(n_threads)
        return own

    def release(
        self, n_threads: int, own: list[tuple[Library, int]], of_scipy: bool = False
    ) -> None:
        """End what `acquire` began."""
        with self._lock:
            for library, number in own:
                library.set_num_threads(number)
            self._asked.remove((n_threads, of_scipy))
            self._apply()
            if not self._asked:
                self._before = []

    def now(self) -> int | None:
        """Return the largest limit in force for this thread; None without a BLAS."""
        with self._lock:
            numbers = [library.get_num_threads() for library in self._libraries()]
        return max((n for n in numbers if n is not None), default=None)

    def allowed(self) -> int | None:
        """Return what `now` would say if there were no holders."""
        with self._lock:
            before = {id(library): number for library, number in self._before}
            numbers = [
                before.get(id(library)) or library.get_num_threads()
                for library in self._libraries()
            ]
        return max((n for n in numbers if n is not None), default=None)

    def scipy_has_its_own(self) -> bool:
        """Whether scipy's BLAS is another library than numpy's."""
        with self._lock:
            return any(map(_of_scipy, self._libraries()))

    def forget(self) -> None:
        """Begin anew in a forked child, where the parent's holders are not."""
        self._lock = threading.Lock()
        self._asked = []
        self._apply()
        self._before = []

    def _apply(self) -> None:
        """Set what the holders ask for, or the original numbers if there are none."""
        for library, number in self._before:
            # From 3.7 on, threadpoolctl lets only the first thread that has set a limit
            # set it again, and ignores the others without a word.
            clear = getattr(library, "clear_controlling_thread", None)
            if clear is not None:
                clear(force=True)
            asked = (
                n for n, of_scipy in self._asked if _of_scipy(library) or not of_scipy
            )
            library.set_num_threads(min(asked, default=number))
            if clear is not None:
                clear(force=True)


def _per_thread(library: Library) -> bool:
    """Whether the library's limit is the calling thread's alone."""
    return getattr(library, "threading_layer", None) == "openmp" and (
        getattr(library, "internal_api", None) == "openblas"
    )


def _of_scipy(library: Library) -> bool:
    """Whether the library came with scipy's wheel, for scipy alone."""
    folders = PurePath(getattr(library, "filepath", "")).parts[:-1]
    return folders[-1:] == ("scipy.libs",) or folders[-2:] == ("scipy", ".dylibs")


_GUARD = Guard(_Libraries())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_GUARD.forget)
_NO_LIMIT = nullcontext()


class _Limit:
    """A limit that can be entered once at a time."""

    def __init__(self, n_threads: int, of_scipy: bool) -> None:
        self._n_threads, self._of_scipy = n_threads, of_scipy
        self._own: list[tuple[Library, int]] = []

    def __enter__(self) -> None:
        self._own = _GUARD.acquire(self._n_threads, self._of_scipy)

    def __exit__(self, *exc_info: object) -> None:
        _GUARD.release(self._n_threads, self._own, self._of_scipy)


def blas_limit(
    n_threads: int | None, *, of_scipy: bool = False
) -> AbstractContextManager[None]:
    """Limit the BLAS threads of this process for a while.

    Limits may be nested, and may overlap in several threads: the smallest number asked
    for holds meanwhile, and the original one comes back with the end of the last.

    Parameters
    ----------
    n_threads : int or None
        The number of threads, at least 1; None leaves all as it is, at no cost.
    of_scipy : bool
        Only of the BLAS that came with scipy's wheel, if it has one of its own.

    Raises
    ------
    ValueError
        `n_threads` is below 1.

    Examples
    --------
    >>> with blas_limit(1):
    ...     blas_threads_now()
    1
    """
    if n_threads is None:
        return _NO_LIMIT
    if n_threads < 1:
        raise ValueError(f"BLAS needs at least one thread, not {n_threads}")
    return _Limit(n_threads, of_scipy)


def products_limit() -> AbstractContextManager[None]:
    """Limit to one thread the BLAS that compiled steps call: that of scipy.

    Where scipy has none of its own, it is numpy's, too.
    """
    return _Limit(1, _GUARD.scipy_has_its_own())


def blas_threads_now() -> int | None:
    """Say how many threads BLAS may use now in this thread; None if unknown."""
    return _GUARD.now()


def blas_threads_allowed() -> int | None:
    """Say how many threads BLAS may use but for our own limits; None if unknown.

    So it does not depend on other fits of the moment.
    """
    return _GUARD.allowed()
