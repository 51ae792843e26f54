"""The command line parser. It imports nothing heavy, so that `--help` answers at once."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from train_pytorch_model import __version__
from train_pytorch_model.cli.cross_validation import add_cross_validate
from train_pytorch_model.cli.flags import add_boolean, add_folder, add_logging, add_parameter
from train_pytorch_model.cli.modules import add_modules
from train_pytorch_model.cli.pipelines import add_run_pipeline
from train_pytorch_model.parameters import EXPORT_FORMATS, TrainingParameters
from train_pytorch_model.text.masking import masked

PORT_FLAGS = {
    "untrained_model_path": "Untrained model: an UntrainedModelDirectory, or a ModelDirectory to train further.",
    "train_data_path": "Training dataset: an ImageDirectory, or a folder with one subfolder per class.",
    "valid_data_path": "Validation dataset: an ImageDirectory, or a folder with one subfolder per class.",
    "trained_model_path": "Folder to write the trained model (a ModelDirectory) to.",
}
_GROUPS = ("training", "recipe", "speed", "resuming", "output")


class _Parser(argparse.ArgumentParser):
    """A parser that masks secrets in its error messages. The subparsers of the commands are of this class too."""

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
    add_modules(commands)
    add_cross_validate(commands, _GROUPS)
    add_run_pipeline(commands)
    for command in commands.choices.values():
        add_logging(command)
    return parser


def _add_train(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "train",
        help="train a model",
        description="Train an image classifier and write it as a ModelDirectory for Score Image Model.",
        allow_abbrev=False,
    )
    _add_training_arguments(parser)


def _add_check(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "check",
        help="check the inputs, the settings and the memory of a training run, and write nothing",
        description="Check a training run before it starts. Takes the arguments of train and writes nothing. "
        "The exit code is 0 if training can start and 1 if there are problems.",
        allow_abbrev=False,
    )
    _add_training_arguments(parser)
    parser.add_argument("--json", action="store_true", help="Print one JSON object instead of a page.")


def _add_training_arguments(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("data")
    for name, description in PORT_FLAGS.items():
        add_folder(data, name, description)
    add_boolean(data, "skip_unreadable_images", "Skip images that cannot be read, and list them.")
    add_boolean(data, "follow_links", "Follow links to files and folders outside of a folder of images.")
    add_boolean(data, "trust_model_code", "Allow the untrained model to import any code.")
    groups = {title: parser.add_argument_group(title) for title in _GROUPS}
    for name, definition in TrainingParameters.definitions().items():
        add_parameter(groups[definition.group], name, definition, TrainingParameters.default(name))
    groups["resuming"].add_argument(
        "--checkpoint-path",
        type=Path,
        metavar="DIR",
        help="Folder for checkpoints. Default: checkpoints in --outputs-path.",
    )
    output = groups["output"]
    output.add_argument(
        "--outputs-path",
        type=Path,
        default=Path("outputs"),
        metavar="DIR",
        help="Folder for metrics and the report. An Azure job uploads ./outputs. Default: %(default)s.",
    )
    output.add_argument(
        "--export",
        action="append",
        choices=EXPORT_FORMATS,
        default=[],
        metavar="|".join(EXPORT_FORMATS),
        help="Also write the trained model in this format. Can be given several times.",
    )
    add_boolean(
        output, "include_samples", "Store three training images in the trained model, as the retired module did."
    )
