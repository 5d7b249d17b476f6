"""The network of the example: three inputs, four hidden units, one output."""

from itertools import pairwise

import matplotlib.pyplot as plt

layers = {"rows $A_0$": 3, "hidden units $A_1$": 4, "prediction $P$": 1}
figure, axes = plt.subplots(figsize=(6, 3))
places = [
    [(x, y - (n - 1) / 2) for y in range(n)] for x, n in enumerate(layers.values())
]
for left, right in pairwise(places):
    for x0, y0 in left:
        for x1, y1 in right:
            axes.plot([x0, x1], [y0, y1], color="0.75", linewidth=1, zorder=1)
for (name, _), column in zip(layers.items(), places, strict=True):
    xs, ys = zip(*column, strict=True)
    axes.scatter(xs, ys, s=260, color="white", edgecolor="C0", linewidth=2, zorder=2)
    axes.text(xs[0], -2.1, name, ha="center", va="top")
for x, weights in enumerate(("$W_0, b_0$", "$W_1, b_1$")):
    axes.text(x + 0.5, 1.75, weights, ha="center")
axes.annotate("", (1.9, 2.3), (0.1, 2.3), arrowprops={"arrowstyle": "->"})
axes.text(1, 2.4, "forward", ha="center", va="bottom")
axes.annotate("", (0.1, -2.8), (1.9, -2.8), arrowprops={"arrowstyle": "->"})
axes.text(1, -2.9, "backward: $D_1$, then $D_0$", ha="center", va="top")
axes.set_xlim(-0.4, 2.4)
axes.set_ylim(-3.4, 3)
axes.axis("off")
