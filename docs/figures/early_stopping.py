"""Training and validation loss of a fit that stops early."""

import matplotlib.pyplot as plt
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import scale

from skmlp import MLPRegressor

X, y = (scale(a) for a in load_diabetes(return_X_y=True))
X, X_val, y, y_val = train_test_split(X, y, random_state=0)
model = MLPRegressor(
    hidden_layer_sizes=(64, 64),
    learning_rate_init=0.003,
    batch_size=64,
    early_stopping=True,
    scoring="loss",
    n_iter_no_change=15,
    random_state=0,
).fit(X, y, X_val=X_val, y_val=y_val)
loss = model.validation_loss_curve_
best = loss.index(min(loss))
figure, axes = plt.subplots(figsize=(6, 3))
epochs = range(1, len(loss) + 1)
axes.plot(epochs, model.loss_curve_, label="training: loss_curve_")
axes.plot(epochs, loss, label="validation: validation_loss_curve_")
axes.axvline(best + 1, color="0.6", linestyle=":", label="the weights that are kept")
axes.set(xlabel="epoch", ylabel="loss")
axes.legend(fontsize=8)
figure.tight_layout()
