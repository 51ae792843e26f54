"""The session of a call: the console, the tracked run, and the process among those of a launcher."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable

from train_pytorch_model.console.logs import configured_logging
from train_pytorch_model.console.progress import ProgressDisplay
from train_pytorch_model.distributed.launch import Launch, read_launch
from train_pytorch_model.errors import ModuleError, as_module_error
from train_pytorch_model.tracking import Tracking, open_tracking

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console


def _ignore(error: ModuleError | None) -> None:
    """Report nothing: the caller gets the error itself."""


@dataclass(frozen=True)
class Session:
    """The session of one call."""

    console: Console
    """Shows progress."""
    tracking: Tracking
    """The tracked run, or none."""
    launch: Launch
    """Which of the processes of a launcher this is."""
    handles_signals: bool = False
    """Whether SIGTERM ends training with a checkpoint. Only the command sets it."""
    report: Callable[[ModuleError | None], None] = _ignore
    """Reports how the run ended if the process ends outside its main thread."""

    @property
    def display(self) -> ProgressDisplay:
        """Progress bars on the console."""
        return ProgressDisplay(self.console)


@contextmanager
def in_caller(given: Session | None = None, *, is_tracked: bool = True) -> Iterator[Session]:
    """Open a session for a call from Python, and leave the caller's process as it was.

    Loggers, warnings filters, random number generators, thread counts and PyTorch's settings are restored at the end.

    Args:
        given: the session of the command, which is used unchanged.
        is_tracked: whether the call sends metrics to the tracked run that the environment names.

    Raises:
        ModuleError: for every error in the block.
    """
    if given is not None:
        yield given
        return
    from train_pytorch_model.distributed.device import torch_settings_restored  # importing PyTorch takes seconds

    launch = read_launch(os.environ)
    variables = set(os.environ)
    with configured_logging(is_silent=launch.rank > 0) as console, torch_settings_restored():
        tracking = open_tracking() if is_tracked and launch.rank == 0 else Tracking()
        is_success = False
        try:
            yield Session(console, tracking, launch)
            is_success = True
        except ModuleError:
            raise
        except Exception as error:
            raise as_module_error(error) from error
        finally:
            tracking.end(is_success=is_success)
            for name in set(os.environ) - variables:  # clients of tracking servers take settings from there
                del os.environ[name]
