"""Two targets of one plane, three classes and two, from one network with two heads."""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from sklearn.exceptions import ConvergenceWarning

from skmlp import MLPClassifier

warnings.simplefilter("ignore", ConvergenceWarning)
rng = np.random.default_rng(0)
X = rng.uniform(-1, 1, (600, 2))
kind = np.searchsorted([-0.3, 0.4], X[:, 0] + 0.4 * np.sin(4 * X[:, 1]))
shade = np.where((X**2).sum(axis=1) < 0.5, "light", "dark")
Y = np.empty((len(X), 2), object)
Y[:, 0], Y[:, 1] = kind, shade
model = MLPClassifier((32, 32), max_iter=150, random_state=0, learning_rate_init=0.01)
model.fit(X, Y)

grid = np.linspace(-1, 1, 200)
points = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
figure, axes = plt.subplots(1, 2, figsize=(7, 3.2), sharey=True)
for axis, p, labels, truth, title in zip(
    axes,
    model.predict_proba(points),
    model.classes_,
    Y.T,
    ("kind", "shade"),
    strict=True,
):
    best = p.argmax(axis=1).reshape(200, 200)
    colours = ListedColormap([f"C{k}" for k in range(len(labels))])
    axis.pcolormesh(grid, grid, best, cmap=colours, alpha=0.25)
    for k, label in enumerate(labels):
        axis.scatter(*X[truth == label].T, s=4, color=f"C{k}", label=str(label))
    axis.set_title(title)
    axis.legend(fontsize=7, loc="upper right")
figure.tight_layout()
