"""Estimators in files without pickle."""

from __future__ import annotations

import os
from typing import Any

from skmlp import persistence
from skmlp.estimators import kept
from skmlp.estimators.kept import check_version


def save(estimator: Any, path: str | os.PathLike[str]) -> None:
    """Write an estimator into a file, without pickle.

    The file is that of `numpy.savez` with a file of JSON in it; reading it runs no
    code. It is written in one step: after a crash there is the old file or the new one.

    Parameters
    ----------
    estimator : estimator of this package
        A classifier or regressor, fitted or not.
    path : str or path-like
        The file.

    Raises
    ------
    TypeError
        It is another kind of estimator; those are kept by joblib or skops.
    ValueError
        A parameter or attribute is no plain data, such as a function.

    See Also
    --------
    load : The inverse.
    Checkpoint : While training.

    Examples
    --------
    >>> import tempfile, os, skmlp
    >>> model = skmlp.MLPRegressor(max_iter=3).fit([[0.0], [1.0]], [0, 1])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     skmlp.save(model, os.path.join(folder, "model.skmlp"))
    ...     again = skmlp.load(os.path.join(folder, "model.skmlp"))
    >>> (again.predict([[2.0]]) == model.predict([[2.0]])).item()
    True
    """
    persistence.write(path, "estimator", kept.tree_of(estimator))


def load(path: str | os.PathLike[str]) -> Any:
    """Read an estimator that `save`, or a `Checkpoint`, has written.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    estimator of this package
        As it was saved. From a checkpoint: fitted as far as the training had come.

    Raises
    ------
    FileNotFoundError
        There is none.
    ValueError
        The file is damaged, truncated, of a later format or of something else.

    Warns
    -----
    sklearn.exceptions.InconsistentVersionWarning
        Another version of skmlp wrote it.

    See Also
    --------
    save : The inverse, with an example.
    """
    kind, version, tree = persistence.read(path, "estimator", "checkpoint")
    if kind == "checkpoint":
        tree = tree["estimator"]
    check_version(tree["class"], version)
    return _estimator_of(tree, path, version)


def _estimator_of(tree: dict[str, Any], path: Any, version: str) -> Any:
    """The inverse of `kept.tree_of`."""
    classes = known_classes()
    if tree["class"] not in classes:
        raise ValueError(f"{path} holds a {tree['class']}, unknown to this version")
    cls = classes[tree["class"]]
    unknown = sorted({*tree["params"]} - {*cls._get_param_names()})
    if unknown:
        raise ValueError(
            f"{path} was written by skmlp {version}, whose {cls.__name__} had the "
            f"parameters {', '.join(unknown)}; this version has not"
        )
    estimator = cls(**tree["params"])
    for name, value in tree["attributes"].items():
        setattr(estimator, name, _with_parts(value, path, version))
    requests = estimator._get_metadata_request() if tree["requests"] else None
    for method, wanted in tree["requests"].items():
        for param, alias in wanted.items():
            getattr(requests, method).add_request(param=param, alias=alias)
    if requests is not None:
        estimator._metadata_request = requests
    return estimator


def _with_parts(value: Any, path: Any, version: str) -> Any:
    """An attribute, with the estimators that it is or holds."""
    if isinstance(value, list):
        return [_with_parts(part, path, version) for part in value]
    if isinstance(value, dict) and set(value) == kept.KEYS:
        return _estimator_of(value, path, version)
    return value


def known_classes() -> dict[str, Any]:
    """The classes that a file may hold, by name."""
    from skmlp.estimators.classifier import MLPClassifier
    from skmlp.estimators.regressor import MLPRegressor
    from skmlp.tabular.classifier import TabularMLPClassifier
    from skmlp.tabular.encoder import TableEncoder
    from skmlp.tabular.regressor import TabularMLPRegressor

    classes = (MLPClassifier, MLPRegressor, TabularMLPClassifier, TabularMLPRegressor)
    return {cls.__name__: cls for cls in (*classes, TableEncoder)}
