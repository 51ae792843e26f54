"""Trains the model of each fold of a cross-validation, and predicts the images of the fold with it."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from train_pytorch_model.job.run import train
from train_pytorch_model.job.settings import Settings
from train_pytorch_model.modules.cross_validation_results import metrics_of
from train_pytorch_model.modules.fold_features import features_of_folds, remove_features, scores_from
from train_pytorch_model.modules.score_image_model import score_image_model
from train_pytorch_model.tracking import Tracking

if TYPE_CHECKING:
    import numpy as np

    from train_pytorch_model.job.known_datasets import FrozenFeatures
    from train_pytorch_model.modules.cross_validate import CrossValidationSettings, FoldedData
    from train_pytorch_model.modules.fold_runs import FoldRuns
    from train_pytorch_model.session import Session

logger = logging.getLogger(__name__)


def run_folds(
    settings: CrossValidationSettings, session: Session, runs: FoldRuns, data: FoldedData
) -> list[dict[str, Any]]:
    """Train and score the folds that are not finished, and return the results of all."""
    unfinished = [fold for fold in range(settings.folds) if runs.finished(fold) is None]
    features = None
    if settings.head_only and unfinished:
        of_a_fold = _settings_of(settings, runs, data.folds == unfinished[0], unfinished[0])
        features = features_of_folds(runs, of_a_fold, session)
    of_folds = []
    for fold in range(settings.folds):
        finished = runs.finished(fold)
        if finished is not None:
            logger.info("Fold %d of %d is finished already.", fold + 1, settings.folds)
        of_folds.append(finished or _run_fold(settings, session, runs, data, fold, features))
    remove_features(runs)
    return of_folds


def _run_fold(
    settings: CrossValidationSettings,
    session: Session,
    runs: FoldRuns,
    data: FoldedData,
    fold: int,
    features: FrozenFeatures | None,
) -> dict[str, Any]:
    """Train and score one fold; return its results."""
    is_in = data.folds == fold
    logger.info(
        "Fold %d of %d: training on %d images, predicting %d.", fold + 1, settings.folds, (~is_in).sum(), is_in.sum()
    )
    of_fold = replace(_settings_of(settings, runs, is_in, fold), frozen=features)
    # What a fold reports would overwrite that of another one in a tracked run.
    result = train(of_fold, replace(session, tracking=Tracking()))
    score_image_model(
        result.trained_model_path,
        settings.data_path,
        runs.scored(fold),
        skip_unreadable_images=settings.skip_unreadable_images,
        trust_model_code=settings.trust_model_code,
        only=data.items_of(fold),
        known=None if features is None else scores_from(features, is_in, data.images.task),
        outputs_path=runs.folder(fold),
        display=session.display,
    )
    values = {
        "fold": fold + 1,
        "num_train_images": int((~is_in).sum()),
        "num_valid_images": int(is_in.sum()),
        "best_epoch": result.best_epoch,
        "stop_reason": result.stop_reason,
        "metrics": {
            **metrics_of(runs.scored(fold)),
            "train_loss": result.best.train_loss,
            "valid_loss": result.best.valid_loss,
        },
    }
    runs.finish(fold, values)
    return values


def _settings_of(settings: CrossValidationSettings, runs: FoldRuns, held_out: np.ndarray, fold: int) -> Settings:
    """The settings of the training run of a fold."""
    report = settings.parameters.report
    return Settings(
        untrained_model_path=settings.untrained_model_path,
        train_data_path=settings.data_path,
        valid_data_path=settings.data_path,
        trained_model_path=runs.trained_model(fold),
        outputs_path=runs.folder(fold),
        checkpoint_path=runs.folder(fold) / "checkpoints",
        parameters=replace(
            settings.parameters, random_seed=runs.seed, resume="auto", report="off" if report == "auto" else report
        ),
        seed=runs.seed,
        skip_unreadable_images=settings.skip_unreadable_images,
        trust_model_code=settings.trust_model_code,
        held_out=held_out,
        head_only=settings.head_only,
    )
