"""A grid search over networks, on joblib's processes and on a Dask cluster
===========================================================================

With ``GridSearchCV(n_jobs=-1)`` it is the candidates that are shared out: many small
fits at once, each of them whole on one worker. skmlp's estimators need nothing special
for it. Their own ``n_jobs`` stays None, so a fit inside a worker uses that worker only,
and never asks for others that are busy with the other candidates.

Run it with ``python examples/02_grid_search.py``.
"""

import sys
import time

import joblib
import matplotlib.pyplot as plt
import numpy as np
from distributed import Client, LocalCluster
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmlp import MLPClassifier

GRID = {
    "mlpclassifier__hidden_layer_sizes": [(16,), (32, 16)],
    "mlpclassifier__learning_rate_init": [1e-3, 1e-2],
    "mlpclassifier__alpha": [1e-4, 1.0],
}


def search(X, y):
    model = make_pipeline(
        StandardScaler(),
        MLPClassifier(batch_size=32, early_stopping=True, random_state=0),
    )
    return GridSearchCV(model, GRID, cv=3, n_jobs=-1).fit(X, y)


def draw(results):
    """The accuracy of each candidate, the best at the top."""
    order = np.argsort(results["mean_test_score"])
    names = [
        ", ".join(str(value) for value in results["params"][k].values()) for k in order
    ]
    _, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    axes.errorbar(
        results["mean_test_score"][order],
        names,
        xerr=results["std_test_score"][order],
        fmt="o",
    )
    axes.set(xlabel="accuracy in 3 folds", ylabel="alpha, widths, learning rate")


def main():
    X, y = load_breast_cancer(return_X_y=True)
    best = {}

    start = time.perf_counter()
    best["joblib"] = search(X, y)
    print(f"joblib: {time.perf_counter() - start:.1f} seconds")

    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0"
        ) as cluster,
        Client(cluster),
        joblib.parallel_config(backend="dask"),
    ):
        start = time.perf_counter()
        best["dask"] = search(X, y)
        print(f"dask:   {time.perf_counter() - start:.1f} seconds")

    for place, found in best.items():
        print(f"\nBest on {place}, accuracy {found.best_score_:.4f}:")
        for name, value in found.best_params_.items():
            print(f"  {name.removeprefix('mlpclassifier__')} = {value}")
    draw(best["joblib"].cv_results_)
    if best["joblib"].best_params_ != best["dask"].best_params_:
        print("\nThe two searches do NOT agree.")
        return 1
    print("\nThe two searches agree.")
    return 0


# Worker processes import this file: only the script itself may search.
if __name__ == "__main__":
    if main():
        sys.exit(1)
