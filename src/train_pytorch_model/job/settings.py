"""The settings of one training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from train_pytorch_model.parameters import TrainingParameters
    from train_pytorch_model.parameters.recipes import ResolvedParameters


@dataclass(frozen=True)
class Settings:
    """One training run, as the command line or the Python API describes it."""

    untrained_model_path: Path
    train_data_path: Path
    valid_data_path: Path
    trained_model_path: Path
    outputs_path: Path
    checkpoint_path: Path
    parameters: TrainingParameters
    seed: int
    """The random seed given, or the one drawn for this run."""
    skip_unreadable_images: bool = False
    follow_links: bool = False
    trust_model_code: bool = False
    include_samples: bool = False
    export_formats: tuple[str, ...] = ()


@dataclass(frozen=True)
class ResolvedSettings(Settings):
    """Settings without values that a recipe decides."""

    parameters: ResolvedParameters
