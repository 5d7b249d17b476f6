"""What runs here: versions, kernels, BLAS and threads."""

from __future__ import annotations

import importlib.metadata
import platform
import sys

from skmlp import kernels
from skmlp.config import get_config

#: Where the documentation is; empty until there is a public place.
HOME_PAGE = ""

_PACKAGES = (
    "skmlp",
    "numpy",
    "scipy",
    "scikit-learn",
    "joblib",
    "threadpoolctl",
    "numba",
    "dask",
    "distributed",
)


def show_versions() -> None:
    """Print versions, the kernel set in use, and each BLAS with its threads.

    Examples
    --------
    >>> import skmlp
    >>> skmlp.show_versions()  # doctest: +ELLIPSIS
    python...
    """
    from threadpoolctl import threadpool_info

    print(f"python        {platform.python_version()} on {sys.platform}")
    for package in _PACKAGES:
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = "not installed"
        print(f"{package:13} {version}")
    if HOME_PAGE:
        print(f"documentation {HOME_PAGE}")
    print(f"kernels       {kernels.resolve(get_config()['kernels'])}")
    for library in threadpool_info():
        print(
            f"{library['user_api']:13} {library['internal_api']} "
            f"{library['version']}, {library.get('architecture', '-')}, "
            f"{library['num_threads']} threads"
        )
