"""The entry: arguments in, an exit code out.

Exit codes: 0 for success; 1 for any fault of input, parameter or run, reported on stderr and in
`<outputs>/module_statistics/error_info.json`; 2 for usage.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from train_pytorch_model.command_line import build_parser
from train_pytorch_model.errors import (
    ERROR_INFO_PATH,
    LibraryError,
    ModuleError,
    ModuleOutOfMemoryError,
    UserError,
    first_line,
    is_out_of_memory,
    write_error_info,
)
from train_pytorch_model.parameters import TrainingParameters
from train_pytorch_model.tracking import Tracking, open_tracking

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from rich.console import Console

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; `argv` is without the program's name."""
    arguments = build_parser().parse_args(argv)
    from train_pytorch_model.progress import configure_logging  # heavy imports wait until the usage is right

    console = configure_logging()
    tracking = Tracking()
    error: ModuleError | None = None
    try:
        if arguments.command != "run-pipeline":  # which is tracked by its steps
            tracking = open_tracking()
        _run(arguments, console, tracking)
    except ModuleError as fault:
        error = fault
    except KeyboardInterrupt:
        error = UserError("Interrupted.")
    except Exception as fault:
        if is_out_of_memory(fault):
            error = ModuleOutOfMemoryError(first_line(fault))
        else:
            logger.exception("This is a fault of the module or of a library under it, not of your input.")
            error = LibraryError(fault)
    if error is not None:
        logger.error("%s", error.message)
    tracking.log_file(write_error_info(arguments.outputs_path, error), ERROR_INFO_PATH.parent.name)
    tracking.end(is_success=error is None)
    return 0 if error is None else 1


def _run(arguments: argparse.Namespace, console: Console, tracking: Tracking) -> None:
    if arguments.command == "train":
        _train(arguments, console, tracking)
    elif arguments.command == "run-pipeline":
        _run_pipeline(arguments, console)
    else:
        from train_pytorch_model.companions.entry import COMPANIONS
        from train_pytorch_model.ports.output_directory import make_outputs_folder

        make_outputs_folder(arguments.outputs_path)
        COMPANIONS[arguments.command](arguments, console, tracking)


def _run_pipeline(arguments: argparse.Namespace, console: Console) -> None:
    from train_pytorch_model.pipelines.run_pipeline import run_pipeline
    from train_pytorch_model.progress import ProgressDisplay

    run_pipeline(
        arguments.pipeline,
        dict(arguments.inputs),
        arguments.output_path,
        display=ProgressDisplay(console),
        dry_run=arguments.dry_run,
        force=arguments.force,
    )


def _train(arguments: argparse.Namespace, console: Console, tracking: Tracking) -> None:
    from train_pytorch_model.preflight import Settings
    from train_pytorch_model.training_run import train

    parameters = TrainingParameters(**{name: getattr(arguments, name) for name in TrainingParameters.definitions()})
    settings = Settings(
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
    )
    train(settings, console, tracking)
