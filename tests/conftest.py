"""What all tests share: a Ctrl-C that works, and a clean end."""

from __future__ import annotations

import os
import signal
import sys


def pytest_configure():
    """Heed SIGINT again, which jobs in the background (``nohup``) ignore.

    Tests send it to this process, and to children, which inherit what is ignored. Nor
    shall hundreds of children compile the same modules, where Python is told to keep no
    bytecode: it lies where numba keeps its own code.
    """
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionfinish():
    """End joblib's pool of processes, which would outlive the tests by minutes."""
    if "joblib.externals.loky" in sys.modules:
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(wait=True, kill_workers=True)
