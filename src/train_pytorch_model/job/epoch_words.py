"""The results of an epoch in words, for the log and the live display."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from train_pytorch_model.evaluation.records import EpochRecord, EpochTiming


def epoch_in_words(
    record: EpochRecord, timing: EpochTiming, epochs: int, *, is_short: bool, metric: str | None = None
) -> str:
    """Return the line of an epoch.

    Args:
        record: its results.
        timing: its duration.
        epochs: the maximum number of epochs.
        is_short: whether the line stands above a live display.
        metric: see `headline_in_words`.
    """
    if not record.epoch:
        message = (
            f"Epoch 0, before fine-tuning: train_loss {record.train_loss:.6f}, train_error {record.train_error:.5f}"
            f", valid_loss {record.valid_loss:.6f}, {figures_in_words(record)}"
        )
    elif is_short:
        message = (
            f"Epoch {record.epoch}/{epochs}: loss {loss_in_words(record.train_loss)}, validation loss "
            f"{loss_in_words(record.valid_loss)}, {headline_in_words(record, metric)}"
            f"{' (best)' if record.is_best else ''}"
        )
    else:
        message = (
            f"Epoch {record.epoch}/{epochs}: lr {record.learning_rate:.3g}, train_ips "
            f"{timing.train_images_per_second:.1f}, train_loss {record.train_loss:.6f}, train_error "
            f"{record.train_error:.5f}, valid_loss {record.valid_loss:.6f}, {figures_in_words(record)}"
            f"{' (best so far)' if record.is_best else ''}"
        )
    if record.interpolation is not None:
        message += f"; validated with weights {record.interpolation:.0%} of the way from epoch 0 to this one"
    return message


def headline_in_words(record: EpochRecord, metric: str | None) -> str:
    """Return the metric by which an epoch is judged.

    Args:
        record: its results.
        metric: that decides which epoch is the best. For "loss", which is shown anyway, and for None, it is the usual
            one.
    """
    name, value = record.headline if metric is None or metric == "loss" else record.deciding(metric)
    return f"{name} {value:.4f}"


def figures_in_words(record: EpochRecord) -> str:
    """Return the metrics of validation but the loss."""
    if record.average_precision is not None:
        return (
            f"average precision {record.average_precision:.5f}, micro f1 {record.micro_f1:.5f}, macro f1 "
            f"{record.macro_f1:.5f}, subset acc {record.top1_acc:.5f}"
        )
    top5 = "" if record.top5_acc is None else f", top5 acc {record.top5_acc:.5f}"
    return f"top1 acc {record.top1_acc:.5f}{top5}{_of_classes(record)}"


def loss_in_words(loss: float) -> str:
    """Return a loss with four decimals, or with three digits if it is large."""
    return f"{loss:.4f}" if abs(loss) < 10_000 else f"{loss:.3g}"


def _of_classes(record: EpochRecord) -> str:
    if record.balanced_accuracy is None or record.macro_f1 is None:
        return ""
    return f", balanced acc {record.balanced_accuracy:.5f}, macro f1 {record.macro_f1:.5f}"
