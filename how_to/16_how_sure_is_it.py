"""How sure is it? Quantiles, ensembles, calibration
=================================================

For a number, let the network predict quantiles, and check how often the truth lies
between them. For classes, look at a calibration curve. Both are honest only on rows
that the network has not seen.

.. index:: ! uncertainty, ! calibration, ! quantiles, ! prediction intervals
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.calibration import CalibrationDisplay
from sklearn.datasets import load_digits
from sklearn.ensemble import BaggingClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split

from skmlp import MLPClassifier, MLPRegressor

rng = np.random.default_rng(0)

# %%
# Quantiles
# ---------
# One network gives all of them, and they never cross. Between the 5 % and the 95 %
# quantile there should be 90 % of new targets; a network that overfits covers fewer. So
# compare:

x = rng.uniform(0, 1, 3000)
y = np.sin(6 * x) + (0.1 + 0.6 * x) * rng.normal(size=3000)
x_train, x_test, y_train, y_test = train_test_split(x[:, None], y, random_state=0)
levels = [0.05, 0.5, 0.95]
model = MLPRegressor(
    "quantile",
    (64,),
    quantile=levels,
    learning_rate_init=0.01,
    early_stopping=True,
    random_state=0,
).fit(x_train, y_train)
low, middle, high = model.predict(x_test).T
inside = (low <= y_test) & (y_test <= high)
print(f"{inside.mean():.1%} of the test rows are inside, 90 % are meant")

order = np.argsort(x_test[:, 0])
figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
axes.scatter(x_test, y_test, s=3, color="0.6")
axes.fill_between(x_test[order, 0], low[order], high[order], alpha=0.3)
axes.plot(x_test[order, 0], middle[order])
axes.set_title("90 % interval and median")

# %%
# If the coverage has to be right whatever the network does, use
# ``TabularMLPRegressor.predict_interval``: its width comes from errors on rows that
# were held out.

# %%
# Calibration of classes
# ----------------------
# Is an event with a probability of 70 % true in 70 % of the cases? One network is often
# too sure; the mean of several is less so, and better.

X, y = load_digits(return_X_y=True)
X = X / 16 + 0.35 * rng.normal(size=X.shape)  # noisy pictures
X_train, X_test, y_train, y_test = train_test_split(X, y > 4, random_state=0)
one = MLPClassifier((64,), max_iter=80, random_state=0)
several = BaggingClassifier(one, 5, bootstrap=False, random_state=0)
figure, axes = plt.subplots(figsize=(5, 4), layout="constrained")
for name, model in {"one network": one, "five networks": several}.items():
    p = model.fit(X_train, y_train).predict_proba(X_test)[:, 1]
    print(f"{name}: log loss {log_loss(y_test, p):.3f}")
    CalibrationDisplay.from_predictions(y_test, p, n_bins=8, name=name, ax=axes)
