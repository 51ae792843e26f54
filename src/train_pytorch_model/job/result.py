"""The results of a training run: before they are written, and as `train` returns them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    import torch

    from train_pytorch_model.evaluation.records import EpochRecord, EpochTiming
    from train_pytorch_model.job.calibration import Calibration
    from train_pytorch_model.job.history import History
    from train_pytorch_model.job.prepare import Prepared
    from train_pytorch_model.job.settings import ResolvedSettings
    from train_pytorch_model.training.early_stopping import BestModel
    from train_pytorch_model.training.plan import Plan


@dataclass(frozen=True)
class FinishedTraining:
    """The results of training, before they are written."""

    settings: ResolvedSettings
    prepared: Prepared
    plan: Plan
    best: BestModel
    history: History
    device: torch.device
    world_size: int
    stop_reason: str
    """As a sentence."""
    seconds: float
    """Duration of the run so far."""
    warnings: list[str] = field(default_factory=list)
    """Warnings of the run."""
    calibration: Optional[Calibration] = None
    """Of the best model; None if the run does not calibrate."""


@dataclass(frozen=True, repr=False)
class TrainingResult:
    """The results of a training run, and the paths of what it wrote."""

    history: tuple[EpochRecord, ...]
    """Results of each epoch, including those before a resume; first, with epoch 0, those before fine-tuning."""
    timings: tuple[EpochTiming, ...]
    """Duration of each epoch."""
    best_epoch: int
    """The epoch whose weights the trained model has, counted from 1; 0 for those before fine-tuning."""
    stop_reason: str
    """Why training stopped, as a sentence."""
    seed: int
    """The random seed that was used."""
    trained_model_path: Path
    outputs_path: Path
    metrics_path: Path
    """`metrics.jsonl`, with one line per epoch."""
    report_path: Optional[Path]
    """`report.html`; None if there is no report, and in all processes but the first."""

    @property
    def best(self) -> EpochRecord:
        """The results of the best epoch."""
        return next(record for record in self.history if record.epoch == self.best_epoch)

    def to_dataframe(self) -> pd.DataFrame:
        """Return the history with one row per epoch; the columns are the fields of `EpochRecord`."""
        import pandas as pd

        return pd.DataFrame([asdict(record) for record in self.history])

    def __repr__(self) -> str:
        name, value = self.best.headline
        name = {"accuracy": "top1_acc"}.get(name, name.replace(" ", "_"))
        return (
            f"TrainingResult(epochs={self.history[-1].epoch}, best_epoch={self.best_epoch}, "
            f"{name}={value:.5f}, valid_loss={self.best.valid_loss:.5f}, "
            f"trained_model_path={str(self.trained_model_path)!r})"
        )
