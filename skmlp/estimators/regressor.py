"""The regressor: real targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import RegressorMixin, _fit_context
from sklearn.utils._param_validation import HasMethods, Interval
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from skmlp.arrays import Array, fetch
from skmlp.data.partitions import PartStats
from skmlp.estimators.base import BaseMLP, ScoreMixin
from skmlp.estimators.fitting import hyperparameters
from skmlp.estimators.fitting.inputs import Input, is_dask, on_host
from skmlp.estimators.suggestions import Names, pointing
from skmlp.estimators.targets.class_labels import Mode
from skmlp.estimators.targets.real import Real as RealTarget
from skmlp.model.losses import LOSSES, METHOD


class MLPRegressor(ScoreMixin, RegressorMixin, BaseMLP):
    """Multi-layer perceptron regressor.

    Drop-in for `sklearn.neural_network.MLPRegressor`: the same parameters, attributes
    and, for the same `random_state`, the same model. The documentation's page
    "Differences from scikit-learn" lists where it departs.

    The parameters come in groups, each of which begins with its name and a link:
    network, loss, solver, learning rate, regularisation, validation, stopping, output
    and parallelism.

    Parameters
    ----------
    hidden_layer_sizes : array-like of int or int, default=(100,)
        **Network** (:ref:`guide <guide-size>`). Width of each hidden layer. ``()`` is a
        linear model. The default is one layer of 100 units.
    activation : str, object, or list of them, default='relu'
        Activation of the hidden layers; one for all or one for each. 'identity',
        'logistic', 'tanh', 'relu', 'leaky_relu', 'elu', 'selu', 'gelu', 'silu', 'mish',
        'softplus', 'hard_tanh', 'hard_sigmoid', or an object with the methods ``value``
        and ``derivative``. The default, 'relu', is ``max(0, z)``.
    coefs_init, intercepts_init : list of array-like or None, default=None
        First weights, of shape (fan_in, fan_out), and biases, of shape (fan_out,), one
        for each layer; None in place of an array draws that one at random, as it would
        be drawn without the others. A `fit` that goes on from a fitted model
        (`warm_start`, `partial_fit`) does not use them. By default all are random.
    frozen_layers : array-like of int or None, default=None
        Layers that keep their weights and biases, by their index in `coefs_`; -1 is the
        output layer. The penalty leaves them out. By default none.
    output_bias_init : {'auto', 'mean'}, default='auto'
        With 'mean', the first biases of the output layer predict the best constant: the
        weighted mean of the training targets of the first call (for 'absolute_error'
        and 'quantile' the median or quantile). 'auto' does so for losses with a log
        link that scikit-learn lacks: 'gamma', and objects with the output 'exp'.
        `intercepts_init` comes first.
    loss : str or object, default='squared_error'
        **Loss** (:ref:`guide <guide-loss>`). 'squared_error' is half of it,
        'absolute_error' is for the median, 'huber' is between the two, 'quantile' is
        the pinball loss; 'poisson' and 'gamma' are half the deviance, with an
        exponential output. Or an object with the method ``value_and_gradient``.
    missing_targets : {'error', 'mask'}, default='error'
        What NaN in `y` means: an error, or a target that is not known and adds nothing
        to loss, gradient and score. The other targets of its row count as usual. By
        default NaN is refused.
    huber_delta : float, default=1.0
        Errors up to this are squared by 'huber', larger ones count linearly. The
        default suits targets of about the size 1.
    quantile : float or list of float, default=0.5
        The level of 'quantile'. A rising list gives a column of `predict` for each;
        their predictions never cross. By default the median.
    solver : str, default='adam'
        **Solver** (:ref:`guide <guide-batch>`). 'sgd' is gradient descent with
        momentum, 'adam' that of Kingma and Ba, 'adamw' the same with `weight_decay`,
        'nadam' with Nesterov's momentum; 'rmsprop' and 'adagrad' scale the gradient by
        its mean and by its sum of squares; 'lbfgs' is a quasi-Newton method on all rows
        at once. The default suits most tasks.
    batch_size : int or 'auto', default='auto'
        Rows of a minibatch, over all workers; 'auto' is ``min(200, n_samples)``.
    max_iter : int, default=200
        The most epochs, or L-BFGS iterations. A fit may stop before; see `tol`.
    shuffle : bool, default=True
        Shuffle the rows before each epoch, or keep their order.
    random_state : int, RandomState instance or None, default=None
        For the first weights, the split of early stopping and the shuffling. By default
        each fit is another one.
    momentum : float, default=0.9
        Momentum of 'sgd': the share of a step that the next one repeats.
    nesterovs_momentum : bool, default=True
        Use Nesterov's momentum with 'sgd', or the classical one.
    beta_1 : float, default=0.9
        Decay of the Adams' first moment. The default averages about 10 steps.
    beta_2 : float, default=0.999
        Decay of the Adams' second moment. The default averages about 1000 steps.
    epsilon : float, default=1e-8
        Keeps the step finite where squares are divided by. The default changes nothing
        else.
    rho : float, default=0.9
        Decay of the mean of squares of 'rmsprop'. The default averages about 10 steps.
    clip_norm : float or None, default=None
        The most that the norm of a step's gradient may be; a longer one is scaled down.
        Not with 'lbfgs'. By default no step is scaled.
    average : bool or float, default=False
        Let the model have a moving mean of the weights over the steps, with this decay;
        True is 0.999. Not with 'lbfgs'. By default the model has the weights of the
        last step.
    max_fun : int, default=15000
        The most loss evaluations of 'lbfgs'. The default is seldom reached.
    learning_rate : str or callable, default='constant'
        **Learning rate** (:ref:`guide <guide-rate>`). The schedule. 'constant',
        'invscaling' and 'adaptive' are scikit-learn's, which 'adam' ignores. 'step',
        'exponential', 'cosine' and 'one_cycle' work with all solvers but 'lbfgs', and
        so does a function that takes the numbers of step and epoch, from 0, and returns
        the rate. The default keeps the rate.
    learning_rate_init : float, default=0.001
        The first learning rate; the highest one where it rises before. The default
        suits 'adam'; 'sgd' often needs a larger one.
    learning_rate_min : float, default=0.0
        The last rate of 'cosine'. By default it falls to 0.
    power_t : float, default=0.5
        Exponent of 'invscaling': the rate is divided by this power of the number of
        rows seen, by default by its square root.
    decay_rate : float, default=0.5
        What 'step' and 'exponential' multiply the rate by in `decay_epochs`. By default
        they halve it.
    decay_epochs : float, default=20
        In how many epochs they do; see `decay_rate`.
    warmup_epochs : float, default=0
        In the first so many epochs, the rate of 'step', 'exponential' and 'cosine'
        rises linearly from 0. By default there is no warm-up.
    restart_epochs : float or None, default=None
        Length of a cycle of 'cosine', after which it starts again; None for one cycle
        in `max_iter` epochs.
    alpha : float, default=0.0001
        **Regularisation** (:ref:`guide <guide-overfitting>`). Strength of the L2
        penalty on the weights. It is divided by the rows of a minibatch. The default is
        weak; 1 to 10 is strong.
    l1_ratio : float, default=0.0
        The share of the L1 norm in the penalty, as in scikit-learn's elastic net:
        ``alpha * (l1_ratio * |w| + (1 - l1_ratio) / 2 * w**2)``. It makes weights
        exactly 0. Not with 'lbfgs'. By default the penalty is L2 alone.
    weight_decay : float, default=0.01
        For 'adamw': each step shrinks the weights by this times the learning rate. The
        default is mild; 0 is 'adam'.
    dropout : float or list of float, default=0.0
        Share of each hidden layer's units that a training step leaves out; one for all
        layers or one for each. Not with 'lbfgs'. By default none.
    input_dropout : float, default=0.0
        Share of the features that a training step leaves out. By default none.
    input_encoding : InputEncoding or None, default=None
        What each minibatch's rows are encoded by before the first layer, such as
        ``InputEncoding.of_quantiles(X)``: see :class:`InputEncoding`. By default the
        columns of `X` are the inputs.
    early_stopping : bool, default=False
        **Validation** (:ref:`guide <guide-validation>`). Set rows aside, stop when
        their R2 stops rising, keep the best weights. By default all rows are trained
        on.
    validation_fraction : float, default=0.1
        Share of the rows set aside. By default a tenth.
    scoring : str, callable or None, default=None
        What is scored on the validation rows: the name of a scorer, a callable
        ``scorer(estimator, X, y)``, or 'loss': minus the validation loss. None is R2,
        and 'loss' for several quantiles.
    tol : float, default=1e-4
        **Stopping** (:ref:`guide <guide-stopping>`). An epoch that improves by less
        counts against the patience. The default suits losses of about the size 1.
    tol_scale : {'absolute', 'initial'}, default='absolute'
        What `tol` is: a loss, or a share of the loss that the best constant prediction
        has on the training rows of the call, so that the unit of the targets does not
        matter. A score that early stopping goes by is compared with `tol` itself. The
        default is scikit-learn's.
    n_iter_no_change : int, default=10
        Patience: training stops after one more epoch than this without improvement, by
        default after 11.
    max_time : float or None, default=None
        Seconds after which `fit` ends, at the end of an epoch or L-BFGS iteration. By
        default there is no limit.
    warm_start : bool, default=False
        Let `fit` go on with the fitted weights; with `early_stopping`, with the last
        ones, while the best ones are kept. By default each `fit` begins anew.
    verbose : bool or int, default=False
        **Output** (:ref:`guide <guide-output>`). True prints each epoch, as
        scikit-learn does; 2 adds the seconds, and at the end where the network was
        trained and why. The logger ``skmlp`` has all of it. By default nothing is
        printed.
    n_jobs : int or None, default=None
        **Parallelism** (:ref:`guide <guide-cores>`). Workers that train the one model
        together: processes of joblib's active backend, or of a Dask cluster. None means
        1 unless a `joblib.parallel_config` says otherwise, -1 all cores. Where sharing
        the work would be slower, fewer are used. Under joblib's threads, the default
        backend, it changes nothing: a fit in this process has its own threads.

    Attributes
    ----------
    coefs_, intercepts_ : list of ndarray
        Weights of shape (fan_in, fan_out), biases of shape (fan_out,), by layer.
    loss_ : float
        The last epoch's loss.
    best_loss_ : float or None
        The smallest; None with early stopping.
    loss_curve_ : list of float
        The loss of each epoch; not for 'lbfgs'.
    validation_scores_ : list of float or None
        R2 on the rows set aside, by epoch; None without early stopping.
    validation_loss_curve_ : list of float or None
        The loss of the validation rows after each epoch, without penalty.
    best_validation_score_ : float or None
        The largest of them.
    best_epoch_ : int or None
        Its epoch, as `history_` counts them.
    history_ : list of dict
        One for each epoch: epoch, loss, validation_score and validation_loss (None
        without validation rows), learning_rate, gradient_norm (of the loss in the last
        minibatch, without penalty), seconds; of these, the seconds that each rank spent
        computing and waiting for the busiest one, as lists, and the seconds spent
        communicating. For 'lbfgs' one for each iteration, without score, rate and norm.
        `skmlp.config_context(history_length=...)` bounds its length.
        Pickles and copies hold NaN for the times, so that equal fits have equal hashes.
    restarts_ : list of dict
        For each time that the last call went on with other ranks, because a worker was
        lost or had joined: the epoch with which they began, and the reason.
    n_iter_ : int
        Epochs of the last call.
    t_ : int
        Rows seen; 0 for 'lbfgs'.
    n_layers_, n_outputs_ : int
        Layers with input and output, and width of the last.
    out_activation_ : str
        'identity', 'exp', or 'increasing' for several quantiles.
    n_shards_ : int
        Parts that each minibatch was cut into.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if `X` had any.

    See Also
    --------
    MLPClassifier : The classifier.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.preprocessing import scale
    >>> from skmlp import MLPRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> reg = MLPRegressor(solver="lbfgs", hidden_layer_sizes=(5,), random_state=0)
    >>> reg.fit(X, scale(y)).predict(X[:2]).shape
    (2,)
    """

    _kept_as = "MLPRegressor"  # in files
    _parameter_constraints: dict[str, list[Any]] = {
        **BaseMLP._parameter_constraints,
        "loss": [
            # A list of levels makes "quantiles" of "quantile".
            Names(
                {n for n, loss in LOSSES.items() if loss.target == "real"}
                - {"quantiles"}
            ),
            HasMethods([METHOD]),
        ],
        "missing_targets": [Names({"error", "mask"})],
        "huber_delta": [Interval(Real, 0, None, closed="neither")],
        "quantile": [Interval(Real, 0, 1, closed="neither"), "array-like"],
    }

    @pointing
    def __init__(
        self,
        loss: Any = "squared_error",
        hidden_layer_sizes: int | ArrayLike = (100,),
        activation: Any = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str | Callable[[int, int], float] = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        scoring: str | Callable[..., float] | None = None,
        max_time: float | None = None,
        coefs_init: Sequence[ArrayLike | None] | None = None,
        intercepts_init: Sequence[ArrayLike | None] | None = None,
        frozen_layers: ArrayLike | None = None,
        missing_targets: str = "error",
        huber_delta: float = 1.0,
        quantile: ArrayLike = 0.5,
        dropout: float | Sequence[float] = 0.0,
        input_dropout: float = 0.0,
        input_encoding: Any = None,
        l1_ratio: float = 0.0,
        weight_decay: float = 0.01,
        rho: float = 0.9,
        clip_norm: float | None = None,
        average: bool | float = False,
        learning_rate_min: float = 0.0,
        decay_rate: float = 0.5,
        decay_epochs: float = 20,
        warmup_epochs: float = 0,
        restart_epochs: float | None = None,
        output_bias_init: str = "auto",
        tol_scale: str = "absolute",
        n_jobs: int | None = None,
    ) -> None:
        self.loss = loss
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.scoring = scoring
        self.max_time = max_time
        self.coefs_init = coefs_init
        self.intercepts_init = intercepts_init
        self.frozen_layers = frozen_layers
        self.missing_targets = missing_targets
        self.huber_delta = huber_delta
        self.quantile = quantile
        self.dropout = dropout
        self.input_dropout = input_dropout
        self.input_encoding = input_encoding
        self.l1_ratio = l1_ratio
        self.weight_decay = weight_decay
        self.rho = rho
        self.clip_norm = clip_norm
        self.average = average
        self.learning_rate_min = learning_rate_min
        self.decay_rate = decay_rate
        self.decay_epochs = decay_epochs
        self.warmup_epochs = warmup_epochs
        self.restart_epochs = restart_epochs
        self.output_bias_init = output_bias_init
        self.tol_scale = tol_scale
        self.n_jobs = n_jobs

    _target = property(hyperparameters.real_target)

    def _check_targets(
        self, X: Any, y: Any, mode: Mode, *, reset: bool
    ) -> tuple[Any, Array]:
        checked: tuple[Any, Array] = self._target.check(self, X, y, reset=reset)
        return checked

    def _check_stats(self, stats: PartStats, mode: Mode) -> None:
        self._target.check_stats(stats)

    @available_if(lambda estimator: estimator._check_solver())
    @pointing
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        epochs: int = 1,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Self:
        """Train for one epoch, or several, on the given rows.

        Without early stopping, several epochs are as many calls. With it, which needs
        a validation set, the weights of the call's best epoch are kept.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The rows.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Their targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Their weights.
        epochs : int, default=1
            How often to go through the rows.
        X_val, y_val : array-like, default=None
            Validation rows and their targets, in place of a part of `X` that is set
            aside. With `early_stopping` they say when to stop; without it they are
            only looked at, for `validation_scores_` and `validation_loss_curve_`.
            Dask arrays, or small arrays, where `X` is a Dask array.
        sample_weight_val : array-like of shape (n_val,), default=None
            Their weights.

        Returns
        -------
        self : MLPRegressor
            The trained estimator.
        """
        validation = X_val, y_val, sample_weight_val
        return self._partial_fit(Input(X, y, sample_weight, *validation), epochs)

    def predict(self, X: Any) -> Any:
        """Predict targets.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The rows. A Dask array gives a lazy Dask array.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            The predictions.
        """
        if is_dask(X):
            check_is_fitted(self)
            columns = self.n_outputs_ if self.n_outputs_ > 1 else None
            return self._lazy("predict", X, n_columns=columns)
        raw = self._forward(X)
        return raw[:, 0] if raw.shape[1] == 1 else raw

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Score predictions by R2; several quantiles by the mean of their D2.

        With ``missing_targets="mask"`` only targets that are known count: R2 is the
        mean over those outputs that have some.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The rows.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            The truth. A Dask array if `X` is one; only sums then leave the workers.
            For several quantiles, `y` and the weights come together on one of them.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights.

        Returns
        -------
        float
            `sklearn.metrics.r2_score`, or the mean over the quantiles of
            `sklearn.metrics.d2_pinball_score`.

        See Also
        --------
        d2_pinball_scorer : The same behind estimators that compute R2.
        """
        target: RealTarget = self._target
        if target.several and not is_dask(X):
            given = fetch(self.predict(X)), on_host(sample_weight)
            return target.score_quantiles(on_host(y), *given)
        return super().score(X, y, sample_weight)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.target_tags.positive_only = self.loss in ("poisson", "gamma")
        return tags
