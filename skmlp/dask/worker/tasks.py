"""The tasks that skmlp runs on the workers of a Dask cluster.

They find the worker's `WorkerService`, with the fit that they belong to, through Dask.
"""

from __future__ import annotations

import asyncio
import threading
import time
from functools import partial
from typing import Any

from distributed import get_worker, secede

from skmlp.comm.handshake import default_facts
from skmlp.dask.ports import tls_contexts
from skmlp.dask.worker.service import GONE, Lease, mailbox_of, service_of

#: Seconds for a call of a task to its own worker's event loop, which is in the same
#: process and only late if something blocks it.
LOOP_LIMIT_S = 60.0
#: Seconds between two looks at whether a task is still wanted.
STAY_S = 0.25


def begin_lease(run: str, key: str, address: str, server_id: str) -> dict[str, Any]:
    """Begin a fit on the worker that runs this task, if it is the one that is meant.

    Dask runs a task again on a worker that has been started in another's place, which
    has another server id.

    Returns
    -------
    dict
        ``threads`` and ``memory_limit`` (bytes, 0 for none) of the worker, and
        ``facts``, which the bits of a fit depend on; nothing on another worker.
    """
    worker = get_worker()
    if worker.id != server_id:
        return {}

    async def begin() -> None:
        service_of(worker).begin(Lease(run, key, address))

    loop = worker.loop.asyncio_loop
    asyncio.run_coroutine_threadsafe(begin(), loop).result(LOOP_LIMIT_S)
    return {
        "threads": worker.state.nthreads,
        "memory_limit": worker.memory_manager.memory_limit or 0,
        "facts": default_facts(),
    }


def stay() -> None:
    """Keep an adaptive cluster from closing this worker, while this task is wanted.

    It takes none of the worker's slots.
    """
    worker = get_worker()
    task = worker.state.tasks[worker.get_current_task()]
    secede()
    # At first, the event loop may not have heard of it.
    while task.state in ("executing", "long-running"):
        time.sleep(STAY_S)


def serve_rank(run: str, generation: int, server_id: str) -> str:
    """Be a rank until the driver ends it, on the worker with this server id.

    Returns
    -------
    str
        What ended it. It does not raise: whoever waits for the rank has been told.
    """
    worker = get_worker()
    fit = service_of(worker).fit_of(run)
    mailbox = None if fit is None else mailbox_of(fit, generation)
    if fit is None or mailbox is None or worker.id != server_id:
        return str(GONE["text"])
    # From here on the rank's thread takes none of the worker's slots.
    secede()
    threading.current_thread().name = f"skmlp-rank-{mailbox.rank}"
    return mailbox.run(fit.stores, partial(tls_contexts, worker))
