"""Two outputs that have much in common, one of them measured in few rows."""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.exceptions import ConvergenceWarning

from skmlp import MLPRegressor

# So many epochs, and no more, are meant.
warnings.simplefilter("ignore", ConvergenceWarning)
rng = np.random.default_rng(0)
x = np.sort(rng.uniform(0, 1, 400))
truth = np.c_[np.sin(9 * x), 0.7 * np.sin(9 * x) + 1.5]
y = truth + 0.15 * rng.normal(size=truth.shape)
known = rng.choice(400, 14, replace=False)
y[:, 1] = np.where(np.isin(np.arange(400), known), y[:, 1], np.nan)
params = {
    "hidden_layer_sizes": (64, 64),
    "learning_rate": "cosine",
    "learning_rate_init": 0.01,
    "max_iter": 300,
    "n_iter_no_change": 300,
    "random_state": 0,
}
both = MLPRegressor(missing_targets="mask", **params).fit(x[:, None], y)
alone = MLPRegressor(**params).fit(x[known, None], y[known, 1])
figure, axes = plt.subplots(figsize=(6, 3))
axes.scatter(x, y[:, 0], s=4, color="0.7")
axes.scatter(x, y[:, 1], s=14, color="C1")
for j, curve in enumerate(both.predict(x[:, None]).T):
    axes.plot(x, curve, color=f"C{j}", label=f"output {j}")
axes.plot(x, alone.predict(x[:, None]), "C1--", label="output 1, alone")
axes.plot(x, truth[:, 1], color="0.3", linewidth=0.6, label="the truth")
axes.legend(fontsize=8, ncols=2)
figure.tight_layout()
