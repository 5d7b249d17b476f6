"""What is to be done: the record of one run.

The estimators read the hyper-parameters once, when they make the plan; everything below
them reads the plan. It is frozen, picklable and small: no rows, no parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from skmlp.arrays import Array
from skmlp.model.input_encoding import InputEncoding
from skmlp.model.layout import Layout, layout_of
from skmlp.model.losses import Loss, entry, heads_of
from skmlp.optim.schedules import Schedule


@dataclass(frozen=True)
class Split:
    """How rows are set aside for early stopping: enough to do it again anywhere.

    Attributes
    ----------
    n_rows : int
        All rows.
    fraction : float
        Share of them to set aside.
    rng : tuple of (bytes, int)
        State of the Mersenne twister before the draws.
    labels : bytes or None
        The packed bits of a binary target, by which the split is stratified.
    keyed : bool
        By a keyed bijection, without strata; see `Plan.keyed_order`.
    """

    n_rows: int
    fraction: float
    rng: tuple[bytes, int]
    labels: bytes | None = field(default=None, repr=False)
    keyed: bool = False


@dataclass(frozen=True)
class Plan:
    """Everything that decides the numbers of one run.

    Hyper-parameters have the names and meanings of scikit-learn's MLP.

    Attributes
    ----------
    units : tuple of int
        Width of each layer, from inputs to outputs.
    activation : tuple of str or object
        Of each hidden layer; see `skmlp.model.activations`.
    loss : str or object
        See `skmlp.model.losses.kernel_of`.
    dtype : {"float32", "float64"}
        Of rows, parameters and sums.
    batch_size : int
        Rows of a minibatch, over all shards; at most `n_rows`.
    n_rows : int
        Training rows, without those set aside for validation.
    weighted : bool
        The rows have weights.
    split : Split or None
        How rows are set aside for early stopping.
    n_validation : int
        Validation rows; 0 for none. Without a split they are rows of their own, which
        come after the training rows.
    tol_scale : {"absolute", "initial"}
        What `tol` is, where it is compared with a loss: a loss, or a share of that of
        the constant prediction.
    scoring : {"default", "loss", "driver"}
        What says how good the model is in early stopping: accuracy or R2; the loss of
        the validation rows; or the driver, after each round.
    max_iter : int
        Epochs, or L-BFGS iterations.
    incremental : bool
        One epoch of `partial_fit`: standstill ends nothing.
    order_rng : tuple of (bytes, int) or None
        State of the Mersenne twister before the first shuffle; None keeps the rows in
        their order.
    keyed_order : bool
        There are too many rows for scikit-learn's order: a bijection, whose key is
        drawn where the first shuffle would be, takes its place.
    n_shards : int
        Parts of every minibatch.
    blas_threads : int or None
        Threads of matrix products on each shard; None leaves them alone.
    step_parts : int
        Parts of each step of a single shard, for as many threads. What is computed
        depends on it, but not on how many threads there are.
    frozen : tuple of int
        Layers that are not trained, rising.
    kernels : {"reference", "compiled"}
        The kernel set.
    loss_settings : tuple of float
        Parameters of the loss.
    encoding : InputEncoding or None
        How the rows become the network's inputs; None where they are these.
    masked : bool
        Real targets that are NaN are missing; else there are none.
    average : float or None
        Decay of the moving mean of the parameters that the model is to have; None for
        the parameters themselves.
    schedule : Schedule or None
        `learning_rate` with all that it depends on; None for a constant rate.
    first_epoch : int
        Where the schedule stands at the beginning.
    dropout : tuple of float
        The share that is dropped of the features and of each hidden layer; empty for
        no dropout at all.
    dropout_key : tuple of (int, int) or None
        Key of its masks, two words of 32 bits.
    classes : ndarray, tuple of ndarray or None
        Labels in the order of the outputs, for ranks that encode their own rows; those
        of each head, where there are several.
    class_weights : tuple of ndarray
        For ranks that encode their own rows: of each column of labels, the weights of
        its classes. Empty for none, and where the rows come with weights that count
        the classes' in.
    """

    units: tuple[int, ...]
    activation: tuple[Any, ...]
    loss: Any
    solver: str
    dtype: str
    alpha: float
    batch_size: int
    n_rows: int
    weighted: bool
    learning_rate: Any
    learning_rate_init: float
    power_t: float
    momentum: float
    nesterovs_momentum: bool
    beta_1: float
    beta_2: float
    epsilon: float
    max_iter: int
    tol: float
    n_iter_no_change: float
    early_stopping: bool
    split: Split | None = None
    n_validation: int = 0
    tol_scale: str = "absolute"
    scoring: str = "default"
    incremental: bool = False
    order_rng: tuple[bytes, int] | None = None
    keyed_order: bool = False
    n_shards: int = 1
    blas_threads: int | None = None
    step_parts: int = 1
    frozen: tuple[int, ...] = ()
    kernels: str = "reference"
    loss_settings: tuple[float, ...] = ()
    encoding: InputEncoding | None = field(default=None, repr=False, compare=False)
    masked: bool = False
    weight_decay: float = 0.0
    l1_ratio: float = 0.0
    clip_norm: float | None = None
    average: float | None = None
    rho: float = 0.9
    schedule: Schedule | None = None
    first_epoch: int = 0
    dropout: tuple[float, ...] = ()
    dropout_key: tuple[int, int] | None = None
    classes: Array | tuple[Array, ...] | None = field(
        default=None, repr=False, compare=False
    )
    class_weights: tuple[Array, ...] = field(default=(), repr=False, compare=False)

    @property
    def layout(self) -> Layout:
        """The network's shapes."""
        return layout_of(self.units)

    @property
    def loss_entry(self) -> Loss:
        """The loss's entry."""
        return entry(self.loss)

    @property
    def heads(self) -> tuple[int, ...]:
        """The columns of each head of the output layer; () where it is one block."""
        return heads_of(self.loss, self.loss_settings)

    @property
    def n_targets(self) -> int:
        """The numbers that a row's encoded target has."""
        if self.heads or self.loss_entry.target == "codes":
            return len(self.heads) or 1
        return self.units[-1]

    @property
    def by_loss(self) -> bool:
        """Whether a loss says when to stop, of training or validation rows."""
        return not self.early_stopping or self.scoring == "loss"

    @property
    def n_batches(self) -> int:
        """Minibatches of an epoch."""
        return -(-self.n_rows // self.batch_size)

    @property
    def loss_scale(self) -> float:
        """What the summed data loss is multiplied by before it is reported."""
        return 1.0 / self.units[-1] if self.loss_entry.mean_over_outputs else 1.0

    def batch(self, number: int) -> slice:
        """Positions of a minibatch in the order of the epoch."""
        start = number * self.batch_size
        return slice(start, min(start + self.batch_size, self.n_rows))
