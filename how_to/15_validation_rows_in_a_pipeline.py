"""Your own validation rows, inside a pipeline
===========================================

You split by time or by customer yourself, and the network shall stop by those rows.
They have to go through the same scaler as the training rows. scikit-learn does that for
you: ``transform_input``.

.. index:: ! transform_input
"""

import sklearn
from sklearn.datasets import load_diabetes
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmlp import LossCurveDisplay, MLPRegressor

X, y = load_diabetes(return_X_y=True, scaled=False)
y = (y - y.mean()) / y.std()
X_train, y_train = X[:300], y[:300]  # the past
X_val, y_val = X[300:], y[300:]  # what came later

# %%
# Two lines are needed: metadata routing, which is off by default, and a request for the
# two arguments. Then ``transform_input`` says which of them are rows that the scaler
# has to see.

sklearn.set_config(enable_metadata_routing=True)
network = MLPRegressor(
    hidden_layer_sizes=(50,),
    early_stopping=True,
    scoring="loss",
    max_iter=500,
    learning_rate_init=0.01,
    batch_size=50,
    random_state=0,
)
network.set_fit_request(X_val=True, y_val=True)
model = make_pipeline(StandardScaler(), network, transform_input=["X_val"])
model.fit(X_train, y_train, X_val=X_val, y_val=y_val)
print(f"epoch {network.best_epoch_} of {network.n_iter_} was the best")

# %%
# The curves show where it stopped:

LossCurveDisplay.from_estimator(model)

# %%
# The rows in a network without a pipeline need none of this:

scaler = StandardScaler().fit(X_train)
network.fit(
    scaler.transform(X_train), y_train, X_val=scaler.transform(X_val), y_val=y_val
)
print(f"epoch {network.best_epoch_} again")
sklearn.set_config(enable_metadata_routing=False)
