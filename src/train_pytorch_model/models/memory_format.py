"""The order of pixels in memory that a network is fastest in."""

from __future__ import annotations

import logging

import torch
from torch import nn

logger = logging.getLogger(__name__)


def preferred_memory_format(
    network: nn.Module, size: tuple[int, int], device: torch.device | None = None
) -> torch.memory_format:
    """The order in memory that the network is fastest in: channels last for convolutions, where it can take them.

    A network of a user's own may reshape what it computes in a way that only the usual order allows: one image tells.

    Args:
        network: left as it was but for the order of its weights in memory.
        size: (height, width) of the images in pixels.
        device: where the network lies, the CPU when left out.
    """
    if not any(isinstance(module, nn.Conv2d) for module in network.modules()):
        return torch.contiguous_format
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    was_training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, *size, device=device).to(memory_format=torch.channels_last))
    except Exception as error:  # whatever it was, the usual order is what the network was written for
        logger.debug("The network does not take channels_last: %s", error)
        network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return torch.contiguous_format
    finally:
        network.train(was_training)
    return torch.channels_last
