"""Results of epochs, and the progress within one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Optional


@dataclass(frozen=True)
class Reading:
    """Progress within an epoch."""

    loss: float
    """Loss of the last batch of this process."""
    accuracy: float
    """Top-1 accuracy over this process's images of the epoch so far, while the weights change. With several labels an
    image: the fraction of images whose labels are all right."""
    learning_rate: float
    images_per_second: float
    """Throughput of all processes, averaged over the epoch so far."""


@dataclass(frozen=True)
class EpochRecord:
    """Results of one epoch."""

    epoch: int
    """From 1; 0 for the network before fine-tuning."""
    learning_rate: float
    """Of the last step of the epoch, for the layers before the head."""
    train_loss: float
    """Mean over the images, in training mode, while the weights change."""
    train_error: float
    """1 - top-1 accuracy, computed in the same way."""
    valid_loss: float
    top1_acc: float
    """With several labels an image: subset accuracy, the fraction of images whose labels are all right at the threshold
    0.5."""
    top5_acc: Optional[float]
    """None for five classes or fewer, and for several labels an image."""
    is_best: bool
    balanced_accuracy: Optional[float] = None
    """On the validation images; None unless it or macro F1 decides which epoch is the best."""
    macro_f1: Optional[float] = None
    """Likewise. With several labels an image: mean over the labels that a validation image has, at the threshold
    0.5."""
    interpolation: Optional[float] = None
    """If less than 1, the validated weights lie between those with the fitted head alone (0) and those of this epoch
    (1). None for the weights of the epoch."""
    average_precision: Optional[float] = None
    """Mean over the labels that a validation image has; None unless an image may have several labels."""
    micro_f1: Optional[float] = None
    """Of all labels together, at the threshold 0.5; None unless an image may have several labels."""
    calibrated_valid_loss: Optional[float] = None
    """Of the trained model after calibration, as Score Image Model computes it; only in the best epoch of a training
    that calibrates."""

    @property
    def headline(self) -> tuple[str, float]:
        """The name and the value of the metric by which a person judges the epoch."""
        if self.average_precision is not None:
            return "average precision", self.average_precision
        return "accuracy", self.top1_acc

    def deciding(self, metric: str) -> tuple[str, float]:
        """Return the name and the value of the metric that decides which epoch is the best.

        Args:
            metric: "accuracy", "balanced_accuracy", "average_precision", "micro_f1", "macro_f1" or "loss". The record
                has its value if the training chooses by it.
        """
        if metric == "loss":
            return "loss", self.valid_loss
        if metric == "accuracy":
            return "accuracy" if self.average_precision is None else "subset accuracy", self.top1_acc
        value: float = getattr(self, metric)
        return metric.replace("_", " "), value

    def written(self) -> dict[str, object]:
        """Return the values for a file. Values that only some trainings have are left out elsewhere."""
        values = asdict(self)
        common = (
            "epoch",
            "learning_rate",
            "train_loss",
            "train_error",
            "valid_loss",
            "top1_acc",
            "top5_acc",
            "is_best",
        )
        return {name: value for name, value in values.items() if name in common or value is not None}


@dataclass(frozen=True)
class EpochTiming:
    """Duration of one epoch."""

    epoch: int
    train_seconds: float
    valid_seconds: float
    train_images_per_second: float
