"""A cluster that loses its workers in the middle of a fit, and the same model
==============================================================================

Workers of a cluster come and go: a machine is taken away, a process runs out of memory.
Here a thread kills one of three workers every second while a network is trained on
their rows. The lost worker's part of every minibatch goes to a worker that is left, or
to the one that the cluster starts in its place. Its rows are computed once more, and
the round that was under way runs again. The parts themselves do not change, so the
model has the same bits as one of a fit that nobody disturbed.

It fails if the two models differ in a single bit. It takes half a minute or more, so it
is not run while this page is built. This output is stored;
``python examples/04_cluster_that_loses_workers.py 2>/dev/null`` renews it:

.. code-block:: text

   Nobody disturbs it:
     11.0 seconds
   Workers are killed:
     ... tcp://127.0.0.1:45485 is killed
     ... tcp://127.0.0.1:33675 is killed
     14.3 seconds
     from epoch 6 on others: Dask worker tcp://127.0.0.1:45485 is gone
     from epoch 6 on others: Dask worker tcp://127.0.0.1:33675 is gone
   Both models have the same bits, and the loss 0.005233030626032752.
"""

import os
import random
import signal
import sys
import threading
import time

import dask.array as da
import numpy as np
from distributed import Client, LocalCluster
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._testing import ignore_warnings

from skmlp import MLPClassifier

KILLS = 3


class Killer(threading.Thread):
    """Ends a worker of the cluster every second, as the system would: with no word."""

    def __init__(self, client):
        super().__init__(daemon=True)
        self.client = client
        self.fit_is_over = threading.Event()

    def run(self):
        for _ in range(KILLS):
            if self.fit_is_over.wait(1.0):
                return
            processes = self.client.run(os.getpid, on_error="ignore")
            if len(processes) < 2:
                continue  # the others are just being started again
            address = random.choice(sorted(processes))
            print(f"  ... {address} is killed")
            os.kill(processes[address], getattr(signal, "SIGKILL", signal.SIGTERM))


@ignore_warnings(category=ConvergenceWarning)
def fit(X, y):
    model = MLPClassifier(
        (128, 64), batch_size=500, max_iter=40, n_iter_no_change=40, random_state=0
    )
    start = time.perf_counter()
    model.fit(X, y)
    print(f"  {time.perf_counter() - start:.1f} seconds")
    return model


def main():
    X, y = make_classification(40_000, 50, n_informative=20, random_state=0)
    X = da.from_array(X.astype(np.float32), chunks=(4_000, -1))
    y = da.from_array(y, chunks=4_000)
    with (
        LocalCluster(
            n_workers=3, threads_per_worker=1, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        print("Nobody disturbs it:")
        calm = fit(X, y)

        print("Workers are killed:")
        killer = Killer(client)
        killer.start()
        disturbed = fit(X, y)
        killer.fit_is_over.set()
        killer.join()

    for restart in disturbed.restarts_:
        print(f"  from epoch {restart['epoch']} on others: {restart['reason']}")
    weights = zip(calm.coefs_, disturbed.coefs_, strict=True)
    if not all(np.array_equal(mine, theirs) for mine, theirs in weights):
        print("The two models are NOT equal.")
        return 1
    print(f"Both models have the same bits, and the loss {disturbed.loss_!r}.")
    return 0


# Worker processes import this file: only the script itself may fit.
if __name__ == "__main__":
    if main():
        sys.exit(1)
