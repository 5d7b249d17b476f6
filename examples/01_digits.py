"""One model, trained in four places
====================================

Handwritten digits (1797 pictures of 8 x 8 pixels, part of scikit-learn) are scaled and
classified by a small network. The same model is trained

- in this process,
- by two processes that joblib starts,
- by two workers of a Dask cluster,
- by the same workers on Dask arrays, whose rows already lie there.

Wherever it is trained, each worker sums the gradient over its share of every minibatch,
the sums are added up, and all take the same step. So all four models must be the same
but for rounding. The script prints a table, and fails if they are not.

Run it with ``python examples/01_digits.py``.
"""

import sys
import time

import dask.array as da
import joblib
import numpy as np
from distributed import Client, LocalCluster
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skmlp

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(
    X, y, test_size=0.25, stratify=y, random_state=0
)


def network(n_jobs=None):
    return skmlp.MLPClassifier((64,), max_iter=300, random_state=0, n_jobs=n_jobs)


def pipeline(n_jobs=None):
    """An ordinary pipeline: n_jobs is all that is new."""
    return make_pipeline(StandardScaler(), network(n_jobs)).fit(X_train, y_train)


def in_this_process():
    return pipeline()


def two_processes():
    with joblib.parallel_config(backend="loky"):
        return pipeline(n_jobs=2)


def two_dask_workers():
    with joblib.parallel_config(backend="dask"):
        return pipeline(n_jobs=2)


def dask_arrays():
    """The rows in three chunks; the scaler does not know Dask, so it comes first."""
    scaler = StandardScaler().fit(X_train)
    chunked_X = da.from_array(scaler.transform(X_train), chunks=(500, -1))
    chunked_y = da.from_array(y_train, chunks=500)
    return make_pipeline(scaler, network().fit(chunked_X, chunked_y))


def weights(model):
    """All weights of a fitted pipeline in one vector."""
    fitted = model[-1]
    return np.concatenate([a.ravel() for a in fitted.coefs_ + fitted.intercepts_])


def main():
    reference = None
    same = True
    print(f"{'place':<18} shards  accuracy  seconds  largest difference")
    # These pictures are so few that sharing the work does not pay, and skmlp would
    # train them in this process whatever n_jobs says. Here it is told not to think.
    with (
        skmlp.config_context(ranks="as_asked"),
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0"
        ) as cluster,
        Client(cluster),
    ):
        for train in (
            in_this_process,
            two_processes,
            two_dask_workers,
            dask_arrays,
        ):
            start = time.perf_counter()
            model = train()
            seconds = time.perf_counter() - start
            if reference is None:
                reference = weights(model)
            difference = abs(weights(model) - reference).max()
            same &= np.allclose(weights(model), reference, rtol=1e-6, atol=1e-9)
            place = train.__name__.replace("_", " ")
            print(
                f"{place:<18} {model[-1].n_shards_:>6}"
                f"  {model.score(X_test, y_test):>8.4f}"
                f"  {seconds:>7.2f}  {difference:.1e}",
                flush=True,
            )
    # A picture, where this runs in a page or a notebook.
    skmlp.LossCurveDisplay.from_estimator(model)
    print("The four models agree." if same else "The models do NOT agree.")
    return 0 if same else 1


# Worker processes import this file: only the script itself may train.
if __name__ == "__main__":
    if main():
        sys.exit(1)
