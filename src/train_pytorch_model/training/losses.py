"""The loss of a network's output."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Callable

import torch
from torch.nn import functional
from torchvision.models.googlenet import GoogLeNetOutputs
from torchvision.models.inception import InceptionOutputs

if TYPE_CHECKING:
    from train_pytorch_model.training.plan import Plan

# Weight of an auxiliary head in the loss: 0.3 for each of GoogLeNet's (Szegedy et al. 2015, "Going deeper with
# convolutions", section 5); 0.4 for Inception v3, as in PyTorch's tutorial on fine-tuning torchvision's networks.
GOOGLENET_AUXILIARY_WEIGHT = 0.3
INCEPTION_AUXILIARY_WEIGHT = 0.4

CrossEntropy = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Returns a scalar for float32 logits of shape (B, num_classes) and int64 labels of shape (B,)."""


def training_cross_entropy(plan: Plan, device: torch.device) -> CrossEntropy:
    """Return the cross-entropy that training minimizes, with the plan's label smoothing and class weights.

    With class weights w it is the sum of w[label] * entropy over the images, divided by their number and not by the sum
    of their weights. So the loss of a batch is the mean over its microbatches and over all processes.
    """
    if plan.class_weights is None:
        return partial(functional.cross_entropy, label_smoothing=plan.label_smoothing)
    weights = torch.tensor(plan.class_weights, dtype=torch.float32, device=device)

    def weighted(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        entropies = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=plan.label_smoothing)
        return (entropies * weights[labels]).mean()

    return weighted


def logits_and_loss(
    output: Any, labels: torch.Tensor, cross_entropy: CrossEntropy = functional.cross_entropy
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits and the loss of a network's output, auxiliary heads included.

    Args:
        output: (B, num_classes) logits, or the named tuple of GoogLeNet or Inception v3 in training mode.
        labels: int64 of shape (B,).
        cross_entropy: of the logits of each head; by default the mean over the images.

    Returns:
        Logits of shape (B, num_classes) and a scalar loss, both float32 for any precision of the network.
    """
    if isinstance(output, torch.Tensor):
        output = (output,)
    logits = output[0].float()
    loss = cross_entropy(logits, labels)
    if isinstance(output, InceptionOutputs) and output.aux_logits is not None:
        loss = loss + INCEPTION_AUXILIARY_WEIGHT * cross_entropy(output.aux_logits.float(), labels)
    if isinstance(output, GoogLeNetOutputs):
        for auxiliary in (output.aux_logits1, output.aux_logits2):
            if auxiliary is not None:
                loss = loss + GOOGLENET_AUXILIARY_WEIGHT * cross_entropy(auxiliary.float(), labels)
    return logits, loss
