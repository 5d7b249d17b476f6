"""Arrays of other libraries, by the array API standard, on the device where they lie.

torch, CuPy and JAX are imported by whoever made the arrays, never here.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from skmlp.fused import InPlace, parts, squared

#: An array of numpy.
Array = np.ndarray[Any, np.dtype[Any]]
#: An array of some namespace.
AnyArray = Any


@dataclass(frozen=True)
class Arrays:
    """The arrays of one library on one device.

    Attributes
    ----------
    name : str
        "torch", "array_api_strict" and so on.
    device : object
        One of its devices.
    xp : module
        The namespace, as `array_api_compat` gives it; `InPlace` of torch's.
    compiled : bool
        Whether torch compiles steps: nothing is then done in place.
    """

    name: str
    device: Any
    xp: Any = field(compare=False)
    compiled: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        return f"{self.name} on {self.device}"

    def send(self, array: Any, *, copy: bool = True) -> AnyArray:
        """Copy an array of numpy to the device; one that is there stays as it is.

        Without `copy`, one that nobody will write to may be shared.
        """
        if not isinstance(array, np.ndarray | np.generic):
            return array
        array = np.array(array) if copy else array
        return self.xp.asarray(array, device=self.device)

    def quietly(self) -> Any:
        """Compute without a record for derivatives, and without warnings of numpy."""
        return self.xp.no_grad() if self.name == "torch" else np.errstate(all="ignore")

    def looked_up(self, values: np.ndarray[Any, Any], numbers: AnyArray) -> Any:
        """Values by their numbers, on the device; texts and objects in numpy."""
        if values.dtype.kind not in "biuf":
            return values.take(fetch(numbers))
        xp, last = self.xp, len(values) - 1
        numbers = xp.clip(xp.astype(numbers, xp.int32), 0, last)
        return xp.take(self.send(values), numbers, axis=0)

    def repeat(
        self, step: Any, held: Any, X: Any, rows: Any, numbers: Any, ends: Sequence[int]
    ) -> tuple[Any, list[AnyArray]]:
        """Do a step for each part of some rows, one after the other.

        `step` is as `skmlp.training.array_epoch.ArrayStep`. `rows` are what its
        network's `rows` takes of them, arrays or None. `ends` are where each part ends
        among them, after a 0; `numbers` has a line for each. What is held may be
        written over. Returns what is held then, and `told` of each run of parts.
        """
        n, dtype, sums, found = len(numbers), dtype_of(held[0]), [], []
        if self.name == "jax":
            numbers = np.asarray(numbers, dtype)
            breaks = 1 + np.flatnonzero(np.diff(ends, 2))  # one length after the other
            for begin, end in pairwise([0, *breaks, n]):
                part = slice(ends[begin], ends[end])
                some = [x if x is None else x[part] for x in rows]
                held, of_run = _scan()(step, held, X, some, numbers[begin:end])
                found.append(of_run)
            return held, found
        nothing, split, sent = [None] * n, step.split(held), step.network.rows(X, *rows)
        cut = [nothing if x is None else parts(self.xp, x, ends) for x in sent]
        for k, (line, *some) in enumerate(zip(numbers, *cut, strict=True), 1):
            if self.compiled:  # numbers would be taken for constants
                line = [*self.send(np.asarray(line, dtype))]
            split, *of_step = step.call(split, some, line, k == n)
            sums.append(of_step)
        *columns, squares = zip(*sums, strict=True)
        held = step.join(split)
        return held, [self.told(held, squares[-1], *map(self.xp.stack, columns))]

    def told(self, held: Any, square: Any, losses: Any, norms: Any) -> AnyArray:
        """Two sums of steps, the last one's `square`, whether parameters are finite."""
        xp, wide = self.xp, self.float_dtypes()[0]
        finite = xp.all(xp.isfinite(held[0]))
        found = xp.sum(losses), xp.sum(norms), square, finite
        return xp.stack([xp.astype(one, wide) for one in found])

    def float_dtypes(self) -> list[Any]:
        """The dtypes of X, parameters and sums that the device has."""
        info = self.xp.__array_namespace_info__()
        found = info.dtypes(kind="real floating", device=self.device)
        return [found[name] for name in ("float64", "float32") if name in found]


def arrays_of(array: Any) -> Arrays | None:
    """Where an array lies, if its library is not numpy and follows the standard."""
    if isinstance(array, np.ndarray | np.generic) or not hasattr(array, "shape"):
        return None
    if not hasattr(array, "__array_namespace__") and "torch" not in sys.modules:
        return None
    compat: Any = importlib.import_module("sklearn.externals.array_api_compat")
    known = compat.is_array_api_obj(array) and not (
        compat.is_numpy_array(array)
        or compat.is_dask_array(array)
        or compat.is_pydata_sparse_array(array)
    )
    if not known:
        return None
    xp = compat.array_namespace(array)
    name = xp.__name__.removesuffix(".numpy").rpartition(".")[2]
    device = compat.device(array)
    return Arrays(name, device, _in_place(xp, device) if name == "torch" else xp)


def xp_of(array: Any) -> Any:
    """The namespace of an array; numpy for what is of none."""
    arrays = arrays_of(array)
    return np if arrays is None else arrays.xp


def found_again(name: str, device: str) -> Arrays | None:
    """The device that `Arrays` had these names of; None if it is not here."""
    with contextlib.suppress(Exception):  # each library has errors of its own
        module: Any = importlib.import_module({"jax": "jax.numpy"}.get(name, name))
        there = arrays_of(module.asarray(0.0))
        assert there is not None
        devices = there.xp.__array_namespace_info__().devices()
        if name == "torch":
            devices = [module.device(device)]
        device_of = {str(one): one for one in devices}
        found = replace(there, device=device_of[device])
        found.send(np.zeros(1, np.float32))
        return found
    return None


def fetch(array: Any) -> Any:
    """Copy an array from its device to numpy; anything else stays as it is."""
    found = arrays_of(array)
    if found is None:
        return array
    if found.name == "cupy":
        return array.get()
    if found.name == "torch":
        array = array.detach().cpu().numpy()
    elif found.name == "array_api_strict":
        array = array.to_device(found.xp.Device("CPU_DEVICE"))
    return np.array(array)


@functools.cache
def _scan() -> Any:
    """JAX's compiled loop; a step that equals an earlier one is not compiled again."""
    jax: Any = sys.modules["jax"]

    def run(step: Any, held: Any, X: Any, rows: Any, lines: Any) -> Any:
        def one(before: Any, given: Any) -> Any:
            rows, line = given
            rows = step.network.rows(X, *rows)
            held, loss, norm, gradients = step(before[0], rows, line, False)
            return (held, gradients), (loss, norm)

        n, split = len(lines), step.split(held)
        rows = jax.tree.map(lambda x: x.reshape(n, -1, *x.shape[1:]), rows)
        first = split, [params for params, *_ in split]
        (split, gradients), sums = jax.lax.scan(one, first, (rows, lines))
        held = step.join(split)
        return held, step.arrays.told(held, squared(gradients), *sums)

    return jax.jit(run, static_argnums=0, donate_argnums=1)


_in_place = functools.cache(InPlace)


def dtype_of(array: AnyArray) -> np.dtype[Any]:
    """The dtype that an array has, or would have in numpy."""
    dtype = array.dtype
    if not isinstance(dtype, np.dtype):
        dtype = np.dtype(str(dtype).rpartition(".")[2])
    return dtype


def is_elsewhere(array: Any) -> bool:
    """Whether an array, by its own word, lies where numpy can't read it."""
    if isinstance(array, np.ndarray) or not hasattr(array, "__dlpack_device__"):
        return False
    with contextlib.suppress(Exception):  # whatever a library raises, it says nothing
        return int(array.__dlpack_device__()[0]) not in _HOST
    return False


#: Devices whose memory numpy reads: the processor's, also that pinned for CUDA.
_HOST = 1, 3
