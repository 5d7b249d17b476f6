"""Peak memory of this process."""

from __future__ import annotations

import resource
from pathlib import Path

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")

#: Environment of a process that gives freed memory back at once. Otherwise glibc keeps
#: what an earlier call has freed, and the next one seems to need none.
EXACT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def _status(key: str) -> int:
    """A line of /proc/self/status, in bytes."""
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"{_STATUS} has no {key}")


class Peak:
    """How far the process grows in a ``with`` block.

    Linux can set its mark back, so that what was there before does not hide anything.
    Where that is not allowed, the mark of the whole life of the process is taken.

    Attributes
    ----------
    grown : int
        Bytes at the peak beyond the beginning.
    highest : int
        Bytes at the peak.
    """

    def __enter__(self) -> Peak:
        try:
            _RESET.write_text("5", encoding="ascii")  # man 5 proc: resets VmHWM
            self._reset = True
        except OSError:
            self._reset = False
        self._before = _status("VmRSS")
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._reset:
            self.highest = _status("VmHWM")
        else:
            self.highest = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self.grown = self.highest - self._before
