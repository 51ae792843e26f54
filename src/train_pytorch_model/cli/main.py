"""The command line's entry: arguments in, an exit code out.

Exit codes: 0 for success; 1 for any fault of input, parameter or run, which is reported on stderr and in
`<outputs>/module_statistics/error_info.json`; 2 for usage; 75 for a preempted run, which resumes when the same command
is run again. With several processes only rank 0 reports.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

from train_pytorch_model.cli.parser import build_parser
from train_pytorch_model.cli.signals import ended_by_signals, reporting_the_end
from train_pytorch_model.distributed.launch import Launch, read_launch
from train_pytorch_model.error_report import ERROR_INFO_PATH, write_error_info
from train_pytorch_model.errors import InterruptedRunError, LibraryError, ModuleError, as_module_error
from train_pytorch_model.tracking import Tracking, open_tracking

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from train_pytorch_model.session import Session

logger = logging.getLogger(__name__)

# The API's function for each command, where it has another name.
_FUNCTIONS = {"score-image-model": "score", "evaluate-model": "evaluate"}
# Flags of the command line alone.
_OWN_FLAGS = ("command", "quiet", "log_format", "json")
# The steps of a pipeline are tracked, not the pipeline itself; a check trains nothing.
_UNTRACKED = ("run-pipeline", "check")
# What an interruption outside of a training loop loses, of the commands that resume.
_RESUMABLE = {"train": "Training had not started.", "cross-validate": "Finished folds are kept."}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after the program's name; those of the process by default.

    Returns:
        The exit code.
    """
    arguments = build_parser().parse_args(argv)
    ending = _Ending(arguments)
    launch = Launch()
    error: ModuleError | None = None
    code = 0
    try:
        with ended_by_signals():
            from train_pytorch_model.console.logs import configure_logging  # heavy imports wait for the right usage
            from train_pytorch_model.session import Session

            console = configure_logging(is_quiet=arguments.quiet, log_format=arguments.log_format)
            if arguments.command == "train":
                launch = read_launch(os.environ)
            if launch.rank == 0 and arguments.command not in _UNTRACKED:
                ending.tracking = open_tracking()
            elif launch.rank:
                console = configure_logging(is_silent=True, log_format=arguments.log_format)
            session = Session(console, ending.tracking, launch, handles_signals=True, report=ending.report)
            code = _run(arguments, session)
    except (Exception, KeyboardInterrupt) as fault:
        error = _named(fault, arguments.command)
    with reporting_the_end():
        if launch.rank == 0:
            ending.report(error)
    code = code if error is None else error.exit_code
    if code and launch.world_size > 1:  # threads that wait for a lost process would keep this one alive
        from train_pytorch_model.distributed.watchdog import leave

        leave(code)
    return code


def _named(fault: BaseException, command: str) -> ModuleError:
    """The named error for an exception; the traceback of an error of this package or of a library is logged."""
    if isinstance(fault, KeyboardInterrupt) and command in _RESUMABLE:
        return InterruptedRunError(_RESUMABLE[command], str(fault) or signal.SIGINT.name)
    error = as_module_error(fault)
    if isinstance(error, LibraryError):
        logger.error("This is a fault of the module or of a library that it uses, not of your input.", exc_info=fault)
    return error


def _run(arguments: argparse.Namespace, session: Session) -> int:
    """Call the API's function for the command; return the exit code of a command that ends without an error."""
    from train_pytorch_model import api
    from train_pytorch_model.cli.imports import import_for

    import_for(arguments.command)
    name = _FUNCTIONS.get(arguments.command, arguments.command.replace("-", "_"))
    given: dict[str, Any] = {key: value for key, value in vars(arguments).items() if key not in _OWN_FLAGS}
    if arguments.command == "run-pipeline":
        given["inputs"] = dict(arguments.inputs)
    result = getattr(api, name)(**given, _session=session)
    if arguments.command == "check":
        from train_pytorch_model.preflight.page import print_result

        print_result(result, is_json=arguments.json)
        return 0 if result.can_start else 1
    return 0


class _Ending:
    """Reports how the run ended, once: the watchdog reports a fault while the main thread is blocked."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.tracking = Tracking()
        self._arguments = arguments
        self._lock = threading.Lock()
        self._is_reported = False

    def report(self, error: ModuleError | None) -> None:
        """Report the error that ended the run; None for success."""
        with self._lock:  # the second caller waits, as the process may end right after the first
            if self._is_reported:
                return
            self._is_reported = True
            if error is not None:
                logger.error("%s", error.message)
            if self._arguments.command == "check":  # which writes nothing
                return
            path = write_error_info(self._arguments.outputs_path, error)
            self.tracking.log_file(path, ERROR_INFO_PATH.parent.name)
            self.tracking.end(is_success=error is None)
