"""One step: forward, loss, backward, update."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torchvision.models.googlenet import GoogLeNetOutputs
from torchvision.models.inception import InceptionOutputs

MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
# Share of an auxiliary head in the loss: 0.3 of each in GoogLeNet (Szegedy et al. 2015, "Going deeper with
# convolutions", section 5); 0.4 for Inception v3, as in PyTorch's tutorial on fine-tuning torchvision's networks.
GOOGLENET_AUXILIARY_WEIGHT = 0.3
INCEPTION_AUXILIARY_WEIGHT = 0.4


def make_optimizer(network: nn.Module, learning_rate: float) -> torch.optim.SGD:
    """Stochastic gradient descent with Nesterov momentum 0.9 and weight decay 1e-4 on every parameter."""
    return torch.optim.SGD(
        network.parameters(), lr=learning_rate, momentum=MOMENTUM, nesterov=True, weight_decay=WEIGHT_DECAY
    )


def logits_and_loss(output: Any, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Split a network's output into logits and the mean cross-entropy, auxiliary heads included.

    Args:
        output: (B, num_classes) logits, or the named tuple of GoogLeNet or Inception v3 in training mode.
        labels: int64 of shape (B,).

    Returns:
        Logits of shape (B, num_classes) and a scalar loss.
    """
    if isinstance(output, torch.Tensor):
        return output, functional.cross_entropy(output, labels)
    logits = output.logits if hasattr(output, "logits") else output[0]
    loss = functional.cross_entropy(logits, labels)
    if isinstance(output, InceptionOutputs) and output.aux_logits is not None:
        loss = loss + INCEPTION_AUXILIARY_WEIGHT * functional.cross_entropy(output.aux_logits, labels)
    if isinstance(output, GoogLeNetOutputs):
        for auxiliary in (output.aux_logits1, output.aux_logits2):
            if auxiliary is not None:
                loss = loss + GOOGLENET_AUXILIARY_WEIGHT * functional.cross_entropy(auxiliary, labels)
    return logits, loss


def train_step(
    network: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Learn from one batch.

    Args:
        network: in training mode.
        optimizer: of its parameters.
        images: float32 of shape (B, 3, height, width).
        labels: int64 of shape (B,).

    Returns:
        Logits and loss from before the update, detached.
    """
    optimizer.zero_grad(set_to_none=True)
    logits, loss = logits_and_loss(network(images), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return logits.detach(), loss.detach()
