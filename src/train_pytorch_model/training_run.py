"""One training from settings to a written model."""

from __future__ import annotations

import logging
import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING

from train_pytorch_model.data.decoding import UnreadableImageError
from train_pytorch_model.device import choose_device
from train_pytorch_model.errors import TRAINED_MODEL, ModuleOutOfMemoryError, UserError, first_line, is_out_of_memory
from train_pytorch_model.ports.output_directory import TRAINED, OutputDirectory
from train_pytorch_model.ports.trained_model import write_trained_model
from train_pytorch_model.preflight import Prepared, Settings, prepare
from train_pytorch_model.progress import ProgressDisplay
from train_pytorch_model.tracking import METRICS_FILE, Listeners, MetricsLog
from train_pytorch_model.training.captured_step import is_captured
from train_pytorch_model.training.loop import DivergedError, Plan, fit
from train_pytorch_model.training.precision import choose_precision
from train_pytorch_model.training.selection import BestModel

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from train_pytorch_model.tracking import Tracking

logger = logging.getLogger(__name__)

BEST_CHECKPOINT = "checkpoints/best"


def train(settings: Settings, console: Console, tracking: Tracking) -> None:
    """Train and write the trained model.

    Raises:
        ModuleError: for every fault of input, parameter or run.
    """
    parameters = settings.parameters
    if parameters.random_seed is None:
        logger.info("Random seed %d was drawn for this run; --random-seed %d repeats it.", settings.seed, settings.seed)
    tracking.log_parameters(asdict(parameters))
    device = choose_device()
    display = ProgressDisplay(console, parameters.epochs)
    best = BestModel()
    try:
        prepared = prepare(settings, device, display)
        _fit(prepared, settings, device, best, display, tracking)
        with prepared.output.writing() as folder:
            _write(prepared, settings, device, best, folder, settings.export_formats)
    except BaseException as error:
        if best.state:
            _save_best(prepared, settings, device, best)
        if is_out_of_memory(error):
            raise ModuleOutOfMemoryError(
                f"{first_line(error)}. Lower the batch size (it is {parameters.batch_size}), "
                "take smaller images or a smaller network, or keep the images elsewhere with --image-store."
            ) from error
        raise
    tracking.log_file(settings.outputs_path / METRICS_FILE)
    tracking.log_model(settings.trained_model_path)
    logger.info(
        "The trained model of epoch %d (top-1 validation accuracy %.5f) lies in %s.",
        best.epoch, best.top1_acc, settings.trained_model_path,
    )  # fmt: skip


def _make_plan(prepared: Prepared, settings: Settings, device: torch.device) -> Plan:
    parameters = settings.parameters
    num_steps = parameters.epochs * (len(prepared.train) // parameters.batch_size)
    plan = Plan(
        num_classes=len(prepared.train_images.classes),
        epochs=parameters.epochs,
        batch_size=parameters.batch_size,
        learning_rate=parameters.learning_rate,
        warmup_epochs=parameters.warmup_epochs,
        patience=parameters.patience,
        seed=settings.seed,
        print_frequency=parameters.print_frequency,
        precision=choose_precision(parameters.precision, device, prepared.network),
        memory_format=prepared.memory_format,
        captured=is_captured(parameters.compile, device, num_steps, is_known=prepared.description.is_known),
    )
    height, width = prepared.train.size
    logger.info(
        "Training %s on %d images of %dx%d in %d classes, validating on %d, on %s in %s.",
        prepared.description.name, len(prepared.train), width, height, plan.num_classes,
        len(prepared.valid), device, plan.precision,
    )  # fmt: skip
    return plan


def _fit(
    prepared: Prepared,
    settings: Settings,
    device: torch.device,
    best: BestModel,
    display: ProgressDisplay,
    tracking: Tracking,
) -> None:
    parameters = settings.parameters
    plan = _make_plan(prepared, settings, device)
    # What an earlier run left there must not pass for this run's.
    shutil.rmtree(settings.outputs_path / BEST_CHECKPOINT, ignore_errors=True)
    metrics = MetricsLog(settings.outputs_path, tracking)
    try:
        with display.training():
            stopped_early = fit(
                prepared.network.to(device), prepared.train, prepared.valid, plan, device, best,
                Listeners(metrics, display),
            )  # fmt: skip
    except DivergedError as error:
        kept = f"The best model so far, of epoch {best.epoch}, is kept in" if best.state else "No epoch was finished:"
        place = settings.outputs_path / BEST_CHECKPOINT if best.state else "there is no model to keep"
        raise UserError(
            f"The training loss is no longer a finite number ({error}). "
            f"Lower the learning rate (it is {parameters.learning_rate:g}). {kept} {place}."
        ) from error
    except UnreadableImageError as error:
        raise UserError(f"An image has changed while the training went on: {error}. Start the run again.") from error
    if stopped_early:
        logger.info("Stopped early: no new lowest validation loss for %d epochs in a row.", parameters.patience)
    if not best.state:
        raise UserError(
            "The validation loss was a finite number in no epoch, so there is no model to keep. "
            f"Lower the learning rate (it is {parameters.learning_rate:g})."
        )


def _write(
    prepared: Prepared,
    settings: Settings,
    device: torch.device,
    best: BestModel,
    folder: object,
    export_formats: tuple[str, ...],
) -> None:
    # A network of its own on the CPU: what is written must load where there is no GPU.
    network = prepared.description.build()
    network.load_state_dict(best.state)
    write_trained_model(
        folder,  # type: ignore[arg-type]
        network,
        prepared.description,
        prepared.train_images,
        prepared.train.size,
        is_cuda=device.type == "cuda",
        include_samples=settings.include_samples,
        code_folders=prepared.code_folders,
        export_formats=export_formats,
    )


def _save_best(prepared: Prepared, settings: Settings, device: torch.device, best: BestModel) -> None:
    """Keep the best model of a run that failed where a person finds it."""
    path = settings.outputs_path / BEST_CHECKPOINT
    try:
        with OutputDirectory(path, TRAINED_MODEL, TRAINED).writing() as folder:
            _write(prepared, settings, device, best, folder, ())
    except Exception as error:  # the fault that ended the run is the one to tell
        logger.warning("The best model so far could not be kept: %s", error)
    else:
        logger.warning("The best model so far, of epoch %d, is kept in %s.", best.epoch, path)
