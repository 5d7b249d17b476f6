"""All compiled kernels in one place, by name."""

from __future__ import annotations

from skmlp.kernels import activations, losses
from skmlp.kernels.activations import BACKWARD, DERIVING, scaled_backward
from skmlp.kernels.losses import LOSS
from skmlp.kernels.masks import (
    csr_dropout,
    dropout_mask,
    gather_known,
    scatter_known,
)
from skmlp.kernels.solvers import (
    STEP,
    absolute_sum,
    all_finite,
    gradient_norm,
    move_average,
    soft_threshold,
)
from skmlp.kernels.sparse import csr_dot, csr_transposed_dot

__all__ = [
    "BACKWARD",
    "DERIVING",
    "FORWARD",
    "LOSS",
    "STEP",
    "absolute_sum",
    "all_finite",
    "csr_dot",
    "csr_dropout",
    "csr_transposed_dot",
    "dropout_mask",
    "gather_known",
    "gradient_norm",
    "move_average",
    "name",
    "scaled_backward",
    "scatter_known",
    "soft_threshold",
]

name = "compiled"

#: Of hidden layers and of the output layer.
FORWARD = activations.FORWARD | losses.OUTPUT
