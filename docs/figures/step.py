"""The step of two workers: parts, reduce-scatter, update, all-gather."""

import matplotlib.pyplot as plt

COLORS = ("C0", "C1")
figure, axes = plt.subplots(figsize=(7, 3.4))


def bar(x, y, parts, text):
    """A flat vector, cut into two segments."""
    for k, color in enumerate(parts):
        axes.add_patch(
            plt.Rectangle((x + 0.45 * k, y), 0.45, 0.5, color=color, alpha=0.6, lw=0)
        )
    axes.text(x + 0.45, y + 0.62, text, ha="center", fontsize=9)


for worker in range(2):
    y = 2.0 - 2.0 * worker
    own = COLORS[worker]
    axes.text(-0.15, y + 0.25, f"worker {worker}", ha="right", va="center")
    bar(0.0, y, (own, own), f"$G^{{({worker})}}$ of its rows")
    axes.add_patch(
        plt.Rectangle((2.2 + 0.45 * worker, y), 0.45, 0.5, color="0.45", lw=0)
    )
    axes.text(2.65, y + 0.62, "sum, step", ha="center", fontsize=9)
    bar(4.2, y, ("0.45", "0.45"), "new weights")
# Each sends the segment of the other one.
for x0, x1 in ((0.95, 2.15), (3.15, 4.15)):
    axes.annotate("", (x1, 0.3), (x0, 2.2), arrowprops={"arrowstyle": "->"})
    axes.annotate("", (x1, 2.2), (x0, 0.3), arrowprops={"arrowstyle": "->"})
axes.text(1.55, -0.55, "reduce-scatter", ha="center", style="italic")
axes.text(3.65, -0.55, "all-gather", ha="center", style="italic")
axes.set_xlim(-1.2, 5.3)
axes.set_ylim(-0.8, 3.0)
axes.axis("off")
