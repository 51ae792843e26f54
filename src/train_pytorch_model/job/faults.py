"""What happens when a run fails: the best model so far is saved, and the error gets a name that a user can act on."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Callable

from train_pytorch_model.data.decoding import UnreadableImageError
from train_pytorch_model.distributed.world import is_lost_peer
from train_pytorch_model.errors import (
    DivergedRunError,
    InterruptedRunError,
    ModuleError,
    UserError,
    as_module_error,
)
from train_pytorch_model.errors.library_faults import is_out_of_memory
from train_pytorch_model.job.output import save_best
from train_pytorch_model.training.loop import DivergedError
from train_pytorch_model.training.microbatches import BatchTooLargeError, out_of_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from train_pytorch_model.distributed.interruption import Interruption
    from train_pytorch_model.distributed.world import World
    from train_pytorch_model.job.prepare import Prepared
    from train_pytorch_model.job.settings import Settings
    from train_pytorch_model.parameters import TrainingParameters
    from train_pytorch_model.training.early_stopping import BestModel


@contextmanager
def reported_at_once(report: Callable[[ModuleError | None], None], *, is_needed: bool) -> Iterator[None]:
    """Report an error of the block while signals are still handled.

    When a process fails, torchrun ends the others with SIGTERM, which must not come between the error and its report.
    """
    try:
        yield
    except BaseException as error:
        if is_needed:
            report(as_module_error(error))
        raise


@contextmanager
def best_kept(
    settings: Settings,
    prepared: Prepared,
    best: BestModel,
    interruption: Interruption,
    give_up: Callable[[], None],
    export_formats: tuple[str, ...] = (),
) -> Iterator[None]:
    """Save the best model so far when the block fails, unless the run was preempted; the error says where."""
    try:
        yield
    except BaseException as error:
        give_up()
        if isinstance(error, InterruptedRunError) or (interruption.is_requested and is_lost_peer(error)):
            raise
        kept = "No epoch was completed, so there is no model to save."
        if best.state:
            kept = save_best(settings, prepared, best, export_formats)
        if isinstance(error, DivergedError):
            raise DivergedRunError(
                f"The training loss is no longer a finite number ({error}). "
                f"Lower the learning rate (it is {settings.parameters.learning_rate:g}). {kept}"
            ) from error
        if isinstance(error, ModuleError) and best.state:
            error.args = (f"{error} {kept}",)
        raise


@contextmanager
def faults_named(parameters: TrainingParameters, world: World | None, interruption: Interruption) -> Iterator[None]:
    """Raise a named error when the block fails for a reason that a user can act on."""
    try:
        yield
    except BaseException as error:
        if world is not None:
            world.expect_failure()
        named = _named(error, parameters, interruption)
        if named is None:
            raise
        raise named from error


def _named(error: BaseException, parameters: TrainingParameters, interruption: Interruption) -> ModuleError | None:
    """The named error for an exception; None if the exception is to be raised as it is."""
    if interruption.is_requested and is_lost_peer(error):
        return InterruptedRunError("The last checkpoint is kept.", interruption.signal_name)
    if isinstance(error, UnreadableImageError):
        return UserError(f"An image has changed during training: {error}. Start the run again.")
    if isinstance(error, BatchTooLargeError) or is_out_of_memory(error):
        # Before a recipe has decided the batch size, no batch needs memory.
        return out_of_memory(error, parameters.batch_size if isinstance(parameters.batch_size, int) else 1)
    return None
