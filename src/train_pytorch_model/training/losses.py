"""The loss of a network's output."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from torchvision.models.googlenet import GoogLeNetOutputs
from torchvision.models.inception import InceptionOutputs

# Weight of an auxiliary head in the loss: 0.3 for each of GoogLeNet's (Szegedy et al. 2015, "Going deeper with
# convolutions", section 5); 0.4 for Inception v3, as in PyTorch's tutorial on fine-tuning torchvision's networks.
GOOGLENET_AUXILIARY_WEIGHT = 0.3
INCEPTION_AUXILIARY_WEIGHT = 0.4


def logits_and_loss(output: Any, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits and the mean cross-entropy loss of a network's output, auxiliary heads included.

    Args:
        output: (B, num_classes) logits, or the named tuple of GoogLeNet or Inception v3 in training mode.
        labels: int64 of shape (B,).

    Returns:
        Logits of shape (B, num_classes) and a scalar loss, both float32 for any precision of the network.
    """
    if isinstance(output, torch.Tensor):
        output = (output,)
    logits = output[0].float()
    loss = functional.cross_entropy(logits, labels)
    if isinstance(output, InceptionOutputs) and output.aux_logits is not None:
        loss = loss + INCEPTION_AUXILIARY_WEIGHT * functional.cross_entropy(output.aux_logits.float(), labels)
    if isinstance(output, GoogLeNetOutputs):
        for auxiliary in (output.aux_logits1, output.aux_logits2):
            if auxiliary is not None:
                loss = loss + GOOGLENET_AUXILIARY_WEIGHT * functional.cross_entropy(auxiliary.float(), labels)
    return logits, loss
