"""The loss of a network's output."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Callable

import torch
from torch.nn import functional
from torchvision.models.googlenet import GoogLeNetOutputs
from torchvision.models.inception import InceptionOutputs

from train_pytorch_model.data.model_task import MULTILABEL

if TYPE_CHECKING:
    from train_pytorch_model.training.plan import Plan

# Weight of an auxiliary head in the loss: 0.3 for each of GoogLeNet's (Szegedy et al. 2015, "Going deeper with
# convolutions", section 5); 0.4 for Inception v3, as in PyTorch's tutorial on fine-tuning torchvision's networks.
GOOGLENET_AUXILIARY_WEIGHT = 0.3
INCEPTION_AUXILIARY_WEIGHT = 0.4

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Returns a scalar for float32 logits of shape (B, num_classes) and labels: int64 of shape (B,), or float32 of shape
(B, num_classes)."""


def training_loss(plan: Plan, device: torch.device) -> Loss:
    """Return the loss that training minimizes, with the plan's label smoothing and class weights.

    It is the mean over the images (and the labels, where an image may have several), whatever the class weights. So the
    loss of a batch is the mean over its microbatches and over all processes.
    """
    weights = None
    if plan.class_weights is not None:
        weights = torch.tensor(plan.class_weights, dtype=torch.float32, device=device)
    if plan.task == MULTILABEL:
        return partial(_binary_cross_entropy, label_smoothing=plan.label_smoothing, weights=weights)
    if weights is None:
        return partial(functional.cross_entropy, label_smoothing=plan.label_smoothing)
    return partial(_weighted_cross_entropy, label_smoothing=plan.label_smoothing, weights=weights)


def validation_loss(plan: Plan) -> Loss:
    """Return the loss of validation, which has neither label smoothing nor class weights."""
    if plan.task == MULTILABEL:
        return functional.binary_cross_entropy_with_logits
    return functional.cross_entropy


def _binary_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, *, label_smoothing: float, weights: torch.Tensor | None
) -> torch.Tensor:
    """The mean over images and labels. Weights are those of the positive images of each label."""
    if label_smoothing:
        labels = labels * (1 - label_smoothing) + label_smoothing / 2
    return functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=weights)


def _weighted_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, *, label_smoothing: float, weights: torch.Tensor
) -> torch.Tensor:
    """The sum of w[label] * entropy over the images, divided by their number and not by the sum of their weights.

    Of labels that are mixed, it is the mixture of the losses of each.
    """
    if labels.dim() == 1:
        entropies = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
        return (entropies * weights[labels]).mean()
    parts = labels * weights
    smoothed = (1 - label_smoothing) * parts + label_smoothing * parts.mean(1, keepdim=True)
    return -(smoothed * functional.log_softmax(logits, 1)).sum(1).mean()


def logits_and_loss(
    output: Any, labels: torch.Tensor, loss_of: Loss = functional.cross_entropy
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits and the loss of a network's output, auxiliary heads included.

    Args:
        output: (B, num_classes) logits, or the named tuple of GoogLeNet or Inception v3 in training mode.
        labels: int64 of shape (B,), or float32 of shape (B, num_classes).
        loss_of: of the logits of each head; by default the mean cross-entropy over the images.

    Returns:
        Logits of shape (B, num_classes) and a scalar loss, both float32 for any precision of the network.
    """
    if isinstance(output, torch.Tensor):
        output = (output,)
    logits = output[0].float()
    loss = loss_of(logits, labels)
    if isinstance(output, InceptionOutputs) and output.aux_logits is not None:
        loss = loss + INCEPTION_AUXILIARY_WEIGHT * loss_of(output.aux_logits.float(), labels)
    if isinstance(output, GoogLeNetOutputs):
        for auxiliary in (output.aux_logits1, output.aux_logits2):
            if auxiliary is not None:
                loss = loss + GOOGLENET_AUXILIARY_WEIGHT * loss_of(auxiliary.float(), labels)
    return logits, loss
