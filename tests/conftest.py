"""What all tests share: nothing but a clean end."""

from __future__ import annotations

import sys


def pytest_sessionfinish():
    """End joblib's pool of processes, which would outlive the tests by minutes."""
    if "joblib.externals.loky" in sys.modules:
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(wait=True, kill_workers=True)
