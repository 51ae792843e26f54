"""The memory format in which a network is fastest."""

from __future__ import annotations

import logging

import torch
from torch import nn

logger = logging.getLogger(__name__)


def preferred_memory_format(
    network: nn.Module, size: tuple[int, int], device: torch.device | None = None
) -> torch.memory_format:
    """Return channels last for a network with convolutions if it accepts that format, else the contiguous format.

    A user's own network may reshape tensors in a way that only the contiguous format allows. One image shows this.

    Args:
        network: the network; its weights are converted to the returned format.
        size: (height, width) of the images in pixels.
        device: the device of the network; None for the CPU.
    """
    if not any(isinstance(module, nn.Conv2d) for module in network.modules()):
        return torch.contiguous_format
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    was_training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, *size, device=device).to(memory_format=torch.channels_last))
    except Exception as error:  # whatever it is, the network was written for the contiguous format
        logger.debug("The network does not accept channels_last: %s", error)
        network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return torch.contiguous_format
    finally:
        network.train(was_training)
    return torch.channels_last
