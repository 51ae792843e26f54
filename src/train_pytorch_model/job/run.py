"""One training from settings to a written model."""

from __future__ import annotations

import logging
import math
import shutil
import time
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Callable

from train_pytorch_model.checkpoints.folder import CheckpointFolder
from train_pytorch_model.checkpoints.resume import choose_start, drawn_before
from train_pytorch_model.checkpoints.writer import CheckpointWriter
from train_pytorch_model.console.logs import kept_warnings
from train_pytorch_model.console.progress import ProgressDisplay
from train_pytorch_model.data.decoding import UnreadableImageError
from train_pytorch_model.distributed.interruption import Interruption
from train_pytorch_model.distributed.rendezvous import connected
from train_pytorch_model.distributed.world import is_lost_peer
from train_pytorch_model.errors import (
    TRAINED_MODEL,
    DivergedRunError,
    InterruptedRunError,
    UserError,
    is_out_of_memory,
)
from train_pytorch_model.job.display import TrainingDisplay
from train_pytorch_model.job.plan import fingerprint_of, log_plan, make_plan
from train_pytorch_model.job.prepare import Prepared, Settings, prepare
from train_pytorch_model.job.report import (
    TRACKED_FILES,
    FinishedTraining,
    History,
    report_kind,
    report_training,
)
from train_pytorch_model.ports.output_directory import TRAINED, OutputDirectory
from train_pytorch_model.ports.trained_model import write_trained_model
from train_pytorch_model.report.contents import REPORT_FOLDER, remove_report
from train_pytorch_model.tracking import METRICS_FILE, MetricsLog
from train_pytorch_model.training.callbacks import CallbackList
from train_pytorch_model.training.early_stopping import BestModel
from train_pytorch_model.training.loop import DivergedError, fit
from train_pytorch_model.training.microbatches import BatchTooLargeError, out_of_memory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console

    from train_pytorch_model.distributed.launch import Launch
    from train_pytorch_model.distributed.world import World
    from train_pytorch_model.errors import ModuleError
    from train_pytorch_model.evaluation.records import EpochRecord
    from train_pytorch_model.tracking import Tracking
    from train_pytorch_model.training.callbacks import Callback

logger = logging.getLogger(__name__)

BEST_CHECKPOINT = "best"
_ALL_DONE = "All epochs that were asked for are done."


def train(
    settings: Settings,
    launch: Launch,
    console: Console,
    tracking: Tracking,
    report: Callable[[ModuleError | None], None],
) -> None:
    """Train and write the trained model.

    Args:
        settings: what and how.
        launch: which of the processes this is.
        console: for progress.
        tracking: the tracked run.
        report: tells how the run ended when the process is ended outside its main thread, None for a success; heard in
            the first process alone.

    Raises:
        ModuleError: for every fault of input, parameter or run.
    """
    tracking.log_parameters(asdict(settings.parameters))
    tell = report if launch.rank == 0 else _say_nothing
    with Interruption(tell) as interruption, kept_warnings() as warnings:
        run = _Run(settings, tracking, console, warnings)
        with connected(launch, tell, interruption.notice) as world, run.telling(interruption, world):
            run.fit(world, interruption)
        if launch.rank == 0:
            interruption.extend()
            with run.telling(interruption):
                run.write(interruption)


def _say_nothing(error: ModuleError | None) -> None:
    """The first process speaks for this one."""


class _Run:
    """One training, as far as it has come."""

    def __init__(self, settings: Settings, tracking: Tracking, console: Console, warnings: list[str]) -> None:
        self._settings = settings
        self._tracking = tracking
        self._console = console
        self._warnings = warnings
        self._started = time.perf_counter()
        self._best = BestModel()
        self._prepared: Prepared | None = None
        self._keeper: CheckpointWriter | None = None
        self._finished: FinishedTraining | None = None
        self._is_cuda = False

    def fit(self, world: World, interruption: Interruption) -> None:
        """Prepare and train."""
        settings = self._settings
        parameters = settings.parameters
        self._is_cuda = world.device.type == "cuda"
        folder = CheckpointFolder(settings.checkpoint_path)
        candidate = folder.newest() if world.is_main and parameters.resume != "never" else None
        if parameters.random_seed is None:
            settings = replace(settings, seed=world.broadcast(drawn_before(candidate, settings.seed)))
            logger.info("Random seed %d was drawn for this run; --random-seed %d repeats it.", *[settings.seed] * 2)
        prepared = self._prepared = prepare(settings, world, ProgressDisplay(self._console))
        plan = make_plan(prepared, settings, world)
        log_plan(prepared, plan, world)
        fingerprint = fingerprint_of(prepared, settings, plan, world)
        differing = {name for other in world.gather(fingerprint) for name in other if other[name] != fingerprint[name]}
        if differing:
            raise UserError(f"The processes do not train the same. They differ in: {', '.join(sorted(differing))}.")
        keeper = self._keeper = CheckpointWriter(
            folder,
            parameters.checkpoint_minutes,
            {"fingerprint": fingerprint, "seed": settings.seed},
            interruption,
            is_main=world.is_main,
        )
        if world.is_main:
            is_required = parameters.resume == "require"
            keeper.resume_from = choose_start(
                folder, candidate, fingerprint, parameters.epochs, is_required=is_required
            )
        keeper.is_resuming = world.broadcast(keeper.resume_from is not None)
        del candidate
        display = TrainingDisplay(self._console, parameters.epochs, parameters.patience, world.device)
        history = History()
        listeners: list[Callback] = [history, display]
        if world.is_main:
            # What an earlier run left there must not pass for this run's.
            self._remove_earlier()
            listeners.insert(0, MetricsLog(settings.outputs_path, self._tracking))
        started = time.perf_counter()
        with display:
            stopped_early = fit(
                prepared.network.to(world.device),
                prepared.train,
                prepared.valid,
                plan,
                world,
                self._best,
                CallbackList(*listeners),
                keeper,
            )
        if keeper.blocked_seconds:
            seconds = time.perf_counter() - started
            logger.info(
                "Training waited %.2f s of %.1f s for checkpoints (%.2f %%).",
                keeper.blocked_seconds,
                seconds,
                100 * keeper.blocked_seconds / seconds,
            )
        stop_reason = _stop_reason(history.records, parameters.patience) if stopped_early else _ALL_DONE
        if stopped_early:
            logger.info("%s", stop_reason)
        if not self._best.epoch:
            raise UserError(
                "The validation loss was a finite number in no epoch, so there is no model to keep. "
                f"Lower the learning rate (it is {parameters.learning_rate:g})."
            )
        self._finished = FinishedTraining(
            settings,
            prepared,
            plan,
            self._best,
            history,
            world.device,
            world.world_size,
            stop_reason,
            time.perf_counter() - self._started,
            self._warnings,
        )

    def _remove_earlier(self) -> None:
        remove_report(self._settings.outputs_path / REPORT_FOLDER)
        path = self._settings.checkpoint_path / BEST_CHECKPOINT
        if path.is_dir():
            OutputDirectory(path, TRAINED_MODEL, TRAINED).check()  # that it holds nothing else
            shutil.rmtree(path, ignore_errors=True)

    def write(self, interruption: Interruption) -> None:
        """Write the trained model and the report of it; in the first process alone."""
        settings, best = self._settings, self._best
        if self._prepared is None or self._keeper is None or self._finished is None:
            raise AssertionError("nothing is trained")
        with self._prepared.output.writing() as model_folder:
            self._write_into(model_folder, settings.export_formats)
        self._tracking.log_file(settings.outputs_path / METRICS_FILE)
        self._tracking.log_model(settings.trained_model_path)
        folder, keeper = settings.outputs_path / REPORT_FOLDER, self._keeper

        def drop_report() -> None:
            remove_report(folder)
            keeper.finish()

        # What the run was for is done; until the checkpoints are gone, a kill costs no more than the report.
        interruption.complete(drop_report)
        kind = report_kind(settings.parameters.report, is_tracked=self._tracking.is_on)
        if kind != "off" and report_training(self._finished, folder, has_images=kind == "full"):
            for name in TRACKED_FILES:
                self._tracking.log_file(folder / name, REPORT_FOLDER)
        keeper.finish()
        logger.info(
            "The trained model of epoch %d (top-1 validation accuracy %.5f) lies in %s.",
            best.epoch,
            best.top1_acc,
            settings.trained_model_path,
        )

    @contextmanager
    def telling(self, interruption: Interruption, world: World | None = None) -> Iterator[None]:
        """Keep the best model, and give a fault its name, when the block fails."""
        try:
            yield
        except BaseException as error:
            if world is not None:
                world.expect_failure()
            if self._keeper is not None:
                self._keeper.wait()
            raise self._named(error, is_interrupted=interruption.is_requested) from error

    def _named(self, error: BaseException, *, is_interrupted: bool) -> BaseException:
        if isinstance(error, InterruptedRunError):
            return error
        if is_interrupted and is_lost_peer(error):
            return InterruptedRunError("The last checkpoint stands.")
        parameters = self._settings.parameters
        kept = self._save_best() if self._best.state else "No epoch was finished: there is no model to keep."
        if isinstance(error, DivergedError):
            return DivergedRunError(
                f"The training loss is no longer a finite number ({error}). "
                f"Lower the learning rate (it is {parameters.learning_rate:g}). {kept}"
            )
        if isinstance(error, UnreadableImageError):
            return UserError(f"An image has changed while the training went on: {error}. Start the run again.")
        if isinstance(error, BatchTooLargeError) or is_out_of_memory(error):
            return out_of_memory(error, parameters.batch_size)
        return error

    def _write_into(self, folder: Any, export_formats: tuple[str, ...]) -> None:
        prepared = self._prepared
        if prepared is None:
            raise AssertionError("nothing is trained")
        # A network of its own on the CPU: what is written must load where there is no GPU.
        network = prepared.description.build()
        network.load_state_dict(self._best.state)
        write_trained_model(
            folder,
            network,
            prepared.description,
            prepared.train_data.images,
            prepared.train.size,
            is_cuda=self._is_cuda,
            include_samples=self._settings.include_samples,
            code_folders=prepared.code_folders,
            export_formats=export_formats,
        )

    def _save_best(self) -> str:
        """Keep the best model of a run that failed where a person finds it; say where."""
        path = self._settings.checkpoint_path / BEST_CHECKPOINT
        try:
            with OutputDirectory(path, TRAINED_MODEL, TRAINED).writing() as folder:
                self._write_into(folder, ())
        except Exception as error:  # the fault that ended the run is the one to tell
            logger.warning("The best model so far could not be kept: %s", error)
            return "The best model so far could not be kept."
        kept = f"The best model so far, of epoch {self._best.epoch}, is kept in {path}."
        logger.warning("%s", kept)
        return kept


def _stop_reason(records: Sequence[EpochRecord], patience: int) -> str:
    finite = [record for record in records if math.isfinite(record.valid_loss)]
    lowest = min(finite, key=lambda record: record.valid_loss, default=None)
    since = f" since epoch {lowest.epoch} ({lowest.valid_loss:.6g})" if lowest else ""
    return (
        f"Stopped early after epoch {len(records)}: no new lowest validation loss{since}, for {patience} epochs "
        "in a row."
    )
