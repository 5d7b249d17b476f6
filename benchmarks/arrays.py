"""Training on arrays of torch and JAX, on any device: ``arrays.py --device cuda``.

The nets of `cases.SHAPES` and one with dropout, trained by torch and by JAX as careful
users write it, and by skmlp on arrays of both, all in one run, in turn.
"""

from __future__ import annotations

if __name__ == "__main__" and not __package__:
    from _as_module import start_again

    start_again(__file__)

import dataclasses
import itertools
import os
from typing import Any

from benchmarks import cases
from benchmarks.cases import Shape
from benchmarks.child import Contestant
from benchmarks.common import (
    Report,
    add_dtypes,
    children,
    figure,
    geometric_mean,
    installed,
    median_of,
    parsed,
    parser,
    ratio,
    rounds,
    words,
)
from benchmarks.contestants import fitted

DROPOUT = Shape(10240, (784, 256, 256, 256, 10), 256, 5, dropout=0.2)

#: Target, title, and whom it is compared with.
CONTESTANTS = {
    "torch": ("benchmarks.with_torch:Torch", "torch", None),
    "jax": ("benchmarks.with_jax:Jax", "JAX", None),
    "on_torch": ("benchmarks.arrays:OnArrays", "skmlp on torch", "torch"),
    "compiled": ("benchmarks.arrays:OnArrays", "skmlp, torch.compile", "torch"),
    "on_jax": ("benchmarks.arrays:OnArrays", "skmlp on JAX", "jax"),
}


class OnArrays(Contestant):
    """Whole fits of skmlp on arrays of torch or JAX.

    Parameters
    ----------
    device : str
        Of torch; JAX takes its default one.
    name : {"on_torch", "compiled", "on_jax"}
        Whose arrays, and whether torch compiles the step.
    """

    def __init__(self, device: str, name: str) -> None:
        os.environ["SCIPY_ARRAY_API"] = "1"  # before SciPy is imported
        self._device, self._name = device, name

    def prepare(self, shape: dict[str, Any], dtype: str) -> None:
        """Make the data, and fit once to warm up."""
        self._shape = Shape(**shape)
        X, self._y = cases.data(self._shape, dtype)
        if self._name == "on_jax":
            import jax

            jax.config.update("jax_enable_x64", dtype == "float64")
            self._X = jax.numpy.asarray(X)
        else:
            import torch

            limit = os.environ.get("OMP_NUM_THREADS")
            torch.set_num_threads(int(limit or len(os.sched_getaffinity(0))))
            self._X = torch.from_numpy(X).to(self._device)
        self.run(2)

    def run(self, epochs: int) -> dict[str, float]:
        """Time a fit."""
        import sklearn

        import skmlp

        with (
            sklearn.config_context(array_api_dispatch=True),
            skmlp.config_context(torch_compile=self._name == "compiled"),
        ):
            return fitted(self._shape, epochs, self._X, self._y)


class Devices(Contestant):
    """What the libraries compute on."""

    def told(self, device: str) -> str:
        """The device of torch, and that of JAX."""
        found = []
        if installed("torch"):
            import torch

            name = device
            if device.startswith("cuda"):
                name = f"{device}, {torch.cuda.get_device_name(device)}"
            found.append(f"torch {torch.__version__} on {name}")
        if installed("jax"):
            import jax

            found.append(f"JAX on {jax.devices()[0]}")
        return "; ".join(found)


def options() -> Any:
    """The command line."""
    arguments = parser(__doc__)
    add_dtypes(arguments)
    arguments.add_argument("--device", default="cpu", help="of torch: cpu, cuda, mps")
    arguments.add_argument("--shapes", help="parts of their names: 784-256,b128")
    arguments.add_argument("--only", default="torch,jax,on_torch,on_jax", help="who")
    result = parsed(arguments)
    result.only = words(result.only, list(CONTESTANTS))
    every = (*cases.SHAPES, DROPOUT)
    result.shapes = cases.chosen(result.shapes, result.quick, every)
    return result


def measure(asked: Any, report: Report, names: list[str]) -> dict[tuple[str, str], Any]:
    """All rounds, by shape and dtype. JAX's loop has no dropout."""
    targets: dict[str, tuple[Any, ...]] = {}
    for name in names:
        module, _, peer = CONTESTANTS[name]
        on = [asked.device] if peer or name == "torch" else []
        targets[name] = (module, *on, *([name] if peer else []))
    results = {}
    with children(targets, dict.fromkeys(targets, asked.blas)) as contestants:
        for shape, dtype in itertools.product(asked.shapes, asked.dtypes):
            able = dict(contestants)
            if shape.dropout:
                able.pop("jax", None)
            for child in able.values():
                child.call("prepare", dataclasses.asdict(shape), dtype)
            found = rounds(able, asked.repeats, "run", shape.epochs)
            report.keep(shape=str(shape), dtype=dtype, seconds=found)
            results[str(shape), dtype] = found
    return results


def ratios(report: Report, results: Any, names: list[str]) -> None:
    """How many times as fast skmlp is as a loop of the same library."""
    pairs = [(n, peer) for n in names if (peer := CONTESTANTS[n][2]) in names]
    columns: list[dict[Any, float]] = [
        {
            case: ratio(*([r["epoch"] for r in found[n]] for n in (theirs, ours)))
            for case, found in results.items()
            if theirs in found
        }
        for ours, theirs in pairs
    ]
    if not columns:
        return
    rows = [
        [*case, *(figure(column.get(case)) for column in columns)] for case in results
    ]
    for title, of in (("geometric mean", geometric_mean), ("least", min)):
        rows.append([title, "", *(figure(of(c.values())) for c in columns)])
    titles = [f"{CONTESTANTS[o][1]} / {CONTESTANTS[t][1]}" for o, t in pairs]
    report.say("How many times as fast skmlp is as a loop of the same library.")
    report.table(["ratio", "dtype", *titles], rows)


def main() -> None:
    """Measure and print."""
    asked = options()
    report = Report(asked, "Training on arrays of other libraries")
    names = [n for n in asked.only if installed("jax" if "jax" in n else "torch")]
    for name in asked.only:
        if name not in names:
            report.say(f"{CONTESTANTS[name][1]}: the library is not installed.")
    devices = {"devices": ("benchmarks.arrays:Devices",)}
    with children(devices, {"devices": asked.blas}) as one:
        report.say(one["devices"].call("told", asked.device))
    results = measure(asked, report, names)
    report.say("Medians of an epoch in steady state; the order of the rows is in all.")
    rows = []
    for case, found in results.items():
        times = {n: figure(1e3 * median_of(of, "epoch")) for n, of in found.items()}
        rows.append([*case, *(times.get(name, "") for name in names)])
    report.table(["ms per epoch", "dtype", *(CONTESTANTS[n][1] for n in names)], rows)
    ratios(report, results, names)
    report.end()


if __name__ == "__main__":
    main()
