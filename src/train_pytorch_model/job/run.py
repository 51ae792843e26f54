"""One training run, from its settings to a written model."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from train_pytorch_model.checkpoints.folder import CheckpointFolder
from train_pytorch_model.checkpoints.resume import choose_start, drawn_before
from train_pytorch_model.checkpoints.writer import CheckpointWriter
from train_pytorch_model.console.logs import kept_warnings
from train_pytorch_model.console.progress import ProgressDisplay
from train_pytorch_model.distributed.interruption import Interruption
from train_pytorch_model.distributed.rendezvous import connected
from train_pytorch_model.errors import UserError
from train_pytorch_model.job.calibration import calibrated
from train_pytorch_model.job.display import TrainingDisplay
from train_pytorch_model.job.faults import best_kept, faults_named, reported_at_once
from train_pytorch_model.job.history import METRICS_FILE, History, MetricsLog
from train_pytorch_model.job.output import outputs_locked, remove_earlier_outputs, write_model
from train_pytorch_model.job.plan import fingerprint_of, log_plan, make_plan
from train_pytorch_model.job.prepare import Prepared, prepare
from train_pytorch_model.job.recipe import goes_on_as_classic, with_recipe_of_checkpoint
from train_pytorch_model.job.report import report_kind, report_training, tracked_files
from train_pytorch_model.job.result import FinishedTraining, TrainingResult
from train_pytorch_model.report.contents import REPORT_FILE, REPORT_FOLDER, remove_report
from train_pytorch_model.training.callbacks import Callback, CallbackList
from train_pytorch_model.training.early_stopping import BestModel, EarlyStopping
from train_pytorch_model.training.loop import fit

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from train_pytorch_model.distributed.world import World
    from train_pytorch_model.errors import ModuleError
    from train_pytorch_model.evaluation.records import EpochRecord
    from train_pytorch_model.job.settings import ResolvedSettings, Settings
    from train_pytorch_model.parameters.recipes import ResolvedParameters
    from train_pytorch_model.session import Session
    from train_pytorch_model.training.plan import Plan

logger = logging.getLogger(__name__)


def train(settings: Settings, session: Session) -> TrainingResult:
    """Train, and write the trained model and the report in the first process.

    Args:
        settings: the inputs, the outputs and the parameters.
        session: the console, the tracked run and the launch.

    Raises:
        ModuleError: for every fault of an input, a parameter or the run.
    """
    is_main = session.launch.rank == 0
    report = session.report if is_main else _ignore
    report_path = None
    with ExitStack() as stack:
        interruption = stack.enter_context(Interruption(report, handles_signals=session.handles_signals))
        warnings = stack.enter_context(kept_warnings())
        at_once = reported_at_once(report, is_needed=session.handles_signals and session.launch.world_size > 1)
        with at_once, connected(session.launch, report, interruption.notice) as world:
            if is_main:
                stack.enter_context(outputs_locked(settings))  # until the model is written
            finished, checkpoints, results = _fit(settings, session, world, interruption, warnings)
        if is_main:
            interruption.extend()
            report_path = _write(finished, checkpoints, results, session, interruption)
    return TrainingResult(
        history=tuple(finished.history.records),
        timings=tuple(finished.history.timings),
        best_epoch=finished.best.epoch or 0,
        stop_reason=finished.stop_reason,
        seed=finished.settings.seed,
        trained_model_path=settings.trained_model_path,
        outputs_path=settings.outputs_path,
        metrics_path=settings.outputs_path / METRICS_FILE,
        report_path=report_path,
    )


def _ignore(error: ModuleError | None) -> None:
    """Report nothing: the first process does."""


def _fit(
    settings: Settings, session: Session, world: World, interruption: Interruption, warnings: list[str]
) -> tuple[FinishedTraining, CheckpointWriter, Callback]:
    """Prepare and train; return the results, the writer of the checkpoints and that of the results."""
    started = time.perf_counter()
    with faults_named(settings.parameters, world, interruption):
        folder = CheckpointFolder(settings.checkpoint_path)
        candidate = folder.newest() if world.is_main and settings.parameters.resume != "never" else None
        if settings.parameters.random_seed is None:
            settings = replace(settings, seed=world.broadcast(drawn_before(candidate, settings.seed)))
            logger.info("Using random seed %d. Repeat this run with --random-seed %d.", *[settings.seed] * 2)
        prepared = prepare(settings, world, ProgressDisplay(session.console))
        classic = with_recipe_of_checkpoint(settings, prepared.settings, prepared.data, candidate, world)
        if classic:
            del prepared  # its images take memory
            prepared = prepare(classic, world, ProgressDisplay(session.console))
            if not goes_on_as_classic(prepared, folder, candidate or {}, world):
                del prepared
                prepared = prepare(settings, world, ProgressDisplay(session.console))
    settings, parameters = prepared.settings, prepared.settings.parameters
    session.tracking.log_parameters(asdict(parameters))
    with faults_named(parameters, world, interruption):
        plan = make_plan(prepared, world)
        log_plan(prepared, plan, world)
        fingerprint = fingerprint_of(prepared, plan, world)
        _check_same(fingerprint, world)
        checkpoints = _open_checkpoints(folder, candidate, fingerprint, settings, world, interruption)
        del candidate  # as large as three models
        if world.is_main:
            # Outputs of an earlier run must not pass for those of this run.
            remove_earlier_outputs(settings)
        best, history = BestModel(plan.metric_for_best_model), History()
        results = CallbackList(
            *([MetricsLog(settings.outputs_path, session.tracking)] if world.is_main else []), history
        )
        with best_kept(settings, prepared, best, interruption, lambda: _give_up(world, checkpoints)):
            stopped_early = _run_loop(settings, session, prepared, plan, world, best, results, checkpoints)
            stop_reason = _stop_reason(history, parameters, stopped_early=stopped_early)
            logger.info("%s", stop_reason)
            if best.epoch is None and settings.head_only:
                raise UserError(
                    "The head of the network cannot be fitted alone, for the reason above, so there is no model to "
                    "save. Train without --head-only."
                )
            if best.epoch is None:
                raise UserError(
                    "The validation loss was not a finite number in any epoch, so there is no model to save. "
                    f"Lower the learning rate (it is {parameters.learning_rate:g})."
                )
    seconds = time.perf_counter() - started
    finished = FinishedTraining(
        settings, prepared, plan, best, history, world.device, world.world_size, stop_reason, seconds, warnings
    )
    return finished, checkpoints, results


def _check_same(fingerprint: dict[str, object], world: World) -> None:
    """Raise an error if the processes do not train the same."""
    # An entry that only some processes have, such as a fixed microbatch size, differs too.
    differing = {
        name
        for other in world.gather(fingerprint)
        for name in {**other, **fingerprint}
        if other.get(name) != fingerprint.get(name)
    }
    if differing:
        raise UserError(f"The processes have different settings or inputs: {', '.join(sorted(differing))} differ.")


def _open_checkpoints(
    folder: CheckpointFolder,
    candidate: dict[str, Any] | None,
    fingerprint: dict[str, object],
    settings: ResolvedSettings,
    world: World,
    interruption: Interruption,
) -> CheckpointWriter:
    """Choose the checkpoint to resume from, and make the writer of new ones."""
    parameters = settings.parameters
    start = None
    if world.is_main:
        is_required = parameters.resume == "require"
        start = choose_start(folder, candidate, fingerprint, parameters.epochs, is_required=is_required)
    return CheckpointWriter(
        folder,
        parameters.checkpoint_minutes,
        {"fingerprint": fingerprint, "seed": settings.seed},
        interruption,
        resume_from=start,
        is_resuming=world.broadcast(start is not None),
        is_main=world.is_main,
    )


def _run_loop(
    settings: ResolvedSettings,
    session: Session,
    prepared: Prepared,
    plan: Plan,
    world: World,
    best: BestModel,
    results: Callback,
    checkpoints: CheckpointWriter,
) -> bool:
    """Run the training loop with its callbacks; return whether it stopped early."""
    parameters = settings.parameters
    stopping = EarlyStopping(plan.patience, plan.early_stopping_delay)
    metric = plan.metric_for_best_model
    display = TrainingDisplay(session.console, parameters.epochs, stopping, world.device, plan.task, metric)
    started = time.perf_counter()
    with display:
        stopped_early = fit(
            prepared.network.to(world.device),
            prepared.train,
            prepared.valid,
            plan,
            world,
            best,
            CallbackList(results, display),
            checkpoints,
        )
    if checkpoints.blocked_seconds:
        seconds = time.perf_counter() - started
        logger.info(
            "Training waited %.2f s of %.1f s for checkpoints (%.2f %%).",
            checkpoints.blocked_seconds,
            seconds,
            100 * checkpoints.blocked_seconds / seconds,
        )
    return stopped_early


def _stop_reason(history: History, parameters: ResolvedParameters, *, stopped_early: bool) -> str:
    last = history.records[-1].epoch if history.records else 0
    if not parameters.epochs:
        return "Fitted the head."
    if not stopped_early and last < parameters.epochs:
        return f"Fine-tuning was abandoned after epoch {last}, because it made the training loss worse or not finite."
    if not stopped_early:
        return "Completed the epoch." if parameters.epochs == 1 else f"Completed all {parameters.epochs} epochs."
    lowest = history.lowest
    since = f" since epoch {lowest.epoch} ({lowest.valid_loss:.6g})" if lowest else ""
    return (
        f"Stopped early after epoch {last}: no new lowest validation loss{since} for {parameters.patience} "
        "consecutive epochs."
    )


def _write(
    finished: FinishedTraining,
    checkpoints: CheckpointWriter,
    results: Callback,
    session: Session,
    interruption: Interruption,
) -> Path | None:
    """Calibrate, and write the trained model and its report; return the path of the report, None if there is none."""
    settings, tracking = finished.settings, session.tracking
    folder = settings.outputs_path / REPORT_FOLDER
    report_path = None
    formats = settings.export_formats

    def kept(best: BestModel) -> AbstractContextManager[None]:
        return best_kept(settings, finished.prepared, best, interruption, checkpoints.wait, formats)

    with faults_named(settings.parameters, None, interruption), kept(finished.best):
        finished = calibrated(finished)
    best, calibration = finished.best, finished.calibration
    record = next(record for record in finished.history.records if record.epoch == best.epoch)
    if calibration is not None:
        loss = record.valid_loss if calibration.valid_loss is None else calibration.valid_loss
        results.best_calibrated(replace(record, calibrated_valid_loss=loss))
    with faults_named(settings.parameters, None, interruption), kept(best):
        with finished.prepared.output.writing() as model_folder:
            write_model(model_folder, settings, finished.prepared, best, formats)
        tracking.log_file(settings.outputs_path / METRICS_FILE)
        tracking.log_model(settings.trained_model_path)

        def drop_report() -> None:
            remove_report(folder)
            checkpoints.finish()

        # The model is written. Until the checkpoints are removed, a kill costs only the report.
        interruption.complete(drop_report)
        kind = report_kind(settings.parameters.report, is_tracked=tracking.is_on)
        if kind != "off" and report_training(finished, folder, has_images=kind == "full"):
            report_path = folder / REPORT_FILE
            for path in tracked_files(folder):
                tracking.log_file(path, REPORT_FOLDER)
        checkpoints.finish()
    logger.info(
        "Saved the trained model of %s (%s %.5f) to %s.",
        best.name,
        *_in_words(record, best.metric),
        settings.trained_model_path,
    )
    return report_path


def _in_words(record: EpochRecord, metric: str) -> tuple[str, float]:
    """The name and the value of the metric by which the trained model was chosen."""
    name, value = record.deciding(metric)
    words = {"accuracy": "top-1 validation accuracy", "loss": "validation loss"}
    return words.get(name, f"{name} of validation"), value


def _give_up(world: World, checkpoints: CheckpointWriter) -> None:
    """Tell the watchdog that this process has failed, and let a checkpoint that is being written be completed."""
    world.expect_failure()
    checkpoints.wait()
