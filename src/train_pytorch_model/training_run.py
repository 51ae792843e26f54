"""One training from settings to a written model."""

from __future__ import annotations

import logging
import shutil
import time
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Callable

from train_pytorch_model.checkpoints.folder import CheckpointFolder
from train_pytorch_model.checkpoints.keeper import CheckpointKeeper
from train_pytorch_model.checkpoints.resume import choose_start
from train_pytorch_model.data.decoding import UnreadableImageError
from train_pytorch_model.distributed import connected, is_lost_peer
from train_pytorch_model.errors import (
    TRAINED_MODEL,
    DivergedRunError,
    InterruptedRunError,
    ModuleOutOfMemoryError,
    UserError,
    first_line,
    is_out_of_memory,
)
from train_pytorch_model.interruption import Interruption
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
    from collections.abc import Iterator

    from rich.console import Console

    from train_pytorch_model.distributed import World
    from train_pytorch_model.errors import ModuleError
    from train_pytorch_model.launch import Launch
    from train_pytorch_model.tracking import Tracking

logger = logging.getLogger(__name__)

BEST_CHECKPOINT = "best"


def train(
    settings: Settings, launch: Launch, console: Console, tracking: Tracking, report: Callable[[ModuleError], None]
) -> None:
    """Train and write the trained model.

    Args:
        settings: what and how.
        launch: which of the processes this is.
        console: for progress.
        tracking: the tracked run.
        report: tells of a fault when the process is ended outside its main thread; heard in the first process alone.

    Raises:
        ModuleError: for every fault of input, parameter or run.
    """
    tracking.log_parameters(asdict(settings.parameters))
    display = ProgressDisplay(console, settings.parameters.epochs)
    run = _Run(settings, tracking, display)
    tell = report if launch.rank == 0 else _say_nothing
    with Interruption(tell) as interruption:
        with connected(launch, tell, interruption.notice) as world, run.telling(interruption, world):
            run.fit(world, interruption)
        if launch.rank == 0:
            interruption.extend()
            with run.telling(interruption):
                run.write()


def _say_nothing(error: ModuleError) -> None:
    """The first process speaks for this one."""


class _Run:
    """One training, as far as it has come."""

    def __init__(self, settings: Settings, tracking: Tracking, display: ProgressDisplay) -> None:
        self._settings = settings
        self._tracking = tracking
        self._display = display
        self._best = BestModel()
        self._prepared: Prepared | None = None
        self._keeper: CheckpointKeeper | None = None
        self._is_cuda = False

    def fit(self, world: World, interruption: Interruption) -> None:
        """Prepare and train."""
        settings = self._settings
        parameters = settings.parameters
        self._is_cuda = world.device.type == "cuda"
        folder = CheckpointFolder(settings.checkpoint_path)
        candidate = folder.newest() if world.is_main and parameters.resume != "never" else None
        if parameters.random_seed is None:
            # A run that drew its seed goes on with that.
            drawn = settings.seed
            if candidate and candidate.get("fingerprint", {}).get("random seed", 0) is None:
                drawn = candidate["seed"]
            settings = replace(settings, seed=world.share(drawn))
            logger.info("Random seed %d was drawn for this run; --random-seed %d repeats it.", *[settings.seed] * 2)
        prepared = self._prepared = prepare(settings, world, self._display)
        plan = _make_plan(prepared, settings, world)
        fingerprint = _fingerprint(prepared, settings, plan, world)
        differing = {name for other in world.gather(fingerprint) for name in other if other[name] != fingerprint[name]}
        if differing:
            raise UserError(f"The processes do not train the same: {', '.join(sorted(differing))} differ between them.")
        keeper = self._keeper = CheckpointKeeper(
            folder, parameters.checkpoint_minutes, {"fingerprint": fingerprint, "seed": settings.seed}, interruption,
            is_main=world.is_main,
        )  # fmt: skip
        if world.is_main:
            is_required = parameters.resume == "require"
            keeper.start = choose_start(folder, candidate, fingerprint, parameters.epochs, is_required=is_required)
        keeper.has_start = world.share(keeper.start is not None)
        del candidate
        listeners: list[Any] = [self._display]
        if world.is_main:
            # What an earlier run left there must not pass for this run's.
            self._remove_earlier_best()
            listeners.insert(0, MetricsLog(settings.outputs_path, self._tracking))
        started = time.perf_counter()
        with self._display.training():
            stopped_early = fit(
                prepared.network.to(world.device), prepared.train, prepared.valid, plan, world, self._best,
                Listeners(*listeners), keeper,
            )  # fmt: skip
        if keeper.blocked_seconds:
            seconds = time.perf_counter() - started
            logger.info(
                "Training waited %.2f s of %.1f s for checkpoints (%.2f %%).",
                keeper.blocked_seconds, seconds, 100 * keeper.blocked_seconds / seconds,
            )  # fmt: skip
        if stopped_early:
            logger.info("Stopped early: no new lowest validation loss for %d epochs in a row.", parameters.patience)
        if not self._best.epoch:
            raise UserError(
                "The validation loss was a finite number in no epoch, so there is no model to keep. "
                f"Lower the learning rate (it is {parameters.learning_rate:g})."
            )

    def _remove_earlier_best(self) -> None:
        path = self._settings.checkpoint_path / BEST_CHECKPOINT
        if path.is_dir():
            OutputDirectory(path, TRAINED_MODEL, TRAINED).check()  # that it holds nothing else
            shutil.rmtree(path, ignore_errors=True)

    def write(self) -> None:
        """Write the trained model; in the first process alone."""
        settings, best = self._settings, self._best
        if self._prepared is None or self._keeper is None:
            raise AssertionError("nothing is trained")
        with self._prepared.output.writing() as folder:
            self._write_into(folder, settings.export_formats)
        self._keeper.finish()
        self._tracking.log_file(settings.outputs_path / METRICS_FILE)
        self._tracking.log_model(settings.trained_model_path)
        logger.info(
            "The trained model of epoch %d (top-1 validation accuracy %.5f) lies in %s.",
            best.epoch, best.top1_acc, settings.trained_model_path,
        )  # fmt: skip

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
        if is_out_of_memory(error):
            return ModuleOutOfMemoryError(
                f"{first_line(error)}. Lower the batch size (it is {parameters.batch_size}), "
                "take smaller images or a smaller network, or keep the images elsewhere with --image-store."
            )
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
            prepared.train_images,
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


def _make_plan(prepared: Prepared, settings: Settings, world: World) -> Plan:
    parameters = settings.parameters
    num_steps = parameters.epochs * (len(prepared.train) // parameters.batch_size)
    is_scaled = parameters.scale_learning_rate == "on"
    plan = Plan(
        num_classes=len(prepared.train_images.classes),
        epochs=parameters.epochs,
        batch_size=parameters.batch_size,
        learning_rate=parameters.learning_rate * (world.world_size if is_scaled else 1),
        warmup_epochs=parameters.warmup_epochs,
        patience=parameters.patience,
        seed=settings.seed,
        print_frequency=parameters.print_frequency,
        precision=choose_precision(parameters.precision, world.device, prepared.network),
        memory_format=prepared.memory_format,
        captured=is_captured(
            parameters.compile, world.device, num_steps,
            is_known=prepared.description.is_known, is_alone=world.is_alone,
        ),
        sync_batch_norm=parameters.sync_batch_norm == "on",
        has_unused=not prepared.description.is_known,
    )  # fmt: skip
    height, width = prepared.train.size
    logger.info(
        "Training %s on %d images of %dx%d in %d classes, validating on %d, on %s in %s.",
        prepared.description.name, len(prepared.train), width, height, plan.num_classes,
        len(prepared.valid), world.device, plan.precision,
    )  # fmt: skip
    if not world.is_alone:
        logger.info(
            "%d processes take %d images each a step, at a learning rate of %g.",
            world.world_size, plan.batch_size, plan.learning_rate,
        )  # fmt: skip
    return plan


def _fingerprint(prepared: Prepared, settings: Settings, plan: Plan, world: World) -> dict[str, object]:
    """What two runs must have in common for the one to go on where the other was."""
    return {
        **prepared.data,
        "random seed": settings.parameters.random_seed,
        "batch size": plan.batch_size,
        "learning rate": plan.learning_rate,
        "warm-up epochs": plan.warmup_epochs,
        "precision": str(plan.precision),
        "processes": world.world_size,
        "device": world.device.type,
        "sync batch norm": plan.sync_batch_norm,
    }
