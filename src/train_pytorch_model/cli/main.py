"""The entry: arguments in, an exit code out.

Exit codes: 0 for success; 1 for any fault of input, parameter or run, reported on stderr and in
`<outputs>/module_statistics/error_info.json`; 2 for usage; 75 for a run that was interrupted and goes on when the same
command is run again. Of several processes the first alone reports.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING

from train_pytorch_model.cli.parser import build_parser
from train_pytorch_model.distributed.launch import Launch, read_launch
from train_pytorch_model.error_report import ERROR_INFO_PATH, write_error_info
from train_pytorch_model.errors import LibraryError, ModuleError, as_module_error
from train_pytorch_model.parameters import TrainingParameters
from train_pytorch_model.tracking import Tracking, open_tracking

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from rich.console import Console

    from train_pytorch_model.job.prepare import Settings

logger = logging.getLogger(__name__)

# One is tracked by its steps, the other trains nothing.
_UNTRACKED = ("run-pipeline", "check")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; `argv` is without the program's name."""
    arguments = build_parser().parse_args(argv)
    from train_pytorch_model.console.logs import configure_logging  # heavy imports wait until the usage is right

    console = configure_logging(is_quiet=arguments.quiet, log_format=arguments.log_format)
    ending = _Ending(arguments)
    launch = Launch()
    error: ModuleError | None = None
    code = 0
    try:
        if arguments.command == "train":
            launch = read_launch(os.environ)
        if launch.rank == 0 and arguments.command not in _UNTRACKED:
            ending.tracking = open_tracking()
        elif launch.rank:
            console = configure_logging(is_silent=True, log_format=arguments.log_format)
        code = _run(arguments, console, ending, launch)
    except (Exception, KeyboardInterrupt) as fault:
        error = as_module_error(fault)
        if isinstance(error, LibraryError):
            logger.exception("This is a fault of the module or of a library under it, not of your input.")
    if launch.rank == 0:
        ending.tell(error)
    code = code if error is None else error.exit_code
    if code and launch.world_size > 1:  # threads would keep the process
        from train_pytorch_model.distributed.watchdog import leave

        leave(code)
    return code


class _Ending:
    """Tells how the run ended, once: the main thread may be blocked when there is a fault to tell."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.tracking = Tracking()
        self._arguments = arguments
        self._lock = threading.Lock()
        self._is_told = False

    def tell(self, error: ModuleError | None) -> None:
        """Tell of the error that ended the run; None for a success."""
        with self._lock:  # whoever comes second waits, as the process may end after it
            if self._is_told:
                return
            self._is_told = True
            if error is not None:
                logger.error("%s", error.message)
            if self._arguments.command == "check":  # which writes nothing
                return
            report = write_error_info(self._arguments.outputs_path, error)
            self.tracking.log_file(report, ERROR_INFO_PATH.parent.name)
            self.tracking.end(is_success=error is None)


def _run(arguments: argparse.Namespace, console: Console, ending: _Ending, launch: Launch) -> int:
    """Run the command; give the exit code of one that ends without an error."""
    if arguments.command == "train":
        from train_pytorch_model.job.run import train

        train(_settings(arguments), launch, console, ending.tracking, ending.tell)
    elif arguments.command == "check":
        from train_pytorch_model.preflight.command import check

        return check(_settings(arguments), console, is_json=arguments.json)
    elif arguments.command == "run-pipeline":
        _run_pipeline(arguments, console)
    else:
        from train_pytorch_model.modules.entry import MODULES
        from train_pytorch_model.ports.output_directory import make_outputs_folder

        make_outputs_folder(arguments.outputs_path)
        MODULES[arguments.command](arguments, console, ending.tracking)
    return 0


def _run_pipeline(arguments: argparse.Namespace, console: Console) -> None:
    from train_pytorch_model.console.progress import ProgressDisplay
    from train_pytorch_model.pipelines.run_pipeline import run_pipeline, terminated_as_interrupted

    with terminated_as_interrupted():
        run_pipeline(
            arguments.pipeline,
            inputs=dict(arguments.inputs),
            output_path=arguments.output_path,
            dry_run=arguments.dry_run,
            force=arguments.force,
            display=ProgressDisplay(console),
        )


def _settings(arguments: argparse.Namespace) -> Settings:
    from train_pytorch_model.job.prepare import Settings

    parameters = TrainingParameters(**{name: getattr(arguments, name) for name in TrainingParameters.definitions()})
    return Settings(
        untrained_model_path=arguments.untrained_model_path,
        train_data_path=arguments.train_data_path,
        valid_data_path=arguments.valid_data_path,
        trained_model_path=arguments.trained_model_path,
        outputs_path=arguments.outputs_path,
        parameters=parameters,
        seed=parameters.seed(),
        skip_unreadable_images=arguments.skip_unreadable_images,
        trust_model_code=arguments.trust_model_code,
        include_samples=arguments.include_samples,
        export_formats=tuple(dict.fromkeys(arguments.export)),
        checkpoint_path=arguments.checkpoint_path or arguments.outputs_path / "checkpoints",
    )
