"""Why worker processes died: by a signal from outside, or for want of memory."""

from __future__ import annotations

import re
import signal
from pathlib import Path

#: Signals that a process gets for a fault of its own.
_OWN_FAULTS = {
    getattr(signal, name, None)
    for name in ("SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS")
}

#: Where Linux counts the processes that it has killed for want of memory.
VMSTAT = Path("/proc/vmstat")


def from_outside(error: BaseException | None) -> bool:
    """Whether processes died by signals that others sent, by loky's exception.

    Its text lists the exit codes of the dead, as in "SIGKILL(-9)".
    """
    codes = [int(code) for code in re.findall(r"\((-?\d+)\)", str(error))]
    return bool(codes) and all(c < 0 and -c not in _OWN_FAULTS for c in codes)


def killed_for_memory() -> int:
    """How many processes Linux has killed for want of memory so far; 0 elsewhere."""
    try:
        found = re.search(r"^oom_kill (\d+)$", VMSTAT.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0
