"""torch as a careful user writes it: eager, fused optimizer, no DataLoader.

The rows of an epoch are gathered once in their new order; the steps then take slices.
"""

from __future__ import annotations

import datetime
import os
import statistics
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from benchmarks import cases
from benchmarks.cases import Shape
from benchmarks.child import Contestant

_LOSSES: dict[str, Any] = {
    "classes": torch.nn.functional.cross_entropy,
    "binary": torch.nn.functional.binary_cross_entropy_with_logits,
    "values": torch.nn.functional.mse_loss,
}


class Torch(Contestant):
    """One process.

    Parameters
    ----------
    device : str
        Where rows and net are.
    """

    def __init__(self, device: str = "cpu") -> None:
        self._device = device
        # Whoever starts us limits OpenMP, or leaves all cores to us.
        limit = os.environ.get("OMP_NUM_THREADS")
        torch.set_num_threads(int(limit or len(os.sched_getaffinity(0))))

    def prepare(self, shape: dict[str, Any], dtype: str) -> None:
        """Make data, net and optimizer, and warm up."""
        self._shape = Shape(**shape)
        X, y = cases.data(self._shape, dtype)
        self._X, self._y = (torch.from_numpy(a).to(self._device) for a in (X, y))
        if self._shape.task != "classes":
            self._y = self._y.to(self._X.dtype)[:, None]
        self._loss = _LOSSES[self._shape.task]
        layers: list[torch.nn.Module] = []
        for i, o in pairwise(self._shape.units):
            layers += [torch.nn.Linear(i, o, dtype=self._X.dtype), torch.nn.ReLU()]
            if self._shape.dropout:
                layers.append(torch.nn.Dropout(self._shape.dropout))
        last = 2 if self._shape.dropout else 1
        net = torch.nn.Sequential(*layers[:-last])
        self._net = self._wrap(net.to(self._device))
        self._optimizer = self._make_optimizer()
        self.run(1)

    def run(self, epochs: int) -> dict[str, float]:
        """Time epochs; the order of the rows is part of them."""
        seconds = []
        for _ in range(epochs):
            began = time.perf_counter()
            loss = self._epoch()
            seconds.append(time.perf_counter() - began)
        return {
            "epoch": statistics.median(seconds),
            "fit": sum(seconds) / epochs,
            "loss": loss,
        }

    def _epoch(self) -> float:
        net, optimizer, loss_of = self._net, self._optimizer, self._loss
        total = torch.zeros((), dtype=self._X.dtype, device=self._device)
        for X, y in self._batches():
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(net(X), y)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        return float(total) / (self._shape.rows // self._shape.batch)

    def _batches(self) -> Iterator[tuple[Any, Any]]:
        order = torch.randperm(self._shape.rows, device=self._device)
        batch = self._shape.batch
        return zip(
            self._X[order].split(batch), self._y[order].split(batch), strict=True
        )

    def _wrap(self, net: torch.nn.Module) -> torch.nn.Module:
        return net

    def _make_optimizer(self) -> torch.optim.Solver:
        """The fused one; all parameters decay, which saves torch a second group."""
        parameters = self._net.parameters()
        decay = cases.ALPHA / self._shape.batch
        if self._shape.solver == "adam":
            return torch.optim.Adam(
                parameters, lr=cases.RATE, weight_decay=decay, fused=True
            )
        return torch.optim.SGD(
            parameters,
            lr=cases.RATE,
            momentum=cases.MOMENTUM,
            nesterov=True,
            weight_decay=decay,
            fused=True,
        )


class TorchRank(Torch):
    """A rank of torch's own data-parallel training, over gloo.

    Parameters
    ----------
    rank, n_ranks : int
        Which one, of how many.
    meeting : str
        Path of a file that does not exist yet, where they find each other.
    """

    def __init__(self, rank: int, n_ranks: int, meeting: str) -> None:
        super().__init__()
        self._rank, self._n_ranks, self._meeting = rank, n_ranks, meeting

    def prepare(self, shape: dict[str, Any], dtype: str) -> None:
        """Meet the others the first time, then as in one process."""
        if not distributed.is_initialized():
            distributed.init_process_group(
                "gloo",
                init_method=f"file://{self._meeting}",
                rank=self._rank,
                world_size=self._n_ranks,
                timeout=datetime.timedelta(seconds=120),
            )
        torch.manual_seed(0)  # all draw the same orders
        super().prepare(shape, dtype)

    def close(self) -> None:
        """Leave the group."""
        if distributed.is_initialized():
            distributed.destroy_process_group()

    def _wrap(self, net: torch.nn.Module) -> torch.nn.Module:
        return DistributedDataParallel(net, gradient_as_bucket_view=True)

    def _batches(self) -> Iterator[tuple[Any, Any]]:
        order = torch.randperm(self._shape.rows).view(-1, self._shape.batch)
        own = order.chunk(self._n_ranks, dim=1)[self._rank]
        X, y = self._X[own.flatten()], self._y[own.flatten()]
        return zip(X.split(own.shape[1]), y.split(own.shape[1]), strict=True)
