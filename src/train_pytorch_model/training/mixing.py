"""Mixup and cutmix: each image of a batch is mixed with another one, and so are their labels.

Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization"; Yun et al. 2019, "CutMix: Regularization Strategy to
Train Strong Classifiers with Localizable Features". As torchvision's MixUp and CutMix, all images of a batch are mixed
in the same way, each with the one before it in the batch of its process. How depends on the seed, the epoch, the step
and the rank of the process, so a resumed epoch goes on as it would have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from train_pytorch_model.data.batches import derive_seed, shuffled, training_shards
from train_pytorch_model.training.resampling import group_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from train_pytorch_model.data.image_store import Batch, ImageStore
    from train_pytorch_model.training.plan import Plan


class Mix(NamedTuple):
    """How the images of one batch are mixed."""

    fraction: float
    """Of an image that remains, in [0, 1]; with cutmix about, as a box may reach over the border."""
    centre: tuple[float, float] | None
    """(y, x) of the box that comes from the other image, as fractions of the height and the width; None for mixup."""


@dataclass(frozen=True)
class Mixing:
    """What is drawn for each batch. With both kinds, a batch gets either with the same probability."""

    mixup_alpha: float = 0.0
    """Both parameters of the beta distribution of the fraction; 0 for no mixup."""
    cutmix_alpha: float = 0.0
    """Likewise for cutmix."""

    def draw(self, num_steps: int, seed: int, epoch: int, rank: int) -> list[Mix]:
        """Draw how the batches of an epoch are mixed.

        Args:
            num_steps: the number of batches of the epoch.
            seed: of the training.
            epoch: counted from 1.
            rank: of the process.
        """
        random = np.random.default_rng(derive_seed(seed, f"mixing of {rank}", epoch))
        drawn = random.random((num_steps, 3))
        fractions = np.ones((2, num_steps))
        for row, alpha in zip(fractions, (self.mixup_alpha, self.cutmix_alpha)):
            if alpha:
                row[:] = random.beta(alpha, alpha, num_steps)
        is_cutmix = drawn[:, 0] < (0.5 if self.mixup_alpha and self.cutmix_alpha else float(self.cutmix_alpha > 0))
        return [
            Mix(float(fractions[int(kind), step]), (float(drawn[step, 1]), float(drawn[step, 2])) if kind else None)
            for step, kind in enumerate(is_cutmix)
        ]


def mixed(
    batches: Iterator[Batch], plan: Plan, num_steps: int, epoch: int, rank: int, first: int = 0
) -> Iterator[Batch]:
    """Mix the batches of a process as the plan asks.

    Args:
        batches: pixels and labels on the training device.
        plan: has the seed, and says what is mixed.
        num_steps: the number of batches of the epoch.
        epoch: counted from 1.
        rank: of the process.
        first: the number of batches that the epoch had before these.

    Returns:
        The batches as they are if nothing is mixed; else pixels as before and float32 labels of shape (B, C).
    """
    if plan.mixing is None:
        return batches
    return _mixed(batches, plan.mixing.draw(num_steps, plan.seed, epoch, rank)[first:], plan.num_classes)


def _mixed(batches: Iterator[Batch], mixes: list[Mix], num_classes: int) -> Iterator[Batch]:
    for mix, (pixels, labels) in zip(mixes, batches):
        yield mix_batch(pixels, labels, mix, num_classes)


def mix_batch(pixels: torch.Tensor, labels: torch.Tensor, mix: Mix, num_classes: int) -> Batch:
    """Mix each image with the one before it, the first with the last.

    Args:
        pixels: uint8 of shape (B, 3, height, width).
        labels: classes, int64 of shape (B,), or label vectors, float32 of shape (B, C).
        mix: how.
        num_classes: the number of classes, C.

    Returns:
        Pixels as before, rounded half to even, and label vectors, float32 of shape (B, C).
    """
    if labels.ndim == 1:
        # one_hot may make the host wait for the device.
        labels = (labels[:, None] == torch.arange(num_classes, device=labels.device)).to(torch.float32)
    if mix.centre is None:
        pixels, fraction = _blended(pixels, mix.fraction), mix.fraction
    else:
        height, width = pixels.shape[2:]
        top, left, bottom, right = _box(mix.fraction, mix.centre, height, width)
        others = pixels[:, :, top:bottom, left:right].roll(1, 0)
        pixels = pixels.clone()
        pixels[:, :, top:bottom, left:right] = others
        fraction = 1 - (bottom - top) * (right - left) / (height * width)
    return pixels, labels * fraction + labels.roll(1, 0) * (1 - fraction)


def _blended(pixels: torch.Tensor, fraction: float) -> torch.Tensor:
    others = pixels.roll(1, 0)
    result = torch.empty_like(pixels)
    group = group_size(pixels)
    for part, image, other in zip(*(torch.split(images, group) for images in (result, pixels, others))):
        part.copy_((image * fraction).add_(other * (1 - fraction)).round_())
    return result


def _box(fraction: float, centre: tuple[float, float], height: int, width: int) -> tuple[int, int, int, int]:
    """Return top, left, bottom and right of the box of cutmix, cut off at the borders of the image."""
    half = math.sqrt(1 - fraction) / 2
    y, x = int(centre[0] * height), int(centre[1] * width)
    half_height, half_width = int(half * height), int(half * width)
    return max(0, y - half_height), max(0, x - half_width), min(height, y + half_height), min(width, x + half_width)


def shown_in_epoch(
    shown: ImageStore, plan: Plan, epoch: int, index: int, world_size: int, device: torch.device
) -> torch.Tensor:
    """Return an image as the network sees it in an epoch, uint8 of shape (3, height, width).

    Args:
        shown: the training images with the augmentation of the epoch.
        plan: the hyperparameters.
        epoch: counted from 1.
        index: of the image. One that has no step in this epoch is not mixed.
        world_size: the number of processes.
        device: the training device.
    """
    pair, mix = _pair_in_epoch(plan, len(shown), epoch, index, world_size)
    ((pixels, labels),) = shown.batches([pair], device)
    return (pixels if mix is None else mix_batch(pixels, labels, mix, plan.num_classes)[0])[-1]


def _pair_in_epoch(
    plan: Plan, num_images: int, epoch: int, index: int, world_size: int
) -> tuple[torch.Tensor, Mix | None]:
    """Return the indices of what an image is mixed with and of itself, and how; only its own if it is not mixed."""
    order = shuffled(num_images, plan.seed, epoch)
    for rank in range(world_size if plan.mixing else 0):
        shards = training_shards(order, plan.batch_size, rank, world_size)
        for step, shard in enumerate(shards):
            places = (shard.indices == index).nonzero().flatten().tolist()
            if plan.mixing and places:
                mix = plan.mixing.draw(len(shards), plan.seed, epoch, rank)[step]
                return shard.indices[[places[0] - 1, places[0]]], mix
    return torch.tensor([index]), None
