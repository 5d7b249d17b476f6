"""Warnings of skmlp's own; errors are those that scikit-learn would raise."""

from __future__ import annotations


class UnusedParameterWarning(UserWarning):
    """A parameter was set that has no effect beside the others, such as the solver.

    The default value never warns, so that a fit that leaves it alone is silent.
    """


class CommunicationWarning(UserWarning):
    """The ranks of a fit have communicated for longer than they computed."""


class ModelQualityWarning(UserWarning):
    """A fit has ended in order, but its model is probably worse than it could be.

    The message names what was seen and the cure.
    """
