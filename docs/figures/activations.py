"""The activations, by their formulas."""

import matplotlib.pyplot as plt
import numpy as np

from skmlp.model.activations import ACTIVATIONS

groups = [
    ("logistic", "hard_sigmoid", "tanh", "hard_tanh"),
    ("relu", "leaky_relu", "elu", "selu", "softplus"),
    ("relu", "gelu", "silu", "mish"),
]
assert {name for group in groups for name in group} == set(ACTIVATIONS) - {"identity"}
figure, panels = plt.subplots(1, 3, figsize=(9, 3), sharex=True)
for axes, names in zip(panels, groups, strict=True):
    for name in names:
        z = np.linspace(-4, 4, 401)
        axes.plot(z, ACTIVATIONS[name].value(np, z), label=name)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper left")
figure.tight_layout()
