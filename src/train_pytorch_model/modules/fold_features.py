"""What the frozen network gives to its head for the images of all folds: computed once, and kept until all are done."""

from __future__ import annotations

import logging
import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from train_pytorch_model.checkpoints.folder import CheckpointFolder
from train_pytorch_model.data.image_geometry import Geometry
from train_pytorch_model.errors import first_line
from train_pytorch_model.job.frozen_features import compute_features
from train_pytorch_model.job.known_datasets import FrozenFeatures
from train_pytorch_model.models.heads import Head
from train_pytorch_model.training.frozen_images import HeadInputs, head_logits
from train_pytorch_model.training.predictions import probabilities_of

if TYPE_CHECKING:
    from torch import nn

    from train_pytorch_model.job.settings import Settings
    from train_pytorch_model.modules.fold_runs import FoldRuns
    from train_pytorch_model.modules.score_image_model import KnownScores
    from train_pytorch_model.session import Session

logger = logging.getLogger(__name__)


def features_of_folds(runs: FoldRuns, settings: Settings, session: Session) -> FrozenFeatures | None:
    """Return what the frozen network gives to its head; it is read if an earlier run of the folds has computed it.

    Args:
        runs: the folder of the folds, which has features of this cross-validation only.
        settings: of the training run of any fold.
        session: the console.

    Returns:
        The features; None if each fold must compute its own.
    """
    folder = CheckpointFolder(runs.features)
    content = folder.newest()
    if content is not None:
        logger.info("Using the features of the images in %s.", runs.features)
        return _restored(content)
    logger.info("Computing the features of the images once for all folds.")
    features = compute_features(settings, session)
    if features is not None:
        try:
            folder.write(_saved(features))
        except (OSError, MemoryError) as error:
            logger.warning(
                "The features cannot be kept in %s: %s. If the run is ended, they are computed again.",
                runs.features,
                first_line(error),
            )
    return features


def scores_from(features: FrozenFeatures, is_in: np.ndarray, task: str) -> KnownScores:
    """Return a function that computes the probabilities of images from what is given to the head.

    Args:
        features: of the labelled images of the dataset.
        is_in: which of these images are scored, bool of shape (N,).
        task: MULTICLASS or MULTILABEL.
    """
    rows = np.flatnonzero(is_in)

    def scores(
        network: nn.Module, geometry: Geometry | None, device: torch.device
    ) -> tuple[np.ndarray, dict[int, str]] | None:
        if geometry != features.geometry or features.geometry.averages_mirrored:
            return None
        logits = head_logits(network, features.inputs, torch.from_numpy(rows), device)
        if logits is None:
            return None
        probabilities = probabilities_of(logits, task).double().numpy()
        unreadable = {
            number: features.unreadable[row] for number, row in enumerate(rows.tolist()) if row in features.unreadable
        }
        probabilities[list(unreadable)] = np.nan
        return probabilities, unreadable

    return scores


def remove_features(runs: FoldRuns) -> None:
    """Remove the features, which finished folds do not need."""
    shutil.rmtree(runs.features, ignore_errors=True)


def _saved(features: FrozenFeatures) -> dict[str, Any]:
    return {
        "head": asdict(features.inputs.head),
        "inputs": dict(features.inputs.by_precision),
        "unreadable": features.unreadable,
        "geometry": features.geometry.to_dict(),
    }


def _restored(content: dict[str, Any]) -> FrozenFeatures:
    inputs = HeadInputs(Head(**content["head"]), content["inputs"])
    return FrozenFeatures(inputs, content["unreadable"], Geometry.from_dict(content["geometry"]))
