"""The numbers that a training step computes with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from train_pytorch_model.distributed.device import fast_half_precision

# PyTorch begins at 65,536, finds it too large for many networks, and leaves out a step for each halving.
_FIRST_SCALE = 1024.0
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """What convolutions and matrix products of a step are computed in; weights are float32 throughout."""

    dtype: torch.dtype
    device_type: str
    """"cpu" or "cuda"."""

    def context(self) -> torch.autocast:
        """The context to compute a network's output in."""
        is_half = self.dtype != torch.float32
        return torch.autocast(self.device_type, dtype=self.dtype if is_half else torch.bfloat16, enabled=is_half)

    def make_scaler(self) -> GradScaler:
        """What keeps float16's small gradients from vanishing; it changes nothing for the others."""
        return GradScaler(self.device_type, init_scale=_FIRST_SCALE, enabled=self.dtype == torch.float16)

    def __str__(self) -> str:
        """The name, as `--precision` takes it."""
        return str(self.dtype).rpartition(".")[2]


def choose_precision(wanted: str, device: torch.device, network: nn.Module) -> Precision:
    """Choose what to compute in.

    Args:
        wanted: "float32", "bfloat16", "float16", or "auto" for the fastest that trains as well.
        device: that trains.
        network: to train. On a CPU, one with depthwise convolutions is faster in float32: measured on AMX, mobilenet_v3
            and efficientnet run 0.7 to 0.8 times as fast in bfloat16, whose depthwise gradients are slow.
    """
    if wanted != "auto":
        return Precision(_DTYPES[wanted], device.type)
    dtype = fast_half_precision(device)
    if device.type == "cpu" and has_depthwise_convolutions(network):
        dtype = None
    return Precision(dtype or torch.float32, device.type)


def has_depthwise_convolutions(network: nn.Module) -> bool:
    """Whether a convolution of the network treats each channel by itself, as those of MobileNet and EfficientNet do."""
    return any(
        isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1 for module in network.modules()
    )
