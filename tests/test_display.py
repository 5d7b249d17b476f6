"""Displays draw what a fit has been through."""

from __future__ import annotations

import pickle
from typing import Any

import joblib
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import BaggingClassifier, VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, TunedThresholdClassifierCV
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import StandardScaler

import skmlp
from tests.laws.places import processes

plt = pytest.importorskip(
    "matplotlib.pyplot", reason="matplotlib is an extra of its own, plot"
)

RNG = np.random.default_rng(1)
X = RNG.normal(size=(60, 9))
Y = np.arange(60) % 3


@pytest.fixture(autouse=True)
def _figures():
    """No window opens, and no figure is left open."""
    before = plt.get_backend()
    plt.switch_backend("agg")
    yield
    plt.close("all")
    plt.switch_backend(before)


def fitted(**params: Any) -> Any:
    params = {"max_iter": 6, "random_state": 0, "hidden_layer_sizes": 5, **params}
    return skmlp.MLPClassifier(**params).fit(X, Y)


def drawn(display: Any) -> bytes:
    """Draw it; the pixels."""
    display.figure_.canvas.draw()
    pixels = bytes(display.figure_.canvas.buffer_rgba())
    assert len(set(pixels)) > 2  # not an empty page
    return pixels


def test_loss_curves():
    model = fitted(early_stopping=True)
    display = skmlp.LossCurveDisplay.from_estimator(model, color="black")
    loss, validation_loss, score = display.lines_
    assert_array_equal(loss.get_ydata(), model.loss_curve_)
    expected = [record["validation_loss"] for record in model.history_]
    assert_array_equal(validation_loss.get_ydata(), expected)
    assert_array_equal(score.get_ydata(), model.validation_scores_)
    assert loss.get_color() == "black"
    assert display.ax_.get_ylabel() == "Loss"
    assert display.score_ax_.get_ylabel() == "Validation score"
    texts = [text.get_text() for text in display.score_ax_.get_legend().get_texts()]
    assert texts == [
        "MLPClassifier, training loss",
        "MLPClassifier, validation loss",
        "MLPClassifier, validation score",
        f"MLPClassifier, best epoch: {model.best_epoch_}",
    ]
    assert list(display.best_line_.get_xdata()) == [model.best_epoch_] * 2
    drawn(display)
    # All is inside the figure, and the legend is no part of the axes' own area.
    box = display.figure_.bbox
    legend = display.score_ax_.get_legend().get_window_extent()
    label = display.score_ax_.yaxis.label.get_window_extent()
    for inside in (legend, label):
        assert box.contains(inside.x0, inside.y0)
        assert box.contains(inside.x1, inside.y1)
    assert not legend.overlaps(display.ax_.bbox)


def test_loss_curves_share_axes():
    _, ax = plt.subplots()
    for alpha in (1e-4, 10.0):
        display = skmlp.LossCurveDisplay.from_estimator(
            fitted(alpha=alpha), ax=ax, name=f"alpha={alpha}"
        )
        assert display.ax_ is ax
        assert display.score_ax_ is None
    assert len(ax.get_lines()) == 2
    drawn(display)


def test_the_validation_loss_is_drawn():
    display = skmlp.LossCurveDisplay(
        [3.0, 2.0], validation_loss=[3.5, 2.5], validation_score=[0.1, 0.2]
    ).plot()
    styles = [line.get_linestyle() for line in display.lines_]
    assert styles == ["-", "--", "-"]
    assert_array_equal(display.lines_[1].get_ydata(), [3.5, 2.5])
    drawn(display)


def test_lbfgs_has_a_loss_and_no_learning_rate():
    model = fitted(solver="lbfgs")
    display = skmlp.LossCurveDisplay.from_estimator(model)
    assert len(display.lines_[0].get_ydata()) == model.n_iter_
    with pytest.raises(ValueError, match="chooses its steps itself"):
        skmlp.LearningRateDisplay.from_estimator(model)


def test_learning_rates():
    model = fitted(solver="sgd", learning_rate="invscaling")
    display = skmlp.LearningRateDisplay.from_estimator(model)
    rates = [record["learning_rate"] for record in model.history_]
    assert_array_equal(display.line_.get_ydata(), rates)
    assert display.ax_.get_yscale() == "linear"
    assert skmlp.LearningRateDisplay([1, 0.01]).plot().ax_.get_yscale() == "log"
    drawn(display)


def test_first_weights_as_images():
    model = fitted()
    display = skmlp.FirstLayerWeightsDisplay.from_estimator(model, max_units=4)
    norms = np.linalg.norm(model.coefs_[0], axis=0)
    (largest,) = np.flatnonzero(norms == norms.max())
    image = display.images_[0].get_array()
    assert_array_equal(image, model.coefs_[0][:, largest].reshape(3, 3))
    assert len(display.axes_) == len(display.images_) == 4
    assert len({image.get_clim() for image in display.images_}) == 1
    drawn(display)
    wide = skmlp.FirstLayerWeightsDisplay.from_estimator(model, shape=(1, 9))
    assert wide.images_[0].get_array().shape == (1, 9)
    with pytest.raises(ValueError, match=r"8 pixels, but there are 9 features"):
        skmlp.FirstLayerWeightsDisplay.from_estimator(model, shape=(2, 4))


def test_first_weights_of_a_table_have_names():
    import pandas as pd

    frame = pd.DataFrame(X, columns=[f"column {k}" for k in range(9)])
    model = skmlp.MLPClassifier(5, max_iter=2, random_state=0).fit(frame, Y)
    display = skmlp.FirstLayerWeightsDisplay.from_estimator(model)
    (image,), (ax,) = display.images_, display.axes_
    assert image.get_array().shape == (9, 5)
    assert [text.get_text() for text in ax.get_yticklabels()] == list(frame)
    drawn(display)
    wide = skmlp.FirstLayerWeightsDisplay(np.ones((200, 3))).plot()
    assert len(wide.axes_[0].get_yticks()) == 40


def test_what_they_say_of_themselves():
    model = fitted(early_stopping=True)
    said = [
        repr(skmlp.LossCurveDisplay.from_estimator(model)),
        repr(skmlp.LearningRateDisplay.from_estimator(model)),
        repr(skmlp.FirstLayerWeightsDisplay.from_estimator(model)),
        repr(skmlp.ScalingDisplay([1, 2], [8.0, 4.2])),
    ]
    told = f"MLPClassifier: {model.n_iter_} epochs, loss {model.loss_:.4g}"
    assert said[0] == f"<LossCurveDisplay {told}>"
    assert said[1].endswith("MLPClassifier: from 0.001 to 0.001 in 6 epochs>")
    assert "5 units, 9 features" in said[2]
    assert said[3].endswith("an epoch on 1, 2 workers takes 8 s, 4.2 s>")


@pytest.fixture
def _on_processes():
    with joblib.parallel_config(backend="loky"):
        yield


@pytest.mark.usefixtures("_on_processes")
def test_scaling_over_workers(monkeypatch):
    model = skmlp.MLPClassifier(5, batch_size=20, random_state=0)
    shards = []
    fit = skmlp.MLPClassifier.fit

    def noting(estimator: Any, *args: Any) -> Any:
        fit(estimator, *args)
        shards.append(estimator.n_shards_)
        return estimator

    monkeypatch.setattr(skmlp.MLPClassifier, "fit", noting)
    display = skmlp.ScalingDisplay.from_estimator(model, X, Y, epochs=3)
    assert shards == [1, 2]
    assert display.speedup_[0] == 1
    assert_array_equal(display.line_.get_ydata(), display.speedup_)
    assert_array_equal(display.ideal_line_.get_ydata(), [1, 2])
    assert model.max_iter == 200
    drawn(display)
    for bad in ([2, 1], [], [0, 1]):
        with pytest.raises(ValueError, match="rising numbers of workers"):
            skmlp.ScalingDisplay.from_estimator(model, X, Y, n_jobs=bad)
    pipeline = make_pipeline(StandardScaler(), model)
    display = skmlp.ScalingDisplay.from_estimator(pipeline, X, Y, epochs=3)
    assert shards == [1, 2] * 2
    with pytest.raises(ValueError, match="must hold one network, but holds a, b"):
        skmlp.ScalingDisplay.from_estimator(
            VotingClassifier([("a", model), ("b", model)]), X, Y
        )
    with pytest.raises(ValueError, match="no epochs"):
        skmlp.ScalingDisplay.from_estimator(model.set_params(solver="lbfgs"), X, Y)


def searched(model: Any) -> Any:
    return GridSearchCV(make_pipeline(model), {f"{name_of(model)}__alpha": [0.1]}, cv=2)


def name_of(model: Any) -> str:
    return type(model).__name__.lower()


AROUND = {
    "pipeline": lambda model: make_pipeline(StandardScaler(), model),
    "search": searched,
    "calibrated": lambda model: CalibratedClassifierCV(model, cv=2, ensemble=False),
    "voting": lambda model: VotingClassifier([("net", model), ("nb", GaussianNB())]),
    "features": lambda model: make_pipeline(
        skmlp.HiddenLayerTransformer(model), GaussianNB()
    ),
    "union": lambda model: make_pipeline(
        FeatureUnion([("net", skmlp.HiddenLayerTransformer(model))]), GaussianNB()
    ),
    "threshold": lambda model: TunedThresholdClassifierCV(searched(model), cv=2),
}


@pytest.mark.parametrize("name", AROUND)
def test_inside_others(name):
    y = Y % 2
    network = skmlp.MLPClassifier(5, max_iter=3, random_state=0)
    fitted_before = skmlp.MLPClassifier(5, max_iter=2, random_state=0).fit(X, y)
    for inner in (network, fitted_before.set_params(max_iter=3)):
        outer = AROUND[name](inner).fit(X, y)
        display = skmlp.LossCurveDisplay.from_estimator(outer)
        assert len(display.lines_[0].get_ydata()) == 3
        assert len(skmlp.history_frame(outer)) == 3
        weights = skmlp.FirstLayerWeightsDisplay.from_estimator(outer)
        assert len(weights.images_) == 5


def test_inside_a_transformed_target():
    network = skmlp.MLPRegressor(hidden_layer_sizes=5, max_iter=3, random_state=0)
    outer = TransformedTargetRegressor(searched(network), transformer=StandardScaler())
    outer = make_pipeline(StandardScaler(), outer).fit(X, X[:, 0])
    skmlp.LearningRateDisplay.from_estimator(outer)
    assert len(skmlp.history_frame(outer)) == 3
    frozen = FrozenEstimator(outer)
    assert len(skmlp.history_frame(frozen)) == 3


def test_of_several_networks_the_places_are_told():
    network = skmlp.MLPClassifier(5, max_iter=3, random_state=0)
    pipeline = make_pipeline(StandardScaler(), network)
    pairs = [("one", pipeline), ("other", network)]
    several = {
        "VotingClassifier": VotingClassifier(pairs),
        "CalibratedClassifierCV": CalibratedClassifierCV(network, cv=2),
        "BaggingClassifier": BaggingClassifier(pipeline, n_estimators=12),
    }
    for name, estimator in several.items():
        estimator.fit(X, Y)
        with pytest.raises(ValueError, match=f"this {name} holds") as raised:
            skmlp.history_frame(estimator)
        places = str(raised.value).partition(": ")[2].split(", ")
        # Each place is Python that leads to the network.
        for place in places[:10]:
            inner = eval(place, {"estimator": estimator})
            assert len(skmlp.history_frame(inner)) == 3
    assert places[10:] == ["2 more"]


def test_unfitted_ones_say_so():
    for show in (
        skmlp.LossCurveDisplay.from_estimator,
        skmlp.LearningRateDisplay.from_estimator,
        skmlp.history_frame,
    ):
        with pytest.raises(NotFittedError, match="This MLPClassifier instance is not"):
            show(skmlp.MLPClassifier())
        with pytest.raises(ValueError, match="this GaussianNB has no history_"):
            show(GaussianNB().fit(X, Y))
        with pytest.raises(NotFittedError, match="This VotingClassifier"):
            show(VotingClassifier([("net", skmlp.MLPClassifier())]))
    show = skmlp.FirstLayerWeightsDisplay.from_estimator
    with pytest.raises(NotFittedError, match="is not fitted"):
        show(skmlp.MLPClassifier())
    with pytest.raises(ValueError, match="this GaussianNB has no weights"):
        show(GaussianNB().fit(X, Y))


def test_the_history_as_a_frame():
    model = skmlp.MLPClassifier(5, batch_size=20, max_iter=4, random_state=0)
    with processes(2).around():
        frame = skmlp.history_frame(model.fit(X, Y))
    assert frame.index.tolist() == [1, 2, 3, 4]
    assert frame["loss"].tolist() == model.loss_curve_
    assert set(frame["workers"]) == {2}
    assert "validation_score" not in frame
    assert {dtype.kind for dtype in frame.dtypes} <= set("fi")
    model.restarts_ = [{"epoch": 2, "reason": "a test"}] * 2
    assert skmlp.history_frame(model)["restarts"].tolist() == [0, 2, 0, 0]
    stopping = fitted(early_stopping=True)
    frame = skmlp.history_frame(stopping)
    assert frame["validation_score"].tolist() == stopping.validation_scores_
    lbfgs = skmlp.history_frame(fitted(solver="lbfgs"))
    assert "learning_rate" not in lbfgs
    assert "loss" in lbfgs


def test_a_pickled_model_has_a_frame_without_times():
    model = fitted()
    again = pickle.loads(pickle.dumps(model))
    before, after = (skmlp.history_frame(one) for one in (model, again))
    assert after["loss"].tolist() == before["loss"].tolist()
    times = ["seconds", "computing", "waiting", "communicating"]
    assert set(before) - set(after) == set(times)


def test_the_summary_and_the_picture_in_notebooks():
    model = fitted(hidden_layer_sizes=(5, 4), activation=["tanh", "relu"])
    lines = model.summary().splitlines()
    count = sum(a.size for a in [*model.coefs_, *model.intercepts_])
    assert lines[0] == f"MLPClassifier: {count} parameters, {8 * count} B, float64"
    assert [line.split() for line in lines[2:5]] == [
        ["1", "9", "x", "5", "tanh", "50", "400", "B"],
        ["2", "5", "x", "4", "relu", "24", "192", "B"],
        ["3", "4", "x", "3", "softmax", "15", "120", "B"],
    ]
    assert lines[5].startswith("Trained in process, 6 epochs in ")
    assert lines[5].endswith(f"loss {model.loss_:.4g}")
    page = model._repr_html_()
    # Inside scikit-learn's box, in the style of its tables.
    box = page.index('<div class="sk-toggleable__content')
    assert box < page.index("skmlp-summary") < page.index("<td>5 x 4</td>")
    assert page.index("<td>5 x 4</td>") < page.index("hidden_layer_sizes", box)
    assert page.count("<div") == page.count("</div>")
    assert "skmlp-summary" in page
    assert model._repr_mimebundle_()["text/html"].count("skmlp-summary") == 1
    assert "skmlp-summary" not in skmlp.MLPClassifier()._repr_html_()
    with processes(2).around():
        shared = skmlp.MLPClassifier(5, max_iter=2, batch_size=20).fit(X, Y)
    assert "Trained on 2 processes, 2 epochs" in shared.summary()
    model._trained_where = ("dask", 16)
    model.best_validation_score_, model._moments = 0.987654, [np.zeros(2**20)]
    assert max(map(len, model.summary().splitlines())) <= 80
