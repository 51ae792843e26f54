"""The report of a training that is finished: what goes into it, and how much time it may take."""

from __future__ import annotations

import logging
import os
import platform
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from train_pytorch_model import __version__
from train_pytorch_model.data.batches import derive_seed
from train_pytorch_model.data.findings import compare_images, imbalance
from train_pytorch_model.distributed.device import name_of_device
from train_pytorch_model.errors import first_line
from train_pytorch_model.report.contents import (
    CONFUSION_MATRIX,
    LEARNING_CURVES,
    REPORT_FILE,
    Report,
    Thumbnail,
    remove_report,
)
from train_pytorch_model.text.masking import masked
from train_pytorch_model.text.wording import bytes_in_words, seconds_in_words
from train_pytorch_model.training.callbacks import Callback
from train_pytorch_model.training.predictions import predict
from train_pytorch_model.training.state import load_weights

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np

    from train_pytorch_model.data.image_store import ImageStore
    from train_pytorch_model.evaluation.records import EpochRecord, EpochTiming
    from train_pytorch_model.job.datasets import Scanned
    from train_pytorch_model.job.prepare import Prepared, Settings
    from train_pytorch_model.training.early_stopping import BestModel
    from train_pytorch_model.training.plan import Plan

logger = logging.getLogger(__name__)

TRACKED_FILES = (LEARNING_CURVES, CONFUSION_MATRIX, REPORT_FILE)
"""Of the report, what the tracked run gets."""
# A report may take this share of the run, or these seconds where they are more.
_SHARE = 0.02
_LEAST_SECONDS = 15.0
# Of that time, the parts for scoring the validation images and for looking for identical ones.
_SCORING_PART = 0.4
_SEARCH_PART = 0.2
# Images times classes: scikit-learn makes several arrays of as many numbers.
_MAX_PROBABILITIES = 50_000_000


class History(Callback):
    """Keeps what the epochs came to."""

    def __init__(self) -> None:
        self.records: list[EpochRecord] = []
        self.timings: list[EpochTiming] = []

    def training_resumed(self, records: Sequence[tuple[EpochRecord, EpochTiming]]) -> None:
        """Keep those of the run before, too."""
        for record, timing in records:
            self.epoch_done(record, timing)

    def epoch_done(self, record: EpochRecord, timing: EpochTiming) -> None:
        """Keep it."""
        self.records.append(record)
        self.timings.append(timing)


@dataclass(frozen=True)
class FinishedTraining:
    """What a report is made from."""

    settings: Settings
    prepared: Prepared
    plan: Plan
    best: BestModel
    history: History
    device: torch.device
    world_size: int
    stop_reason: str
    """As a sentence."""
    seconds: float
    """Of the run so far."""
    warnings: list[str] = field(default_factory=list)
    """What the run warned of."""


def report_kind(wanted: str, *, is_tracked: bool) -> str:
    """What `--report` comes to: "off", "basic" or "full".

    What a job puts out and what a tracked run is sent are seen by more people than the data: there "auto" shows no
    images.
    """
    is_job = any(name in os.environ for name in ("AZUREML_RUN_ID", "MLFLOW_RUN_ID"))
    return ("basic" if is_job or is_tracked else "full") if wanted == "auto" else wanted


def report_training(training: FinishedTraining, folder: Path, *, has_images: bool) -> bool:
    """Write the report of a training; a fault in it is told and ends nothing.

    Args:
        training: that is finished.
        folder: where to.
        has_images: whether images of the user are shown in it.

    Returns:
        Whether it could be written.
    """
    started = time.perf_counter()
    try:
        from train_pytorch_model.report.write import write_report  # matplotlib and jinja2 take seconds

        path = write_report(_make_report(training, has_images=has_images), folder)
    except (Exception, KeyboardInterrupt) as error:  # the model is what the run was for
        logger.warning("The report could not be written: %s: %s", type(error).__name__, first_line(error))
        remove_report(folder)
        return False
    logger.info("Report: %s, in %.1f s.", path, time.perf_counter() - started)
    return True


def _make_report(training: FinishedTraining, *, has_images: bool) -> Report:
    from train_pytorch_model.report.thumbnails import make_mistakes, make_samples

    prepared = training.prepared
    train, valid = prepared.train_data, prepared.valid_data
    classes = train.images.classes
    allowed = max(_LEAST_SECONDS, _SHARE * training.seconds)
    chosen = _choose_images(training, _SCORING_PART * allowed)
    truth = valid.images.labels[valid.kept[chosen.numpy()]]
    load_weights(prepared.network, training.best.state)
    probabilities = predict(
        prepared.network, prepared.valid, chosen, training.plan.batch_size, training.device, prepared.memory_format
    )
    found = compare_images(train.files(), valid.files(), _SEARCH_PART * allowed)
    warnings = [
        *training.warnings,
        *imbalance(train.counts(), classes),
        *found.warnings(valid.name_of),
    ]
    mistakes: tuple[Thumbnail, ...] = ()
    samples: tuple[Thumbnail, ...] = ()
    if has_images:
        mistakes = make_mistakes(
            truth,
            probabilities,
            classes,
            lambda number: _pixels(prepared.valid, int(chosen[number]), training.device),
            lambda number: valid.name_of(int(chosen[number])),
        )
        samples = make_samples(
            train.images.labels[train.kept],
            classes,
            lambda number: _pixels(prepared.train, number, training.device),
            train.name_of,
        )
    return Report(
        title=f"{prepared.description.name}, {len(classes)} classes",
        facts=[(part, [(name, masked(text)) for name, text in facts]) for part, facts in _facts(training)],
        records=training.history.records,
        timings=training.history.timings,
        best_epoch=training.best.epoch,
        stop_reason=training.stop_reason,
        classes=classes,
        train_counts=train.counts(),
        valid_counts=valid.counts(),
        truth=truth,
        probabilities=probabilities,
        drawn_from=len(prepared.valid) if len(chosen) < len(prepared.valid) else None,
        warnings=tuple(warnings),
        mistakes=mistakes,
        samples=samples,
    )


def _choose_images(training: FinishedTraining, allowed: float) -> torch.Tensor:
    """Validation images to score: all, or as many drawn at random as fit into the time, by how long validation took."""
    num_images = len(training.prepared.valid)
    timings = training.history.timings
    # Each process validated its part.
    expected = training.world_size * sum(timing.valid_seconds for timing in timings) / len(timings)
    num_scored = min(num_images, max(1, _MAX_PROBABILITIES // training.plan.num_classes))
    if expected > allowed:
        num_scored = min(num_scored, max(1, int(num_images * allowed / expected)))
    if num_scored == num_images:
        return torch.arange(num_images)
    generator = torch.Generator().manual_seed(derive_seed(training.settings.seed, "report"))
    drawn = torch.randperm(num_images, generator=generator)
    return drawn[:num_scored].sort().values


def _pixels(store: ImageStore, index: int, device: torch.device) -> np.ndarray:
    """The image at an index, uint8 of shape (height, width, 3)."""
    pixels, _ = next(iter(store.batches([torch.tensor([index])], device)))
    return pixels[0].permute(1, 2, 0).cpu().numpy()


def _facts(training: FinishedTraining) -> list[tuple[str, list[tuple[str, str]]]]:
    settings, prepared, plan = training.settings, training.prepared, training.plan
    parameters = settings.parameters
    given: list[tuple[str, Any]] = [
        (definition.title, getattr(parameters, name)) for name, definition in parameters.definitions().items()
    ]
    num_weights = sum(parameter.numel() for parameter in prepared.network.parameters())
    return [
        (
            "Model",
            [
                ("Network", prepared.description.name),
                ("Weights", f"{num_weights:,}"),
                ("Untrained model", str(settings.untrained_model_path)),
                ("Trained model", str(settings.trained_model_path)),
            ],
        ),
        (
            "Data",
            [
                *_data_facts("Training", prepared.train_data, prepared.train),
                *_data_facts("Validation", prepared.valid_data, prepared.valid),
            ],
        ),
        ("Parameters", [*[(name, str(value)) for name, value in given], ("Seed used", str(settings.seed))]),
        (
            "Computed on",
            [
                ("Device", name_of_device(training.device)),
                ("Processes", str(training.world_size)),
                ("Precision", str(plan.precision)),
                ("Image store", prepared.image_store),
                ("CUDA graph", "where the network allows it" if plan.cuda_graph else "no"),
                ("Learning rate at its highest", f"{plan.learning_rate:g}"),
                ("This run", seconds_in_words(training.seconds)),
            ],
        ),
        ("Versions", _versions()),
    ]


def _data_facts(name: str, dataset: Scanned, store: ImageStore) -> list[tuple[str, str]]:
    height, width = store.size
    num_left_out = len(dataset.unreadable) + len(dataset.images.unreadable)
    images = f"{len(store):,} of {width}x{height} pixels, {bytes_in_words(dataset.num_bytes)} decoded"
    left_out = f", {num_left_out:,} left out" if num_left_out else ""
    return [(f"{name} dataset", str(dataset.images.path)), (f"{name} images", images + left_out)]


def _versions() -> list[tuple[str, str]]:
    from importlib.metadata import version

    libraries = ("torchvision", "pillow", "numpy", "azureml-designer-core")
    return [
        ("Train PyTorch Model", __version__),
        ("Python", platform.python_version()),
        ("PyTorch", torch.__version__),
        *[(name, version(name)) for name in libraries],
    ]
