"""Saving and serving: files and ONNX
==================================

Save with :func:`skmlp.save` for Python, and with :func:`skmlp.to_onnx` for everything
else. Neither uses pickle, so a file can do no harm when it is loaded.

.. index:: ! saving, ! serving, ! ONNX, ! deployment
"""

import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_wine
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import skmlp

folder = tempfile.TemporaryDirectory()

# %%
# A network alone
# ---------------

X, y = load_wine(return_X_y=True)
X = StandardScaler().fit_transform(X)
network = skmlp.MLPClassifier((20,), max_iter=300, random_state=0).fit(X, y)
path = Path(folder.name, "wine.skmlp")
skmlp.save(network, path)
again = skmlp.load(path)
same = (again.predict(X) == network.predict(X)).all()
print(f"{path.stat().st_size / 1000:.0f} kB, same predictions: {same}")

# %%
# A pipeline, with its preprocessing
# ----------------------------------
# The frame says which inputs there are, and of which type: give its first row.

frame = pd.DataFrame(
    {
        "size": np.linspace(20, 200, 300, dtype=np.float32),
        "heating": ["gas", "oil", "wood"] * 100,
    }
)
price = 3 * frame["size"] + 50 * (frame["heating"] == "gas")
model = make_pipeline(
    make_column_transformer(
        (StandardScaler(), ["size"]), (OneHotEncoder(sparse_output=False), ["heating"])
    ),
    skmlp.MLPRegressor(
        hidden_layer_sizes=(20,), solver="lbfgs", max_iter=500, random_state=0
    ),
).fit(frame, price)
exported = skmlp.to_onnx(model, frame[:1])
print([entry.name for entry in exported.graph.input])

# %%
# Serve it
# --------
# The server needs onnxruntime alone: no scikit-learn, no skmlp, no Python even.

session = onnxruntime.InferenceSession(exported.SerializeToString())
rows = {name: frame[[name]].to_numpy()[:3] for name in frame}
(served,) = session.run(None, rows)
print(served.ravel(), model.predict(frame[:3]))
