"""Loss and accuracy of an epoch, accumulated on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from train_pytorch_model.distributed.world import World

TOP_K = 5


class Averages(NamedTuple):
    """Means over all images of an epoch and all processes."""

    loss: float
    top1_acc: float
    top5_acc: float | None
    """None with five or fewer classes, where it would always be 1."""
    num_images: int


@dataclass
class RunningSums:
    """Sums of loss and correct predictions over images."""

    totals: torch.Tensor
    """float64 of shape (4,): loss, top-1 correct, top-5 correct, images. Its address never changes."""
    has_top5: bool

    @classmethod
    def zero(cls, num_classes: int, device: torch.device) -> RunningSums:
        """Return sums over no images."""
        return cls(torch.zeros(4, dtype=torch.float64, device=device), num_classes > TOP_K)

    def add(self, loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Add a batch.

        Args:
            loss: mean over the batch, a scalar.
            logits: float of shape (B, num_classes).
            labels: int64 of shape (B,).
        """
        count = len(labels)
        hits = logits.topk(TOP_K if self.has_top5 else 1, dim=1).indices == labels[:, None]
        self.totals[:3] += torch.stack((loss.double() * count, hits[:, 0].sum().double(), hits.sum().double()))
        self.totals[3] += count

    def reset(self) -> None:
        """Set all sums to zero."""
        self.totals.zero_()

    def read(self, world: World) -> Averages:
        """Return the means over the images of all processes. The host waits for the device here."""
        loss, top1, top5, num_images = world.sum(self.totals).tolist()
        averages = (loss / num_images, top1 / num_images, top5 / num_images if self.has_top5 else None)
        return Averages(*averages, num_images=int(num_images))
