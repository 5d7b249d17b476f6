"""All compiled kernels in one place, by name."""

from __future__ import annotations

from skmlp.kernels import activations, losses
from skmlp.kernels.activations import BACKWARD as BACKWARD
from skmlp.kernels.activations import DERIVING as DERIVING
from skmlp.kernels.activations import scaled_backward as scaled_backward
from skmlp.kernels.losses import LOSS as LOSS
from skmlp.kernels.masks import csr_dropout as csr_dropout
from skmlp.kernels.masks import drop as drop
from skmlp.kernels.masks import dropout_mask as dropout_mask
from skmlp.kernels.masks import loss_of_known as loss_of_known
from skmlp.kernels.masks import multiply as multiply
from skmlp.kernels.rows import csr_dot as csr_dot
from skmlp.kernels.rows import csr_transposed_dot as csr_transposed_dot
from skmlp.kernels.rows import encode_rows as encode_rows
from skmlp.kernels.solvers import STEP as STEP
from skmlp.kernels.solvers import absolute_sum as absolute_sum
from skmlp.kernels.solvers import all_finite as all_finite
from skmlp.kernels.solvers import gradient_norm as gradient_norm
from skmlp.kernels.solvers import move_average as move_average
from skmlp.kernels.solvers import soft_threshold as soft_threshold

name = "compiled"

#: Of hidden layers and of the output layer.
FORWARD = activations.FORWARD | losses.OUTPUT
