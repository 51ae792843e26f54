"""The settings of one training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from train_pytorch_model.job.known_datasets import FrozenFeatures
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
    held_out: Optional[np.ndarray] = None
    """Which labelled images of the training dataset are the validation dataset instead: bool of shape (N,). None if the
    validation dataset is another one."""
    head_only: bool = False
    """Whether to fit the head on the features of the network's weights, and train no epoch."""
    frozen: Optional[FrozenFeatures] = None
    """With `head_only` and `held_out`: what the frozen network gives to its head for the images of the training
    dataset; None if that is to be computed."""


@dataclass(frozen=True)
class ResolvedSettings(Settings):
    """Settings without values that a recipe decides."""

    parameters: ResolvedParameters
