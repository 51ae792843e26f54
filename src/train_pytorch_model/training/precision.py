"""The numeric precision of training steps and of validation."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from train_pytorch_model.distributed.device import fast_half_precision, has_amx

if TYPE_CHECKING:
    from collections.abc import Iterator

# PyTorch starts at 65,536, which overflows in many networks, and skips one step for each halving.
_FIRST_SCALE = 1024.0
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """The data type of convolutions and matrix products in a step. Weights are always float32."""

    dtype: torch.dtype
    device_type: str
    """"cpu" or "cuda"."""

    def context(self) -> torch.autocast:
        """Return the autocast context for the forward pass."""
        is_half = self.dtype != torch.float32
        return torch.autocast(self.device_type, dtype=self.dtype if is_half else torch.bfloat16, enabled=is_half)

    def make_scaler(self) -> GradScaler:
        """Return a gradient scaler, which prevents underflow in float16 and does nothing for other types."""
        return GradScaler(self.device_type, init_scale=_FIRST_SCALE, enabled=self.dtype == torch.float16)

    def __str__(self) -> str:
        """Return the name that `--precision` uses."""
        return str(self.dtype).rpartition(".")[2]


def choose_precision(wanted: str, device: torch.device, network: nn.Module) -> Precision:
    """Return the precision of training steps.

    Args:
        wanted: "float32", "bfloat16", "float16", or "auto" for the fastest that does not reduce accuracy.
        device: the device to train on.
        network: the network to train. On a CPU with AMX, networks with depthwise convolutions are faster in float32:
            mobilenet_v3 and efficientnet run at 0.7 to 0.8 times that speed in bfloat16, because gradients of depthwise
            convolutions are slow. With AVX512-BF16 alone, they are faster in bfloat16 if their activations are ReLU or
            GELU: mobilenet_v2 runs at 1.3 times the speed and convnext at 1.8 times, but mobilenet_v3, with Hardswish,
            at 0.7 times, and efficientnet, with SiLU, at about the same. timm uses these classes of PyTorch, too.
    """
    if wanted != "auto":
        return Precision(_DTYPES[wanted], device.type)
    dtype = fast_half_precision(device)
    is_slower = has_depthwise_convolutions(network) and (has_amx() or _has_slow_activations(network))
    if device.type == "cpu" and is_slower:
        dtype = None
    return Precision(dtype or torch.float32, device.type)


@contextmanager
def validating_in(name: str, device_type: str) -> Iterator[None]:
    """Run the forward passes of a block in the precision of validation.

    Args:
        name: "float32", "bfloat16", or "tf32", in which a GPU multiplies with 10 bits of mantissa. On a CPU, "tf32" is
            float32.
        device_type: "cpu" or "cuda".
    """
    if name == "tf32" and device_type == "cuda":
        convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
        before = convolutions.allow_tf32, products.allow_tf32
        try:
            convolutions.allow_tf32 = products.allow_tf32 = True
            yield
        finally:
            convolutions.allow_tf32, products.allow_tf32 = before
        return
    with Precision(torch.bfloat16 if name == "bfloat16" else torch.float32, device_type).context():
        yield


def _has_slow_activations(network: nn.Module) -> bool:
    return any(isinstance(module, (nn.SiLU, nn.Hardswish)) for module in network.modules())


def has_depthwise_convolutions(network: nn.Module) -> bool:
    """Return whether the network has depthwise convolutions, as MobileNet and EfficientNet do."""
    return any(
        isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1 for module in network.modules()
    )
