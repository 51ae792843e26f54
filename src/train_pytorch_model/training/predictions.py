"""Probabilities of the classes or the labels of images."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from train_pytorch_model.data.batches import normalised, per_channel
from train_pytorch_model.errors.library_faults import is_out_of_memory
from train_pytorch_model.models.network import logits_of, output_for

if TYPE_CHECKING:
    from torch import nn

    from train_pytorch_model.data.image_store import ImageStore


def probabilities_of(logits: torch.Tensor, task: str) -> torch.Tensor:
    """Return the probabilities of classes, or of labels, float32 of shape (B, C), for logits of the same shape."""
    return logits.float().sigmoid() if task == "multilabel" else logits.float().softmax(1)


@torch.no_grad()
def predict(
    network: nn.Module,
    images: ImageStore,
    indices: torch.Tensor,
    batch_size: int,
    device: torch.device,
    memory_format: torch.memory_format,
    mean: tuple[float, ...] = (0.5, 0.5, 0.5),
    std: tuple[float, ...] = (0.5, 0.5, 0.5),
    task: str = "multiclass",
    *,
    averages_mirrored: bool = False,
) -> np.ndarray:
    """Compute the probabilities of the classes or the labels of images in float32, as validation does.

    Args:
        network: on the device; put into evaluation mode.
        images: the dataset.
        indices: of the images to predict, int64 of shape (N,), N > 0.
        batch_size: images in a batch. It is halved as long as a batch does not fit in memory.
        device: the device to compute on.
        memory_format: of the network's activations and weights.
        mean: of each channel of the images that the network was trained on.
        std: the standard deviation of the same images.
        task: "multiclass" or "multilabel".
        averages_mirrored: whether to average the probabilities of each image and its mirror image.

    Returns:
        float32 of shape (N, C). In the multiclass task each row sums to one.
    """
    network.eval()
    is_multilabel = task == "multilabel"
    compute = partial(output_for, network, averages_mirrored=averages_mirrored, is_multilabel=is_multilabel)
    normalisation = per_channel(mean, device), per_channel(std, device)
    while True:
        try:
            parts = [
                probabilities_of(logits_of(compute(normalised(pixels, memory_format, *normalisation))), task).cpu()
                for pixels, _ in images.batches(torch.split(indices, batch_size), device)
            ]
        except Exception as error:
            if batch_size == 1 or not is_out_of_memory(error):
                raise
        else:
            return np.asarray(torch.cat(parts).numpy())
        batch_size = (batch_size + 1) // 2
