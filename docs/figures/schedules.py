"""The learning rates of 100 epochs of ten steps."""

import matplotlib.pyplot as plt

from skmlp.optim.schedules import Schedule

settings = {
    "step": {"decay_epochs": 20},
    "exponential": {"decay_epochs": 20, "warmup_epochs": 10},
    "cosine": {"warmup_epochs": 10, "restart_epochs": 30},
    "one_cycle": {},
}
figure, panels = plt.subplots(1, 4, figsize=(9, 2.4), sharex=True, sharey=True)
for axes, (name, given) in zip(panels, settings.items(), strict=True):
    schedule = Schedule(name, 1e-3, n_epochs=100, **given)
    rates = [r for epoch in range(100) for r in schedule.rates(epoch, 10 * epoch, 10)]
    axes.plot([i / 10 for i in range(1000)], rates)
    axes.set_title(name, fontsize=10)
    axes.text(
        0.98,
        0.97,
        "\n".join(f"{key}={value}" for key, value in given.items()),
        transform=axes.transAxes,
        ha="right",
        va="top",
        fontsize=7,
    )
    axes.set_xlabel("epoch")
    axes.grid(alpha=0.3)
panels[0].set_ylabel("learning rate")
figure.tight_layout()
