"""What the model of benchmarks/cost.py says of 1 to 10,000 workers."""

import matplotlib.pyplot as plt
import numpy as np

# The constants of cost.py: seconds of a core for a message and for a byte, and by how
# much bytes take longer than the rate of the link promises.
MESSAGE, BYTE, MORE = 1.7e-4, 0.8e-9, 1.03
# The network 784-256-256-10 in float32; a core computes so many of its rows a second.
SIZE, ROWS = 1.08e6, 5.2e4
LATENCY = 5e-5  # seconds from host to host, within a data center
SPREAD = 0.05  # standard deviation of the workers' speed
RATES = {1: "C3", 10: "C1", 25: "C2", 100: "C0"}  # Gbit/s


def other(n, rate):
    """Seconds of a step beside computing."""
    bits = np.ceil(np.log2(n))
    messages = np.where(n > 16, bits, n - 1)
    stages = np.where(n > 16, bits, np.minimum(n - 1, 1))
    sent = SIZE * (n - 1) / n
    return (
        2 * messages * MESSAGE
        + 2 * sent * BYTE
        + 2 * stages * LATENCY
        + 2 * sent / (rate * 1e9 / 8) * MORE
    )


def computing(n, batch):
    """Seconds of the slowest worker."""
    return batch / ROWS / n * (1 + SPREAD * np.sqrt(2 * np.log(n)))


n = np.unique(np.geomspace(1, 10_000, 200).round())
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
for batch, style in ((10_000, ":"), (1_000_000, "-")):
    for rate, color in RATES.items():
        times = computing(n, batch) + other(n, rate)
        label = f"{rate} Gbit/s" if style == "-" else None
        left.loglog(n, times[0] / times, style, color=color, label=label)
left.loglog(n, n, color="0.8", zorder=0)
left.set_ylim(0.5, 1e4)
left.set_xlabel("workers of one core")
left.set_ylabel("times as fast as one worker")
left.set_title("Steps of 1,000,000 rows (lines) and 10,000 (dots)", fontsize=9)
left.legend(frameon=False, fontsize=8)
many = n[n > 1]
for rate, color in RATES.items():
    rows = other(many, rate) * ROWS / (1 + SPREAD * np.sqrt(2 * np.log(many)))
    right.loglog(many, rows, color=color)
right.set_xlabel("workers of one core")
right.set_ylabel("rows of each worker in a step")
right.set_title("Where half of the time is computing", fontsize=9)
for axes in (left, right):
    axes.spines[["top", "right"]].set_visible(False)
