"""The trained model on disk: at the end of a run, and the best model so far when a run fails."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train_pytorch_model.data.file_systems import locked, permissions_optional
from train_pytorch_model.errors import TRAINED_MODEL, UserError
from train_pytorch_model.ports.directory_kinds import TRAINED
from train_pytorch_model.ports.output_directory import OutputDirectory, real_path
from train_pytorch_model.ports.trained_model import write_trained_model
from train_pytorch_model.report.contents import REPORT_FOLDER, remove_report

if TYPE_CHECKING:
    from collections.abc import Iterator

    from train_pytorch_model.job.prepare import Prepared
    from train_pytorch_model.job.settings import Settings
    from train_pytorch_model.training.early_stopping import BestModel

logger = logging.getLogger(__name__)

PARAMETERS_FILE = "training_parameters.json"
"""The file of a trained model with the parameters that its recipe decided, and the random seed."""
BEST_CHECKPOINT = "best"
"""The folder in the checkpoint folder for the best model of a failed run."""


@contextmanager
def outputs_locked(settings: Settings) -> Iterator[None]:
    """Lock the folders of metrics and checkpoints while the block runs, against other trainings on this host.

    Raises:
        UserError: if another training uses one of them.
    """
    flags = {settings.checkpoint_path: "--checkpoint-path", settings.outputs_path: "--outputs-path"}
    with ExitStack() as locks:
        for path, flag in {real_path(path): flag for path, flag in flags.items()}.items():
            with contextlib.suppress(OSError):  # which is reported with the other faults of the inputs
                path.mkdir(parents=True, exist_ok=True)
            try:
                reason = locks.enter_context(locked(path))
            except BlockingIOError as error:
                raise UserError(
                    f"Another training is using {path}. Wait until it ends, or give another {flag}."
                ) from error
            if reason and os.path.isdir(path):  # unlike pathlib, it accepts names that are too long
                logger.warning("%s cannot be locked (%s). Do not start another training in it.", path, reason)
        yield


def remove_earlier_outputs(settings: Settings) -> None:
    """Remove the report and the best model that an earlier run left.

    Raises:
        ModuleError: if the folder of the best model contains anything else.
    """
    remove_report(settings.outputs_path / REPORT_FOLDER)
    path = settings.checkpoint_path / BEST_CHECKPOINT
    if path.is_dir():
        OutputDirectory(path, TRAINED_MODEL, TRAINED).check()
        shutil.rmtree(path, ignore_errors=True)


def write_model(
    folder: Any, settings: Settings, prepared: Prepared, best: BestModel, export_formats: tuple[str, ...]
) -> None:
    """Write the weights of the best epoch as a ModelDirectory.

    Args:
        folder: of `OutputDirectory.writing`.
        settings: whether to include samples.
        prepared: the network and the training dataset.
        best: the weights.
        export_formats: further formats to write.
    """
    # A new network on the CPU: the model must load where there is no GPU.
    network = prepared.description.build()
    network.load_state_dict(best.state)
    with permissions_optional():
        write_trained_model(
            folder,
            network,
            prepared.description,
            prepared.train_data.images,
            prepared.geometry.size,
            is_cuda=any(weight.is_cuda for weight in prepared.network.parameters()),
            include_samples=settings.include_samples,
            geometry=prepared.geometry,
            mean=prepared.normalisation.mean,
            std=prepared.normalisation.std,
            code_folders=prepared.code_folders,
            export_formats=export_formats,
            thresholds=best.thresholds or (),
        )
        parameters = prepared.settings.parameters
        if parameters.recipe != "classic":
            values = {**asdict(parameters), "random_seed": settings.seed}
            (folder / PARAMETERS_FILE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def save_best(settings: Settings, prepared: Prepared, best: BestModel, export_formats: tuple[str, ...]) -> str:
    """Save the best model of a failed run, if possible with its exports; return a sentence that says where.

    It is saved in the checkpoint folder, else in the folder of reports, else in a folder for temporary files.
    """
    for path in _places(settings):
        for formats in dict.fromkeys((export_formats, ())):
            try:
                with OutputDirectory(path, TRAINED_MODEL, TRAINED).writing() as folder:
                    write_model(folder, settings, prepared, best, formats)
            except Exception as error:  # the user must learn of the error that ended the run
                logger.warning("The best model so far could not be saved: %s", error)
                continue
            kept = f"The best model so far, of {best.name}, is saved in {path}."
            logger.warning("%s", kept)
            return kept
    return "The best model so far could not be saved."


def _places(settings: Settings) -> Iterator[Path]:
    yield settings.checkpoint_path / BEST_CHECKPOINT
    yield settings.outputs_path / BEST_CHECKPOINT
    with contextlib.suppress(OSError):  # there is none
        yield Path(tempfile.mkdtemp(prefix="trained-model-"))
