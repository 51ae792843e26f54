"""Loss and accuracy of an epoch, accumulated on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

import torch

from train_pytorch_model.data.model_task import MULTICLASS, MULTILABEL
from train_pytorch_model.training.thresholds import DEFAULT_THRESHOLD

if TYPE_CHECKING:
    from train_pytorch_model.distributed.world import World

TOP_K = 5


class Averages(NamedTuple):
    """Means over all images of an epoch and all processes."""

    loss: float
    top1_acc: float
    """The fraction of images whose class is the most probable one. With several labels an image: whose labels are
    exactly those with a probability of at least 0.5."""
    top5_acc: float | None
    """None with five or fewer classes, where it would always be 1, and with several labels an image."""
    num_images: int
    balanced_accuracy: Optional[float] = None
    """Mean over the classes of their recall; None if it was not computed."""
    macro_f1: Optional[float] = None
    """Mean over the classes of their F1 score; None if it was not computed."""
    average_precision: Optional[float] = None
    """Of several labels an image; see `LabelValues`."""
    micro_f1: Optional[float] = None
    """Likewise."""
    thresholds: Optional[tuple[float, ...]] = None
    """Likewise."""

    def of_record(self) -> dict[str, Any]:
        """Return the fields of the record of an epoch that validation decides."""
        values = self._asdict()
        for name in ("num_images", "thresholds"):
            del values[name]
        return {"valid_loss": values.pop("loss"), **values}


@dataclass
class RunningSums:
    """Sums of loss and correct predictions over images."""

    totals: torch.Tensor
    """float64 of shape (4,): loss, top-1 correct, top-5 correct, images. Its address never changes."""
    has_top5: bool
    by_class: Optional[torch.Tensor] = None
    """int64 of shape (3, number of classes): images that are predicted right, images of each label, images of each
    prediction. None if they are not counted."""
    task: str = MULTICLASS
    probabilities: Optional[list[torch.Tensor]] = None
    """The probabilities of the labels of each batch, float32 of shape (B, number of labels) on the CPU, where they are
    once `read` has been called. None if they are not kept."""

    @classmethod
    def zero(
        cls,
        num_classes: int,
        device: torch.device,
        *,
        counts_classes: bool = False,
        task: str = MULTICLASS,
        keeps_probabilities: bool = False,
    ) -> RunningSums:
        """Return sums over no images.

        Args:
            num_classes: the number of classes.
            device: of the sums.
            counts_classes: whether to count by class, for balanced accuracy and macro F1.
            task: MULTICLASS or MULTILABEL.
            keeps_probabilities: whether to keep the probabilities, for the metrics of several labels.
        """
        by_class = torch.zeros(3, num_classes, dtype=torch.int64, device=device) if counts_classes else None
        has_top5 = task == MULTICLASS and num_classes > TOP_K
        totals = torch.zeros(4, dtype=torch.float64, device=device)
        return cls(totals, has_top5, by_class, task, [] if keeps_probabilities else None)

    def add(self, loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Add a batch.

        Args:
            loss: mean over the batch, a scalar.
            logits: float of shape (B, num_classes).
            labels: int64 of shape (B,), or float32 of shape (B, num_classes). In the multiclass task, the class of an
                image is the largest part of such a label.
        """
        count = len(labels)
        if self.task == MULTILABEL:
            self._add_several(loss, logits, labels)
            return
        if labels.dim() == 2:
            labels = labels.argmax(1)
        predictions = logits.topk(TOP_K if self.has_top5 else 1, dim=1).indices
        hits = predictions == labels[:, None]
        self.totals[:3] += torch.stack((loss.double() * count, hits[:, 0].sum().double(), hits.sum().double()))
        self.totals[3] += count
        if self.by_class is not None:
            for row, classes, numbers in zip(
                self.by_class,
                (labels, labels, predictions[:, 0]),
                (hits[:, 0].long(), torch.ones_like(labels), torch.ones_like(labels)),
            ):
                row.index_add_(0, classes, numbers)

    def _add_several(self, loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Add a batch of images of which each may have several labels."""
        probabilities = logits.sigmoid()
        is_right = ((probabilities >= DEFAULT_THRESHOLD) == (labels >= DEFAULT_THRESHOLD)).all(1)
        self.totals[:2] += torch.stack((loss.double() * len(labels), is_right.sum().double()))
        self.totals[3] += len(labels)
        if self.probabilities is not None:
            # The host does not wait for a GPU here, but in `read`.
            self.probabilities.append(probabilities.to("cpu", non_blocking=True))

    def reset(self) -> None:
        """Set all sums to zero."""
        self.totals.zero_()

    def read(self, world: World) -> Averages:
        """Return the means over the images of all processes. The host waits for the device here."""
        loss, top1, top5, num_images = world.sum(self.totals).tolist()
        averages = (loss / num_images, top1 / num_images, top5 / num_images if self.has_top5 else None)
        by_class = () if self.by_class is None else _mean_over_classes(world.sum(self.by_class).cpu().double())
        return Averages(*averages, int(num_images), *by_class)


def _mean_over_classes(by_class: torch.Tensor) -> tuple[float, float]:
    """Balanced accuracy and macro F1 as scikit-learn defines them.

    A class without images has no recall, and one that is not predicted either has no F1 score.
    """
    right, actual, predicted = by_class
    recalls = (right / actual)[actual > 0]
    scores = (2 * right / (actual + predicted))[actual + predicted > 0]
    return recalls.mean().item(), scores.mean().item()
