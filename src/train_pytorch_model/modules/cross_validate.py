"""Cross-validate: train once per fold, and predict each image with the model that was not trained on it."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
import pandas as pd

from train_pytorch_model.data.file_systems import locked
from train_pytorch_model.distributed.launch import read_launch
from train_pytorch_model.errors import FaultCollector, GreaterThanOrEqualToError, UserError
from train_pytorch_model.modules.cross_validation_results import merge_scored, metrics_of, summarize, write_results
from train_pytorch_model.modules.fold_runs import identity_of, open_fold_runs
from train_pytorch_model.modules.fold_training import run_folds
from train_pytorch_model.modules.folds import assign_folds
from train_pytorch_model.modules.image_groups import read_groups
from train_pytorch_model.ports.dataset_items import read_listed_items
from train_pytorch_model.ports.directory_kinds import CROSS_VALIDATION, TABLE, TRAINED
from train_pytorch_model.ports.item_labels import LabelReader
from train_pytorch_model.ports.labelled_images import LabelledImages, read_labelled_images
from train_pytorch_model.ports.output_directory import OutputDirectory, make_outputs_folder, real_path
from train_pytorch_model.tracking import Metric

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from train_pytorch_model.parameters import TrainingParameters
    from train_pytorch_model.session import Session

logger = logging.getLogger(__name__)

_DATASET = "Dataset"
# Parameters of epochs, which a fit of the head alone does not have.
_OF_EPOCHS = (
    *("epochs", "learning_rate", "patience", "warmup_epochs", "early_stopping_delay", "optimizer", "momentum"),
    *("weight_decay", "lr_schedule", "head_learning_rate_factor", "layer_decay", "layers_to_freeze", "freeze_epochs"),
    *("label_smoothing", "auto_augment", "random_erase", "mixup_alpha", "cutmix_alpha", "model_ema", "clip_grad_norm"),
)


@dataclass(frozen=True)
class CrossValidationSettings:
    """One cross-validation, as the command line or the Python API describes it."""

    untrained_model_path: Path
    data_path: Path
    cross_validation_path: Path
    scored_dataset: Path
    folds_path: Path
    outputs_path: Path
    parameters: TrainingParameters
    folds: int = 5
    groups_path: Optional[Path] = None
    group_column: Optional[str] = None
    head_only: bool = False
    skip_unreadable_images: bool = False
    trust_model_code: bool = False


@dataclass(frozen=True)
class CrossValidation:
    """The results of a cross-validation."""

    cross_validation_path: Path
    scored_dataset: Path
    metrics: dict[str, dict[str, Any]]
    """For each metric, `mean`, `std` and the values of the `folds`."""
    out_of_fold: dict[str, float]
    """The metrics of all out-of-fold predictions together."""
    folds: tuple[dict[str, Any], ...] = field(repr=False)
    """Of each fold: the numbers of images, the best epoch, why training stopped, and the metrics."""

    def to_dataframe(self) -> pd.DataFrame:
        """Return the mean and the standard deviation with one row per metric."""
        table = pd.DataFrame.from_dict(self.metrics, orient="index", columns=["mean", "std"])
        return table.astype(float)


@dataclass(frozen=True)
class FoldedData:
    """The dataset with its folds."""

    images: LabelledImages
    is_labelled: np.ndarray
    """Whether each item of the image list is one of `images`."""
    label_column: str
    groups: np.ndarray | None
    folds: np.ndarray
    """The number of the fold of each image, from 0."""

    def items_of(self, fold: int) -> np.ndarray:
        """Whether each item of the image list is in a fold."""
        items = self.is_labelled.copy()
        items[items] = self.folds == fold
        return items


def cross_validate(settings: CrossValidationSettings, session: Session) -> CrossValidation:
    """Train once per fold, score the images of each fold with its model, and write the metrics and the scored table.

    Args:
        settings: the inputs, the outputs and the parameters.
        session: the console, the tracked run and the launch.

    Raises:
        ModuleError: for every fault of an input, a parameter or a training run.
    """
    results, scored = _check(settings)
    images, is_labelled, label_column = _read_images(settings.data_path)
    groups: np.ndarray | None = None
    group_names: list[str] = []
    if settings.groups_path is not None:
        groups, group_names = read_groups(settings.groups_path, settings.group_column, images.files)
    identity = identity_of(
        settings.parameters,
        images,
        groups,
        settings.untrained_model_path,
        folds=settings.folds,
        head_only=settings.head_only,
        skip_unreadable_images=settings.skip_unreadable_images,
    )
    with _locked(settings.folds_path):
        runs = open_fold_runs(settings.folds_path, identity, settings.parameters.seed(), settings.parameters.resume)
        alike = groups if groups is not None else _listed_twice(images)
        folds = assign_folds(images.labels, alike, images.classes, settings.folds, runs.seed, images.where)
        data = FoldedData(images, is_labelled, label_column, groups, folds)
        of_folds = run_folds(settings, session, runs, data)
        tables = [runs.scored(fold) for fold in range(settings.folds)]
        with scored.writing() as folder:
            merge_scored(tables, folds, folder, label_column, is_multilabel=images.labels.ndim == 2)
    metrics = summarize([values["metrics"] for values in of_folds])
    out_of_fold = metrics_of(settings.scored_dataset)
    contents = {
        "num_folds": settings.folds,
        "num_images": len(images),
        "num_groups": len(group_names) or None,
        "random_seed": runs.seed,
        "head_only": settings.head_only,
        "metrics": metrics,
        "out_of_fold": out_of_fold,
        "folds": of_folds,
    }
    with results.writing() as folder:
        write_results(folder, contents, images.files, folds, groups, group_names)
    session.tracking.log_metrics(
        0, [Metric(name.replace("_", " ").capitalize(), name, found["mean"]) for name, found in metrics.items()]
    )
    _log(metrics, settings)
    return CrossValidation(
        settings.cross_validation_path, settings.scored_dataset, metrics, out_of_fold, tuple(of_folds)
    )


def _check(settings: CrossValidationSettings) -> tuple[OutputDirectory, OutputDirectory]:
    """Check the parameters and the outputs."""
    faults = FaultCollector()
    faults.faults.extend(settings.parameters.faults())
    results = OutputDirectory(settings.cross_validation_path, "Cross-validation", CROSS_VALIDATION)
    scored = OutputDirectory(settings.scored_dataset, "Scored dataset", TABLE)
    inputs = (settings.untrained_model_path, settings.data_path)
    with faults.collecting():
        if read_launch(os.environ).world_size > 1:
            raise UserError("cross-validate runs in one process. Start it without a launcher.")
    with faults.collecting():
        if settings.folds < 2:
            raise GreaterThanOrEqualToError("Folds", 2, detail=f"It is {settings.folds}.")
    with faults.collecting():
        if settings.group_column is not None and settings.groups_path is None:
            raise UserError("--group-column names a column of the file --groups-path, which was not given.")
    with faults.collecting():
        results.check((*inputs, settings.scored_dataset), settings.outputs_path, settings.folds_path)
    with faults.collecting():
        scored.check((*inputs, settings.cross_validation_path), settings.outputs_path, settings.folds_path)
    folds_path = real_path(settings.folds_path)
    for path in map(real_path, inputs):
        with faults.collecting():
            if folds_path == path or folds_path in path.parents or path in folds_path.parents:
                raise UserError(
                    f"--folds-path {folds_path} is, contains or is inside the input {path}. Give another folder."
                )
    faults.raise_any()
    if (settings.untrained_model_path / TRAINED.has).exists():
        logger.warning(
            "%s is a trained model. If it was trained on images of this dataset, the results are better than they will "
            "be on other images. Give an untrained model.",
            settings.untrained_model_path,
        )
    if settings.head_only:
        _warn_of_parameters(settings.parameters)
    return results, scored


def _warn_of_parameters(parameters: TrainingParameters) -> None:
    """Warn of given parameters that have no effect on a fit of the head alone."""
    given = [name for name in _OF_EPOCHS if getattr(parameters, name) != parameters.default(name)]
    if given:
        flags = ", ".join("--" + name.replace("_", "-") for name in given)
        logger.warning("--head-only true trains no epoch, so these flags have no effect: %s.", flags)


def _read_images(path: Path) -> tuple[LabelledImages, np.ndarray, str]:
    """The labelled images, whether each item of the list is one of them, and the name of the column of labels."""
    images = read_labelled_images(path, _DATASET)
    _, columns, items = read_listed_items(path, _DATASET, labelled=True)
    reader = LabelReader(columns, images.where)
    is_labelled = [reader.read(number, item) is not None for number, item in enumerate(items(), start=1)]
    return images, np.array(is_labelled, dtype=bool), columns.label


def _listed_twice(images: LabelledImages) -> np.ndarray | None:
    """The number of the file of each image if a file is listed several times, so that it is in one fold."""
    numbers: dict[str, int] = {}
    of_images = [numbers.setdefault(file, len(numbers)) for file in images.files]
    return None if len(numbers) == len(images) else np.array(of_images, dtype=np.int64)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lock the folder of the folds against other cross-validations on this host."""
    make_outputs_folder(path, "--folds-path")
    try:
        with locked(path):
            yield
    except BlockingIOError as error:
        raise UserError(
            f"Another cross-validation is using {path}. Wait until it ends, or give another --folds-path."
        ) from error


def _log(metrics: dict[str, dict[str, Any]], settings: CrossValidationSettings) -> None:
    for name, found in metrics.items():
        if found["std"] is not None:
            logger.info("%s: %.5f ± %.5f", name, found["mean"], found["std"])
    logger.info(
        "Saved the metrics of %d folds to %s, and the out-of-fold predictions to %s.",
        settings.folds,
        settings.cross_validation_path,
        settings.scored_dataset,
    )
