"""Probabilities of the classes or the labels of images."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Callable

import numpy as np
import torch

from train_pytorch_model.data.batches import normalised, per_channel
from train_pytorch_model.data.model_task import MULTICLASS, MULTILABEL
from train_pytorch_model.errors.library_faults import is_out_of_memory
from train_pytorch_model.models.network import logits_of, output_for
from train_pytorch_model.training.frozen_images import known_logits

if TYPE_CHECKING:
    from torch import nn

    from train_pytorch_model.data.image_store import ImageStore


def probabilities_of(logits: torch.Tensor, task: str) -> torch.Tensor:
    """Return the probabilities of classes, or of labels, float32 of shape (B, C), for logits of the same shape."""
    return logits.float().sigmoid() if task == MULTILABEL else logits.float().softmax(1)


def predict(
    network: nn.Module,
    images: ImageStore,
    indices: torch.Tensor,
    batch_size: int,
    device: torch.device,
    memory_format: torch.memory_format,
    mean: tuple[float, ...] = (0.5, 0.5, 0.5),
    std: tuple[float, ...] = (0.5, 0.5, 0.5),
    task: str = MULTICLASS,
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
        task: MULTICLASS or MULTILABEL.
        averages_mirrored: whether to average the probabilities of each image and its mirror image.

    Returns:
        float32 of shape (N, C). In the multiclass task each row sums to one.
    """
    known = None if averages_mirrored else known_logits(network, images, indices, device)
    if known is not None:
        return np.asarray(probabilities_of(known, task).numpy())
    is_multilabel = task == MULTILABEL
    compute = partial(output_for, network, averages_mirrored=averages_mirrored, is_multilabel=is_multilabel)
    probabilities = _computed(
        network,
        lambda pixels: probabilities_of(logits_of(compute(pixels)), task),
        *(images, indices, batch_size, device, memory_format, mean, std),
    )
    return np.asarray(probabilities.numpy())


def predict_logits(
    network: nn.Module,
    images: ImageStore,
    indices: torch.Tensor,
    batch_size: int,
    device: torch.device,
    memory_format: torch.memory_format,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> torch.Tensor:
    """Compute the logits of images, float32 of shape (N, C), on the CPU; the arguments are those of `predict`."""
    known = known_logits(network, images, indices, device)
    if known is not None:
        return known
    return _computed(
        network,
        lambda pixels: logits_of(network(pixels)).float(),
        *(images, indices, batch_size, device, memory_format, mean, std),
    )


@torch.no_grad()
def _computed(
    network: nn.Module,
    compute: Callable[[torch.Tensor], torch.Tensor],
    images: ImageStore,
    indices: torch.Tensor,
    batch_size: int,
    device: torch.device,
    memory_format: torch.memory_format,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> torch.Tensor:
    """Return what is computed of normalized images in evaluation mode, on the CPU; see `predict`."""
    network.eval()
    normalisation = per_channel(mean, device), per_channel(std, device)
    while True:
        try:
            parts = [
                compute(normalised(pixels, memory_format, *normalisation)).cpu()
                for pixels, _ in images.batches(torch.split(indices, batch_size), device)
            ]
        except Exception as error:
            if batch_size == 1 or not is_out_of_memory(error):
                raise
        else:
            return torch.cat(parts)
        batch_size = (batch_size + 1) // 2
