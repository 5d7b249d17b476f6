"""The table of README.md as a picture: ``python docs/figures/speed.py`` renews it."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| (\S+), (\d+) \| (float\d+) \| (.*) \|$", re.MULTILINE)
NAMES = ("scikit-learn", "torch", "skmlp")
COLORS = ("0.6", "C1", "C0")

rows = [
    (f"{layers}\nbatch {batch}, {dtype}", [float(n) for n in numbers.split("|")[:3]])
    for layers, batch, dtype, numbers in ROW.findall(
        (ROOT / "README.md").read_text(encoding="utf-8")
    )
]
labels, times = zip(*rows, strict=True)
times = np.array(times)
figure, axes = plt.subplots(figsize=(9, 4), layout="constrained")
places = np.arange(len(rows))
for k, (name, color) in enumerate(zip(NAMES, COLORS, strict=True)):
    relative = times[:, k] / times[:, 0]
    bars = axes.bar(places + 0.27 * (k - 1), relative, 0.25, label=name, color=color)
    texts = [f"{ms:.0f}" if ms >= 1000 else f"{ms:.3g}" for ms in times[:, k]]
    axes.bar_label(bars, texts, fontsize=7, padding=1)
axes.set_xticks(places, labels, fontsize=7)
axes.set_ylabel("time of an epoch, scikit-learn = 1")
axes.set_title(
    "Milliseconds of an epoch, Adam, two cores: lower is better", fontsize=10
)
axes.spines[["top", "right"]].set_visible(False)
axes.legend(ncols=3, frameon=False, loc="upper left", bbox_to_anchor=(0, 1.0))
axes.set_ylim(0, 1.75)
plt.rcParams["svg.hashsalt"] = "skmlp"  # the same file from the same table
figure.savefig(ROOT / "docs" / "_static" / "speed.svg", metadata={"Date": None})
