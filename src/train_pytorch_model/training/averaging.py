"""The exponential moving average of a network's weights."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class WeightAverage:
    """The exponential moving average of weights and statistics, on their device.

    After update t, counted from 0, the average is d * average + (1 - d) * weights with d = min(decay, (1 + t) / (10 +
    t)), as in TensorFlow's ExponentialMovingAverage: early weights are forgotten soon. The number of updates is on the
    device, so that each replay of a CUDA graph reads its current value.
    """

    def __init__(self, tensors: Iterable[torch.Tensor], decay: float, device: torch.device) -> None:
        """Start from the current values.

        Args:
            tensors: floating-point parameters and buffers of a network, which keep their addresses.
            decay: less than 1; the average covers about the last 1 / (1 - decay) updates.
            device: of the tensors.
        """
        self._sources = [tensor.detach() for tensor in tensors]
        self._averages = [source.clone() for source in self._sources]
        self._num_updates = torch.zeros((), dtype=torch.float64, device=device)
        self._decay = decay
        self._is_in_network = False

    @property
    def tensors(self) -> list[torch.Tensor]:
        """The complete state: the averages and the number of updates. The network must have its trained weights."""
        return [*self._averages, self._num_updates]

    @torch.no_grad()
    def restart(self) -> None:
        """Start from the current values of the network."""
        for average, source in zip(self._averages, self._sources):
            average.copy_(source)
        self._num_updates.zero_()

    @torch.no_grad()
    def update(self, is_skipped: torch.Tensor | None = None) -> None:
        """Add the current values to the average.

        Args:
            is_skipped: a scalar on the device, 1.0 if the step was skipped and the average must not change, else 0.0.
        """
        weight = (9 / (10 + self._num_updates)).clamp_(min=1 - self._decay)
        if is_skipped is None:
            self._num_updates += 1
        else:
            weight *= 1 - is_skipped
            self._num_updates += 1 - is_skipped
        if weight.is_cuda:
            _approach(self._averages, self._sources, weight.to(self._averages[0].dtype))
            return
        of_dtype = {dtype: weight.to(dtype) for dtype in {average.dtype for average in self._averages}}
        torch._foreach_lerp_(self._averages, self._sources, [of_dtype[average.dtype] for average in self._averages])

    @torch.no_grad()
    def rehearse(self) -> None:
        """Take the memory that `update` needs for a moment, and change nothing."""
        if self._num_updates.is_cuda:
            torch._foreach_sub(self._sources, self._averages)

    @contextmanager
    def weights(self, *, averaged: bool) -> Iterator[None]:
        """Inside the block the network has the averages, or the trained weights; afterwards what it had before."""
        changes = averaged != self._is_in_network
        if changes:
            self._swap()
        try:
            yield
        finally:
            if changes:
                self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for average, source in zip(self._averages, self._sources):
            trained = source.clone()
            source.copy_(average)
            average.copy_(trained)
        self._is_in_network = not self._is_in_network


def _approach(averages: list[torch.Tensor], sources: list[torch.Tensor], weight: torch.Tensor) -> None:
    """Add `weight * (source - average)` to each average, in a few kernels of a GPU.

    `lerp` with a weight on the device takes one kernel for each tensor, of which some networks have a thousand.
    """
    changes = torch._foreach_sub(sources, averages)
    torch._foreach_mul_(changes, weight)
    torch._foreach_add_(averages, changes)
