"""How kernels are compiled: without the GIL, with numba's cache on disk if it has one.

Reassociation lets the compiler add in vectors. "No NaNs" and "no infinities" are never
promised to it: a fit that diverges must show.
"""

# mypy: disable-error-code="misc, no-untyped-call, untyped-decorator"

from __future__ import annotations

import gc
import pickle
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any
from uuid import uuid4

from numba import njit
from numba.core.caching import FunctionCache
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import register_jitable

try:
    import fcntl
except ImportError:  # Windows: each process compiles for itself
    fcntl = None  # type: ignore[assignment]  # a module elsewhere

#: Seconds to wait for another process that compiles the same kernel.
OTHERS_LIMIT_S = 60.0
#: Seconds between two looks at whether it is done.
OTHERS_LOOK_S = 0.02

_warned = False


def _do_without(error: Exception) -> None:
    """Warn, once in a process, that kernels are compiled anew."""
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            "numba has no folder for its cache of compiled code, or can't use it "
            f"({type(error).__name__}: {error}): each process compiles the kernels of "
            "skmlp anew, which takes seconds. Set the environment variable "
            "NUMBA_CACHE_DIR to a folder that this user may read and write",
            RuntimeWarning,
            stacklevel=2,
        )


class _Cache(FunctionCache):
    """A cache that is left alone once it has failed, as on a full disk.

    Of processes that need the same code at once, one compiles it and the others load
    it: sixteen Dask workers on two cores began their first fit after 66 s, each with a
    compiler of its own.

    Each piece of compiled code has a file name of its own. numba numbers them: two
    processes that save the code of two dtypes at once would write to the same file, and
    one would then load the other's code.
    """

    #: Locked by this process from before it compiles the kernel until that is saved.
    _lock: IO[bytes] | None = None

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Load compiled code; None if this process has to compile it."""
        found = self._load(sig, target_context)
        if found is None and fcntl is not None and self._enabled:
            self._begin_to_compile()
            found = self._load(sig, target_context)
        return found

    def _begin_to_compile(self) -> None:
        """Lock the kernel, once no other process has it locked.

        Without the lock, where files can't be locked or the other process takes too
        long, both compile.
        """
        with suppress(OSError):
            self._lock = open(f"{self._cache_file._index_path}.lock", "ab")  # noqa: SIM115  # stays open
            until = time.monotonic() + OTHERS_LIMIT_S
            while time.monotonic() < until:
                try:
                    fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    time.sleep(OTHERS_LOOK_S)
                else:
                    break

    def end_to_compile(self) -> None:
        """Let other processes load the code, or compile it if that failed here."""
        if self._lock is not None:
            with suppress(OSError):
                # Closing alone does not unlock what a forked child has open, too.
                fcntl.flock(self._lock, fcntl.LOCK_UN)
            self._lock.close()
            self._lock = None

    def _load(self, sig: Any, target_context: Any) -> Any:
        """Load compiled code; None if there is none that can be read."""
        try:
            return super().load_overload(sig, target_context)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            self.disable()
            return _do_without(error)

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep compiled code, if that can be done."""
        base = self._impl.filename_base
        self._cache_file._data_name_pattern = f"{base}.{{number:d}}.{uuid4().hex}.nbc"
        try:
            super().save_overload(sig, data)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            self.disable()
            _do_without(error)


def cached_njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit` of a kernel: without the GIL, with the cache if there is one.

    ``cache=True`` raises where numba finds no folder that it may write to.
    """

    def compiled(function: Callable[..., Any]) -> Any:
        dispatcher = njit(nogil=True, error_model="numpy", **options)(function)
        try:
            cache = _Cache(function)
        except (RuntimeError, OSError) as error:
            _do_without(error)
            return dispatcher
        compile_or_load = dispatcher.compile

        def compile_once(signature: Any) -> Any:
            with global_compiler_lock:
                try:
                    return compile_or_load(signature)
                finally:
                    cache.end_to_compile()

        dispatcher._cache, dispatcher.compile = cache, compile_once
        return dispatcher

    return compiled


@contextmanager
def while_compiling() -> Iterator[None]:
    """Collect no garbage: numba makes millions of objects, which live until it is done.

    A fifth of the time to compile a fit's kernels.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def named(function: Callable[..., Any], of: Callable[..., Any], more: str = "") -> Any:
    """Name a function that was made of another one, for files of its own in the cache.

    Processes that write to the same file at the same time load each other's code. And
    the linker finds code by its name: of two functions of one name that two processes
    have compiled, a third one, which loads both, may call one for the other.
    """
    function.__qualname__ = f"{function.__name__}_of{of.__name__}{more}"
    return function


#: A kernel that Python calls.
compiled = cached_njit(fastmath={"reassoc", "contract", "nsz"})

#: The same for one that only compiled code calls, by its address.
by_address = cached_njit(
    fastmath={"reassoc", "contract", "nsz"}, no_cpython_wrapper=True
)

#: And for one that only Python calls.
entry = cached_njit(fastmath={"reassoc", "contract", "nsz"}, no_cfunc_wrapper=True)

#: A kernel without reassociation, by which ``b * v + (1 - b) * g`` becomes
#: ``g + b * (v - g)``: NaN instead of infinity. Only sums need it.
elementwise = cached_njit(fastmath={"contract", "nsz"})

#: A function that only kernels call: without the wrapper for Python it takes a third
#: less time to compile.
inner: Any = register_jitable(
    no_cfunc_wrapper=True,
    forceinline=True,  # a loop that calls a function is not vectorised
    error_model="numpy",
    fastmath={"reassoc", "contract", "nsz"},
)
