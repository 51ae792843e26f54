"""DenseNet's recomputation of activations, in a form that a CUDA graph can hold."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from torch.utils.checkpoint import checkpoint
from torchvision.models.densenet import _DenseLayer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from torch import nn


@contextmanager
def without_random_state(network: nn.Module) -> Iterator[None]:
    """Inside the block, a memory-efficient DenseNet recomputes activations without saving random number generators.

    Their state cannot be read during a capture. What a layer recomputes draws no random numbers, so results are equal.
    """
    layers = [module for module in network.modules() if isinstance(module, _DenseLayer)]
    for layer in layers:
        setattr(layer, _METHOD, partial(_recomputed, layer))
    try:
        yield
    finally:
        for layer in layers:
            delattr(layer, _METHOD)


_METHOD = _DenseLayer.call_checkpoint_bottleneck.__name__


def _recomputed(layer: _DenseLayer, features: Sequence[torch.Tensor]) -> torch.Tensor:
    def bottleneck(*features: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = layer.bn_function(list(features))
        return output

    output: torch.Tensor = checkpoint(bottleneck, *features, use_reentrant=False, preserve_rng_state=False)
    return output
