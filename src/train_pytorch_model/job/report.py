"""The report of a finished training run: its content, and the time that it may take."""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Any

import torch

from train_pytorch_model.data.batches import derive_seed
from train_pytorch_model.data.findings import compare_images, imbalance
from train_pytorch_model.data.model_task import MULTILABEL
from train_pytorch_model.errors import first_line
from train_pytorch_model.job.facts import facts_of
from train_pytorch_model.job.geometry import enlarges_images_of_its_size
from train_pytorch_model.job.suspicious import find_suspicious
from train_pytorch_model.report.contents import (
    CONFUSION_MATRIX,
    LEARNING_CURVES,
    PRECISION_RECALL,
    REPORT_FILE,
    Report,
    remove_report,
)
from train_pytorch_model.text.masking import masked
from train_pytorch_model.training.augmentation import augmented, plain
from train_pytorch_model.training.mixing import shown_in_epoch
from train_pytorch_model.training.predictions import predict
from train_pytorch_model.training.state import load_weights

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from train_pytorch_model.data.image_store import ImageStore
    from train_pytorch_model.job.result import FinishedTraining
    from train_pytorch_model.report.contents import AugmentedSample

logger = logging.getLogger(__name__)

_TRACKED_FILES = (LEARNING_CURVES, CONFUSION_MATRIX, PRECISION_RECALL, REPORT_FILE)
# A report may take this fraction of the run, or this many seconds if they are more.
_FRACTION_OF_RUN = 0.02
_MIN_SECONDS = 15.0
# The fractions of that time for scoring the validation images, for finding files in both datasets, for finding wrong
# labels and images that are there twice, and for heat maps, which also get what the others leave.
_SCORING_FRACTION = 0.3
_SEARCH_FRACTION = 0.1
_SUSPICIONS_FRACTION = 0.4
_HEAT_FRACTION = 0.2
# Training images are shown as the network sees them in this many epochs.
_NUM_SHOWN_EPOCHS = 4
# Images times classes: scikit-learn makes several arrays of this size.
_MAX_PROBABILITIES = 50_000_000
# The average precision of each label needs a sort of all images.
_MAX_LABEL_PROBABILITIES = 2_000_000


def report_kind(wanted: str, *, is_tracked: bool) -> str:
    """Return the kind of report: "off", "basic" or "full".

    More people see the outputs of a job and a tracked run than the data itself, so "auto" shows no images there.
    """
    is_job = any(name in os.environ for name in ("AZUREML_RUN_ID", "MLFLOW_RUN_ID"))
    return ("basic" if is_job or is_tracked else "full") if wanted == "auto" else wanted


def tracked_files(folder: Path) -> list[Path]:
    """Return the files of the report in a folder that are sent to the tracked run."""
    return [folder / name for name in _TRACKED_FILES if (folder / name).exists()]


def report_training(training: FinishedTraining, folder: Path, *, has_images: bool) -> bool:
    """Write the report of a training run. An error is logged and does not end the run.

    Args:
        training: the results.
        folder: the folder to write.
        has_images: whether the report shows images of the user.

    Returns:
        Whether the report was written.
    """
    started = time.perf_counter()
    try:
        from train_pytorch_model.report.write import write_report  # importing matplotlib and jinja2 takes seconds

        path = write_report(_make_report(training, has_images=has_images), folder)
    except (Exception, KeyboardInterrupt) as error:  # the model is written; it must not be lost for the report
        logger.warning("The report could not be written: %s: %s", type(error).__name__, first_line(error))
        remove_report(folder)
        return False
    logger.info("Saved the report to %s in %.1f s.", path, time.perf_counter() - started)
    return True


def _make_report(training: FinishedTraining, *, has_images: bool) -> Report:
    from train_pytorch_model.report.thumbnails import make_label_mistakes, make_mistakes, make_samples

    started = time.perf_counter()
    prepared = training.prepared
    train, valid = prepared.train_data, prepared.valid_data
    classes, task = train.images.classes, train.images.task
    allowed = max(_MIN_SECONDS, _FRACTION_OF_RUN * training.seconds)
    chosen = _choose_images(training, _SCORING_FRACTION * allowed)
    truth = valid.images.labels[valid.kept[chosen.numpy()]]
    load_weights(prepared.network, training.best.state)
    plan = training.plan
    probabilities = predict(
        prepared.network,
        prepared.valid,
        chosen,
        plan.batch_size,
        training.device,
        plan.memory_format,
        plan.mean,
        plan.std,
        task,
        averages_mirrored=plan.averages_mirrored,
    )
    thresholds = (training.best.thresholds or (0.5,) * len(classes)) if task == MULTILABEL else None
    found = compare_images(train.files(), valid.files(), _SEARCH_FRACTION * allowed)
    suspicions = find_suspicious(
        training, (chosen, probabilities), _SUSPICIONS_FRACTION * allowed, has_images=has_images
    )
    leaks = [*found.warnings(valid.name_of), *suspicions.warnings]
    warnings = [
        *training.warnings,
        *imbalance(train.counts(), classes, is_multilabel=task == MULTILABEL),
        *leaks,
    ]
    for text in leaks:  # after the warnings of the run were listed, which this would add to
        logger.warning("%s", text)
    thumbnails: dict[str, Any] = {}
    if has_images:
        from train_pytorch_model.job.heat_maps import ReportHeatMaps

        remaining = allowed - (time.perf_counter() - started)
        heat_maps = ReportHeatMaps(training, max(_HEAT_FRACTION * allowed, remaining))
        shown = (
            lambda number: _pixels(prepared.valid, int(chosen[number]), training.device),
            lambda number: valid.name_of(int(chosen[number])),
            heat_maps.jpeg,
        )
        if thresholds is None:
            thumbnails["mistakes"] = make_mistakes(truth, probabilities, classes, *shown)
        else:
            kinds = make_label_mistakes(truth, probabilities, classes, thresholds, *shown)
            thumbnails["wrongly_found"], thumbnails["missed"] = kinds
        thumbnails["samples"] = make_samples(
            train.images.labels[train.kept],
            classes,
            lambda number: _pixels(plain(prepared.train, training.plan.image_size), number, training.device),
            train.name_of,
            heat_maps.jpeg,
        )
        thumbnails["heat_note"] = heat_maps.note
        thumbnails["augmented"] = _augmented_samples(training)
    return Report(
        title=f"{prepared.description.network_name}, {len(classes)} {'classes' if thresholds is None else 'labels'}",
        facts=[(part, [(name, masked(text)) for name, text in facts]) for part, facts in facts_of(training)],
        records=training.history.records,
        timings=training.history.timings,
        best_epoch=training.best.epoch or 0,
        stop_reason=training.stop_reason,
        classes=classes,
        train_counts=train.counts(),
        valid_counts=valid.counts(),
        truth=truth,
        probabilities=probabilities,
        drawn_from=len(prepared.valid) if len(chosen) < len(prepared.valid) else None,
        warnings=tuple(warnings),
        thresholds=thresholds,
        image_size=training.plan.image_size,
        enlarges_samples=enlarges_images_of_its_size(train),
        suspicions=suspicions,
        **thumbnails,
    )


def _augmented_samples(training: FinishedTraining) -> tuple[AugmentedSample, ...]:
    """Training images as the network saw them; none without augmentation."""
    from train_pytorch_model.report.thumbnails import make_augmented

    plan, images, data = training.plan, training.prepared.train, training.prepared.train_data
    if plan.augmentation is None and plan.mixing is None:
        return ()
    last = max(1, training.history.records[-1].epoch)
    epochs = range(1, 1 + min(_NUM_SHOWN_EPOCHS, last))
    stores = [plain(images, plan.image_size), *(augmented(images, plan, epoch) for epoch in epochs)]

    def pixels_of(number: int, epoch: int) -> np.ndarray:
        if not epoch:
            return _pixels(stores[0], number, training.device)
        shown = shown_in_epoch(stores[epoch], plan, epoch, number, training.world_size, training.device)
        return shown.permute(1, 2, 0).cpu().numpy()

    return make_augmented(
        data.images.labels[data.kept],
        data.images.classes,
        epochs,
        pixels_of,
        data.name_of,
    )


def _choose_images(training: FinishedTraining, allowed: float) -> torch.Tensor:
    """Choose the validation images to score: all, or a random sample that can be scored in the time.

    The time is estimated from the duration of validation.
    """
    num_images = len(training.prepared.valid)
    timings = training.history.timings
    # Each process validated its shard; the last epoch may have validated mixed weights, too.
    expected = training.world_size * min(timing.valid_seconds for timing in timings)
    is_multilabel = training.prepared.train_data.images.task == MULTILABEL
    limit = _MAX_LABEL_PROBABILITIES if is_multilabel else _MAX_PROBABILITIES
    num_scored = min(num_images, max(1, limit // training.plan.num_classes))
    if expected > allowed:
        num_scored = min(num_scored, max(1, int(num_images * allowed / expected)))
    if num_scored == num_images:
        return torch.arange(num_images)
    generator = torch.Generator().manual_seed(derive_seed(training.settings.seed, "report"))
    drawn = torch.randperm(num_images, generator=generator)
    return drawn[:num_scored].sort().values


def _pixels(store: ImageStore, index: int, device: torch.device) -> np.ndarray:
    """The image at an index: uint8 of shape (height, width, 3)."""
    pixels, _ = next(iter(store.batches([torch.tensor([index])], device)))
    return pixels[0].permute(1, 2, 0).cpu().numpy()
