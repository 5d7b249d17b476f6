"""Three quantiles of noise that grows, from one network."""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.exceptions import ConvergenceWarning

from skmlp import MLPRegressor

# The rate has fallen to 0 at the end: so many epochs, and no more, are meant.
warnings.simplefilter("ignore", ConvergenceWarning)
rng = np.random.default_rng(0)
x = np.sort(rng.uniform(0, 1, 600))
y = np.sin(6 * x) + (0.1 + 0.8 * x) * rng.normal(size=600)
levels = [0.1, 0.5, 0.9]
model = MLPRegressor(
    "quantile",
    (64, 64),
    activation="silu",
    quantile=levels,
    learning_rate="cosine",
    learning_rate_init=0.01,
    batch_size=100,
    max_iter=150,
    n_iter_no_change=150,
    tol=0,
    random_state=0,
).fit(x[:, None], y)
figure, axes = plt.subplots(figsize=(6, 3))
axes.scatter(x, y, s=4, color="0.6")
for level, column in zip(levels, model.predict(x[:, None]).T, strict=True):
    axes.plot(x, column, label=f"quantile {level}")
axes.legend(fontsize=8)
figure.tight_layout()
