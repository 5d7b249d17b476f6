"""The estimators for raw tables in files, in ONNX and in notebooks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import skmlp
from skmlp import TabularMLPClassifier, TabularMLPRegressor
from skmlp.tabular import base

N = 120
RNG = np.random.default_rng(5)
X = pd.DataFrame(
    {
        "size": RNG.normal(size=N).round(2),
        "color": RNG.choice(["blue", "green", "red"], N).astype(object),
        "code": RNG.choice([1, 2, 30], N),
        "flag": RNG.random(N) > 0.5,
        # A few are rare, so that they are taken together.
        "town": np.where(np.arange(N) < 4, ["p", "q", "r", "s"] * 30, "t"),
    }
)
X.loc[::9, "size"] = np.nan
X.loc[::7, "color"] = None
REAL = np.nan_to_num(X["size"]) + 2.0 * (X["color"] == "red")
#: Each with rows that were not there in `fit`: another color, a missing flag.
NEW = X.head(20).assign(
    color=["pink", *X["color"][1:20]], flag=[None, *X["flag"][1:20]]
)
TARGETS: dict[str, tuple[Any, Any]] = {
    "binary": (TabularMLPClassifier, np.where(REAL > 1, "high", "low")),
    "multiclass": (TabularMLPClassifier, np.digitize(REAL, [0, 1])),
    "one class": (TabularMLPClassifier, np.full(N, 7)),
    "real": (TabularMLPRegressor, REAL),
    "two columns": (TabularMLPRegressor, np.column_stack([REAL, 3 - REAL])),
}


def fitted(name: str, table: pd.DataFrame = X, **params: Any) -> Any:
    kind, y = TARGETS[name]
    model = kind(3, (8,), max_iter=6, categorical_features=["code"], random_state=0)
    return model.set_params(**params).fit(table, y)


@pytest.mark.parametrize("name", TARGETS)
def test_a_file_holds_all_of_it(name, tmp_path):
    model = fitted(name, network_params={"dropout": 0.2})
    skmlp.save(model, tmp_path / "model.skmlp")
    again = skmlp.load(tmp_path / "model.skmlp")
    assert again.get_params() == model.get_params()
    assert set(vars(again)) == set(vars(model))
    assert_array_equal(again.predict(NEW), model.predict(NEW))
    if isinstance(model, TabularMLPRegressor):
        assert_array_equal(again.predict_interval(NEW), model.predict_interval(NEW))
    again.fit(X, TARGETS[name][1])
    assert_array_equal(again.predict(NEW), model.predict(NEW))


def test_not_fitted_it_can_be_saved(tmp_path):
    skmlp.save(TabularMLPRegressor(4), tmp_path / "model.skmlp")
    assert skmlp.load(tmp_path / "model.skmlp").n_estimators == 4


@pytest.mark.parametrize("name", TARGETS)
def test_onnx_predicts_the_same(name):
    pytest.importorskip("skl2onnx", reason="skl2onnx is an extra, onnx")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is an extra")
    model = fitted(name)
    session = runtime.InferenceSession(skmlp.to_onnx(model).SerializeToString())
    given: dict[str, Any] = {}
    for put in session.get_inputs():
        column = NEW[put.name]
        if put.type == "tensor(string)":
            texts = ["" if pd.isna(value) else str(value) for value in column]
            given[put.name] = np.array(texts, dtype=object)[:, None]
        else:
            given[put.name] = column.to_numpy(np.float64)[:, None]
    assert list(given) == list(X)
    assert given["code"].dtype == object
    outputs = session.run(None, given)
    if isinstance(model, TabularMLPRegressor):
        expected = model.predict(NEW).reshape(len(NEW), -1)
        assert_allclose(outputs[0], expected, rtol=1e-9)
    else:
        assert_array_equal(outputs[0], model.predict(NEW))
        assert_allclose(outputs[1], model.predict_proba(NEW), rtol=1e-9)


def test_there_is_no_onnx_for_dates():
    pytest.importorskip("skl2onnx", reason="skl2onnx is an extra, onnx")
    days = pd.date_range("2024-01-01", periods=N)
    with pytest.raises(ValueError, match="no ONNX for columns of dates, here day:"):
        skmlp.to_onnx(fitted("real", X.assign(day=days)))


def test_onnx_cannot_tell_empty_texts_from_missing_ones():
    pytest.importorskip("skl2onnx", reason="skl2onnx is an extra, onnx")
    table = X.assign(color=X["color"].replace("blue", ""))
    with pytest.raises(ValueError, match="'color' has empty texts and missing values"):
        skmlp.to_onnx(fitted("real", table))


@pytest.mark.parametrize("name", ["binary", "real"])
def test_rows_are_predicted_in_blocks(name, monkeypatch):
    model = fitted(name)
    predict = model.predict_proba if name == "binary" else model.predict
    expected, seen = predict(NEW), []
    output_of = model._output_of

    def noting(k, encoded):
        seen.append(len(encoded))
        return output_of(k, encoded)

    monkeypatch.setattr(base, "BLOCK_ROWS", 7)
    monkeypatch.setattr(model, "_output_of", noting)
    assert_allclose(predict(NEW), expected, rtol=1e-12)
    assert max(seen) == 7


def test_notebooks_show_it():
    text = fitted("binary")._repr_html_()
    assert "TabularMLPClassifier" in text
    assert "n_estimators" in text
    assert "fitted" in text
