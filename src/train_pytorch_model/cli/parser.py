"""The command line. Nothing heavy is imported here: `--help` answers at once."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from train_pytorch_model import __version__
from train_pytorch_model.cli.flags import add_boolean, add_logging, flag_of, parse_seed
from train_pytorch_model.cli.modules import add_companions
from train_pytorch_model.cli.pipelines import add_run_pipeline
from train_pytorch_model.parameters import TrainingParameters
from train_pytorch_model.text.masking import masked

EXPORT_FORMATS = ("mlflow", "onnx")
PORT_FLAGS = {
    "untrained_model_path": "Untrained model (UntrainedModelDirectory, or a trained ModelDirectory to train on from)",
    "train_data_path": "Training dataset (ImageDirectory, or one folder a class)",
    "valid_data_path": "Validation dataset (ImageDirectory, or one folder a class)",
    "trained_model_path": "Trained model (ModelDirectory) to write",
}


class _Parser(argparse.ArgumentParser):
    """A parser that repeats no secret when it says what is wrong; those of the commands are of its class."""

    def error(self, message: str) -> NoReturn:
        super().error(masked(message))


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m train_pytorch_model`."""
    parser: argparse.ArgumentParser = _Parser(
        prog="python -m train_pytorch_model",
        description="Train an image classifier in PyTorch from the designer's typed directories.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_train(commands)
    _add_check(commands)
    add_companions(commands)
    add_run_pipeline(commands)
    for command in commands.choices.values():
        add_logging(command)
    return parser


def _add_train(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "train",
        help="train a model",
        description="Train a model and write it for Score Image Model.",
        allow_abbrev=False,
    )
    _add_training_arguments(parser)


def _add_check(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "check",
        help="look at everything that train would take, and write nothing",
        description="Check a training before it runs: with the arguments of train, and nothing is written. The exit "
        "code is 0 when it can begin, and 1 when there is something to mend.",
        allow_abbrev=False,
    )
    _add_training_arguments(parser)
    parser.add_argument("--json", action="store_true", help="Print one JSON object instead of a page.")


def _add_training_arguments(parser: argparse.ArgumentParser) -> None:
    for name, description in PORT_FLAGS.items():
        parser.add_argument(flag_of(name), type=Path, required=True, metavar="DIR", help=description)
    for name, definition in TrainingParameters.definitions().items():
        parser.add_argument(
            flag_of(name),
            *definition.aliases,
            dest=name,
            type=parse_seed if definition.optional else definition.kind,
            default=TrainingParameters.default(name),
            choices=definition.choices or None,
            metavar="|".join(definition.choices) or definition.kind.__name__.upper(),
            help=f"{definition.description} Default: %(default)s.",
        )
    parser.add_argument(
        "--outputs-path",
        type=Path,
        default=Path("outputs"),
        metavar="DIR",
        help="Folder for metrics and reports; Azure uploads ./outputs of a job. Default: %(default)s.",
    )
    parser.add_argument(
        "--checkpoint-path",
        type=Path,
        metavar="DIR",
        help="Folder for checkpoints, from which an interrupted run goes on. Default: checkpoints in --outputs-path.",
    )
    add_boolean(parser, "skip_unreadable_images", "Leave out images that cannot be read, and list them.")
    add_boolean(parser, "trust_model_code", "Let the untrained model name any code to import.")
    parser.add_argument(
        "--export",
        action="append",
        choices=EXPORT_FORMATS,
        default=[],
        metavar="|".join(EXPORT_FORMATS),
        help="Write the model in one more form beside its own; may stand several times.",
    )
    add_boolean(parser, "include_samples", "Ship three training images inside the trained model.")
