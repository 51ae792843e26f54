"""The session of a call: the console, the tracked run, and the process among those of a launcher."""

from __future__ import annotations

import logging
import os
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable

from train_pytorch_model.console.logs import configured_logging
from train_pytorch_model.console.progress import ProgressDisplay
from train_pytorch_model.distributed.launch import Launch, read_launch
from train_pytorch_model.errors import ModuleError, as_module_error
from train_pytorch_model.tracking import CLIENT_VARIABLES, Tracking, open_tracking

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console


logger = logging.getLogger(__name__)

# Logging and PyTorch's settings belong to the process, so calls run one after another.
_CALL = threading.RLock()


def _log(error: ModuleError | None) -> None:
    """Log an error that ends the process while its main thread is blocked; the caller gets all others."""
    if error is not None:
        logger.error("%s", error.message)


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
    """Whether SIGTERM, SIGINT, SIGHUP and SIGUSR1 end training with a checkpoint. Only the command sets it."""
    report: Callable[[ModuleError | None], None] = _log
    """Reports how the run ended if the process ends outside its main thread."""

    @property
    def display(self) -> ProgressDisplay:
        """Progress bars on the console."""
        return ProgressDisplay(self.console)


@contextmanager
def in_caller(
    given: Session | None = None, *, is_tracked: bool = True, is_distributed: bool = False
) -> Iterator[Session]:
    """Open a session for a call from Python, and leave the caller's process as it was.

    Loggers, warnings filters, random number generators, thread counts, PyTorch's settings, and the modules of a model's
    own code are restored at the end. A call in another thread waits.

    Args:
        given: the session of the command, which is used unchanged.
        is_tracked: whether the call sends metrics to the tracked run that the environment names.
        is_distributed: whether the processes of a launcher work on the call together.

    Raises:
        ModuleError: for every error in the block.
    """
    if given is not None:
        yield given
        return
    from train_pytorch_model.distributed.device import torch_settings_restored  # importing PyTorch takes seconds

    launch = read_launch(os.environ) if is_distributed else Launch()
    restored = _imports_and_variables_restored()
    with _CALL, configured_logging(is_silent=launch.rank > 0) as console, torch_settings_restored(), restored:
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


@contextmanager
def _imports_and_variables_restored() -> Iterator[None]:
    """Restore `sys.path` and the variables of tracking clients, and forget modules from folders added to the path."""
    path, modules = list(sys.path), set(sys.modules)
    variables = {name: os.environ.get(name) for name in CLIENT_VARIABLES}
    try:
        yield
    finally:
        added = tuple(os.path.join(folder, "") for folder in sys.path if folder not in path)
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            if added and str(getattr(sys.modules[name], "__file__", None)).startswith(added):
                del sys.modules[name]
        for name, value in variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
