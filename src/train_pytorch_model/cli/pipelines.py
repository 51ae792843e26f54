"""The command line of run-pipeline. Nothing heavy is imported here."""

from __future__ import annotations

import argparse
from pathlib import Path

from train_pytorch_model.cli.flags import add_outputs_path


def add_run_pipeline(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "run-pipeline",
        help="run a pipeline of Azure Machine Learning on this machine",
        description="Run a pipeline of Azure Machine Learning on this machine, from the YAML file that Azure takes.",
        epilog="Example: python -m train_pytorch_model run-pipeline samples/pipeline.yaml --input epochs=3",
        allow_abbrev=False,
    )
    parser.add_argument("pipeline", type=Path, metavar="FILE", help="YAML file of a pipeline job.")
    parser.add_argument(
        "--input",
        type=_parse_input,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="inputs",
        help="Value for an input of the pipeline. Can be given several times.",
    )
    parser.add_argument(
        "--output-path",
        type=Path,
        default=Path("pipeline_run"),
        metavar="DIR",
        help="Folder for the outputs and the logs of the steps. Default: %(default)s.",
    )
    parser.add_argument("--dry-run", action="store_true", help="Check the pipeline and print what would run.")
    parser.add_argument(
        "--force", action="store_true", help="Run every step, even if its inputs and code are unchanged."
    )
    add_outputs_path(parser)


def _parse_input(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, but got {text!r}")
    return name, value
