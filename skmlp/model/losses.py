"""The losses, by name, each with the output activation it is matched with.

For every pair here the gradient with respect to the last layer's raw predictions is
``prediction - target``, times the row's weight. A new loss is one entry here and its
kernel in `skmlp.kernels`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Loss:
    """A loss together with its output activation.

    Attributes
    ----------
    name : str
        The name of its kernel.
    output : str
        The output activation, scikit-learn's ``out_activation_``.
    target : {"codes", "indicator", "real"}
        What `y` holds: one class index a row; a 0/1 matrix; real numbers.
    mean_over_outputs : bool
        The reported loss is the mean over the outputs, not their sum. The gradient is
        that of the sum in any case.
    """

    name: str
    output: str
    target: str
    mean_over_outputs: bool = False


LOSSES = {
    loss.name: loss
    for loss in (
        Loss("softmax_log_loss", "softmax", "codes"),
        Loss("logistic_log_loss", "logistic", "indicator"),
        Loss("squared_error", "identity", "real", mean_over_outputs=True),
        Loss("poisson", "exp", "real"),
    )
}
