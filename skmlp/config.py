"""Settings of this thread: how the work is placed, which kernels run."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Any

_CHOICES = {
    "ranks": ("auto", "as_asked"),
    "kernels": ("auto", "reference", "compiled"),
    "torch_compile": (False, True),
}
_DEFAULTS: dict[str, Any] = {
    "ranks": "auto",
    "kernels": "auto",
    "torch_compile": False,
    "worker_timeout": 30.0,
    "history_length": math.inf,
}
_local = threading.local()


def _settings() -> dict[str, Any]:
    if not hasattr(_local, "settings"):
        _local.settings = dict(_DEFAULTS)
    settings: dict[str, Any] = _local.settings
    return settings


def get_config() -> dict[str, Any]:
    """Return a copy of this thread's settings.

    Returns
    -------
    dict
        The keys are the parameters of `set_config`.

    Examples
    --------
    >>> import skmlp
    >>> skmlp.get_config()["ranks"]
    'auto'
    """
    return dict(_settings())


def set_config(
    *,
    ranks: str | None = None,
    kernels: str | None = None,
    worker_timeout: float | None = None,
    history_length: float | None = None,
    torch_compile: bool | None = None,
) -> None:
    """Change this thread's settings.

    Parameters
    ----------
    ranks : {"auto", "as_asked"}, optional
        With "auto", a fit that asks for several workers uses fewer where sharing the
        work would cost more than it saves. With "as_asked" it uses what `n_jobs` says.
    kernels : {"auto", "reference", "compiled"}, optional
        The loops between the matrix products: "compiled" by numba, the "reference"
        in numpy, or "auto": compiled where numba is installed, unless the environment
        variable ``SKMLP_KERNELS`` says otherwise.
    worker_timeout : float, optional
        Seconds without a sign of life after which a process of a group, or a Dask
        worker, counts as frozen: the fit goes on without it. 30 by default.
    history_length : int or inf, optional
        How many epochs, the last ones, `history_` and the curves (`loss_curve_`,
        `validation_scores_`, `validation_loss_curve_`) of an estimator keep at the end
        of each call of `fit` and `partial_fit`. All (inf) by default, each of which
        takes about 1 kB.
    torch_compile : bool, optional
        Whether steps on tensors of torch go through `torch.compile`, which takes a
        compiler and up to a minute for the first step of each network. False by
        default.

    Raises
    ------
    ValueError
        A value is none of these.
    """
    changes: dict[str, Any] = {"ranks": ranks, "kernels": kernels}
    changes["torch_compile"] = torch_compile
    if worker_timeout is not None and not worker_timeout > 0:
        raise ValueError(f"worker_timeout={worker_timeout!r} must be a time above 0 s")
    for key, value in changes.items():
        if value is not None and value not in _CHOICES[key]:
            raise ValueError(
                f"{key}={value!r} is not a setting; it takes one of "
                + ", ".join(repr(choice) for choice in _CHOICES[key])
            )
    changes["worker_timeout"] = worker_timeout
    if history_length is not None:
        length: Any = history_length
        whole = isinstance(length, Integral) and not isinstance(length, bool)
        if not (whole and length >= 1) and length != math.inf:
            raise ValueError(
                f"history_length={history_length!r} must be a whole number of epochs, "
                "of 1 or more, or inf for all"
            )
        changes["history_length"] = history_length
    _settings().update({k: v for k, v in changes.items() if v is not None})


@contextmanager
def config_context(
    *,
    ranks: str | None = None,
    kernels: str | None = None,
    worker_timeout: float | None = None,
    history_length: float | None = None,
    torch_compile: bool | None = None,
) -> Iterator[None]:
    """Change this thread's settings inside a ``with`` block.

    Parameters
    ----------
    ranks, kernels, worker_timeout, history_length, torch_compile : optional
        See `set_config`.

    Examples
    --------
    >>> import skmlp
    >>> with skmlp.config_context(kernels="reference"):
    ...     skmlp.get_config()["kernels"]
    'reference'
    >>> skmlp.get_config()["kernels"]
    'auto'
    """
    before = get_config()
    set_config(
        ranks=ranks,
        kernels=kernels,
        worker_timeout=worker_timeout,
        history_length=history_length,
        torch_compile=torch_compile,
    )
    try:
        yield
    finally:
        _local.settings = before
