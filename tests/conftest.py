"""What all tests share: a Ctrl-C that works, clusters, and a clean end."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import PurePosixPath

import pytest

#: Files whose modules use the same clusters, one after the other.
ON_ONE_CLUSTER = ("tests/dask/*.py", "tests/estimators/*.py")


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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Hand out those files together, where ``--dist loadfile`` hands out files."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class FilesTogether(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            groups = filter(PurePosixPath(file).match, ON_ONE_CLUSTER)
            return next(groups, file)

    return FilesTogether(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    """Where a folder ends, end the clusters that its modules have shared."""
    done = yield
    if nextitem is None or nextitem.path.parent != item.path.parent:
        _end_clusters()
    return done


def _end_clusters():
    if "tests.launch.dask_clusters" in sys.modules:
        sys.modules["tests.launch.dask_clusters"].close_idle_clusters()


def pytest_sessionfinish():
    """End joblib's pool of processes, which would outlive the tests by minutes."""
    _end_clusters()
    if "joblib.externals.loky" in sys.modules:
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(wait=True, kill_workers=True)
