"""All compiled kernels in one place, by name."""

from __future__ import annotations

from skmlp.kernels import activations, losses
from skmlp.kernels.activations import BACKWARD, DERIVING, scaled_backward
from skmlp.kernels.losses import LOSS
from skmlp.kernels.masks import (
    csr_dropout,
    drop,
    dropout_mask,
    loss_of_known,
    multiply,
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
    "drop",
    "dropout_mask",
    "gradient_norm",
    "loss_of_known",
    "move_average",
    "multiply",
    "name",
    "scaled_backward",
    "soft_threshold",
]

name = "compiled"

#: Of hidden layers and of the output layer.
FORWARD = activations.FORWARD | losses.OUTPUT
