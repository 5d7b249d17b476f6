"""Which features matter? Permutation importance and SHAP
======================================================

Begin with the permutation importance: it needs no other package and works for every
model. SHAP explains single rows.

.. index:: ! explaining, ! SHAP, ! permutation importance, ! feature importance
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.inspection import PartialDependenceDisplay, permutation_importance
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmlp import FirstLayerWeightsDisplay, MLPRegressor

X, y = load_diabetes(return_X_y=True, as_frame=True, scaled=False)
y = (y - y.mean()) / y.std()
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
scaler = StandardScaler().set_output(transform="pandas")
network = MLPRegressor(hidden_layer_sizes=(20,), alpha=10, max_iter=400, random_state=0)
model = make_pipeline(scaler, network).fit(X_train, y_train)
print(f"R2 {model.score(X_test, y_test):.2f}")

# %%
# Permutation importance
# ----------------------
# How much worse does the score become on *test* rows if a column is shuffled?

found = permutation_importance(model, X_test, y_test, n_repeats=10, random_state=0)
order = np.argsort(found.importances_mean)
figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
axes.boxplot(found.importances[order].T, orientation="horizontal")
axes.set_yticks(np.arange(1, 11), X.columns[order])
axes.set_xlabel("loss of R2 when shuffled")

# %%
# Partial dependence
# ------------------
# In which direction?

PartialDependenceDisplay.from_estimator(model, X_train, ["bmi", "s5"])

# %%
# The first layer
# ---------------
# A table of weights: each column is a hidden unit.

FirstLayerWeightsDisplay.from_estimator(model, max_units=12)

# %%
# SHAP
# ----
# ``pip install shap``. This output is stored, for SHAP is large; run the lines to renew
# it.
#
# .. code-block:: python
#
#    import shap
#
#    explain = shap.Explainer(model.predict, X_train.sample(50, random_state=0), seed=0)
#    values = explain(X_test[:20])
#    print(dict(zip(X.columns, np.abs(values.values).mean(axis=0).round(2))))
#
# .. code-block:: text
#
#    {'age': 0.02, 'sex': 0.08, 'bmi': 0.36, 'bp': 0.14, 's1': 0.01,
#     's2': 0.06, 's3': 0.09, 's4': 0.05, 's5': 0.24, 's6': 0.03}
