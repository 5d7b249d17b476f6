"""scikit-learn's own tests of its multilayer perceptron, run on skmlp's.

The installed ``test_mlp.py`` is read, its import of the two estimators is turned to
skmlp, and each of its tests becomes an item of this suite, with its parameters. No
text of that file is kept here.
"""

from __future__ import annotations

import ast
import importlib.util
import types
from pathlib import Path

import numpy as np
import pytest

import skmlp

INSTALLED = "sklearn.neural_network.tests.test_mlp"
ESTIMATORS = ("MLPClassifier", "MLPRegressor")

#: Tests left out, each with the private name of the original that it calls and skmlp
#: does not have, and why. No other reason counts.
LEFT_OUT = {
    "test_gradient": (
        "_loss_grad_lbfgs",
        "the original's function of packed parameters; skmlp's gradients are checked "
        "against numeric ones in the tests of its networks",
    ),
}

# scikit-learn runs its tests with warnings shown; many of them stop at max_iter, and
# some hand L-BFGS a patience that it has no use for.
pytestmark = pytest.mark.filterwarnings(
    "default",
    "ignore::sklearn.exceptions.ConvergenceWarning",
    "ignore::skmlp.UnusedParameterWarning",
    # None of these fits deserves it.
    "error::skmlp.ModelQualityWarning",
)


def read_installed() -> ast.Module:
    """Parse the installed test file; skip where scikit-learn came without its tests."""
    try:
        spec = importlib.util.find_spec(INSTALLED)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        pytest.skip(
            "this scikit-learn was installed without its tests",
            allow_module_level=True,
        )
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"), spec.origin)


def turned_to_skmlp(tree: ast.Module) -> types.ModuleType:
    """Run the file as a module whose two estimators are skmlp's."""
    turned = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "sklearn.neural_network":
            assert {name.name for name in node.names} <= set(ESTIMATORS)
            node.module = "skmlp"
            turned += 1
    assert turned, "the installed test_mlp.py imports its estimators in another way"
    module = types.ModuleType("sklearn_test_mlp_with_skmlp")
    exec(compile(tree, f"<{INSTALLED}, with skmlp>", "exec"), module.__dict__)
    return module


tree = read_installed()
functions = {
    node.name: node
    for node in tree.body
    if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
}
own = turned_to_skmlp(tree)
globals().update(
    {name: getattr(own, name) for name in functions if name not in LEFT_OUT}
)


@pytest.fixture
def global_random_seed() -> int:
    """Stand in for the fixture of scikit-learn's conftest; 42 is its default."""
    return 42


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Fix the global state, which many of the tests draw from, so that runs repeat."""
    np.random.seed(0)


def test_the_estimators_are_ours() -> None:
    for name in ESTIMATORS:
        assert getattr(own, name) is getattr(skmlp, name)


def test_no_test_hides_in_a_class() -> None:
    assert not [node for node in tree.body if isinstance(node, ast.ClassDef)]


def test_at_most_two_are_left_out() -> None:
    assert len(LEFT_OUT) <= 2
    assert len(functions) >= 35


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_is_left_out_has_to_be(name: str) -> None:
    private, _ = LEFT_OUT[name]
    used = {n.attr for n in ast.walk(functions[name]) if isinstance(n, ast.Attribute)}
    assert private in used
    assert private.startswith("_")
    for estimator in ESTIMATORS:
        assert not hasattr(getattr(skmlp, estimator), private)
