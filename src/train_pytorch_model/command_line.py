"""The command line. Nothing heavy is imported here: `--help` answers at once."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Optional

from train_pytorch_model import __version__
from train_pytorch_model.parameters import TrainingParameters

PORT_FLAGS = {
    "untrained_model_path": "Untrained model (UntrainedModelDirectory, or a trained ModelDirectory to train on from)",
    "train_data_path": "Training dataset (ImageDirectory, or one folder a class)",
    "valid_data_path": "Validation dataset (ImageDirectory, or one folder a class)",
    "trained_model_path": "Trained model (ModelDirectory) to write",
}


def flag_of(name: str) -> str:
    """`learning_rate` is `--learning-rate`."""
    return "--" + name.replace("_", "-")


def parse_seed(text: str) -> Optional[int]:
    """An integer, or None for "none" in any case."""
    return None if text.strip().lower() == "none" else int(text)


def parse_boolean(text: str) -> bool:
    """`true` or `false` in any case, as Azure writes literals of both kinds.

    Raises:
        argparse.ArgumentTypeError: for anything else.
    """
    word = text.strip().lower()
    if word not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, but got {text!r}")
    return word == "true"


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m train_pytorch_model`."""
    parser = argparse.ArgumentParser(
        prog="python -m train_pytorch_model",
        description="Train an image classifier in PyTorch from the designer's typed directories.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_train(commands)
    _add_initialize_model(commands)
    return parser


def _add_boolean(parser: argparse.ArgumentParser, name: str, description: str) -> None:
    parser.add_argument(
        flag_of(name), type=parse_boolean, nargs="?", const=True, default=False, metavar="BOOL", help=description
    )


def _add_train(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "train",
        help="train a model",
        description="Train a model and write it for Score Image Model.",
        allow_abbrev=False,
    )
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
    _add_boolean(parser, "skip_unreadable_images", "Leave out images that cannot be read, and list them.")
    _add_boolean(parser, "trust_model_code", "Let the untrained model name any code to import.")
    _add_boolean(parser, "include_samples", "Ship three training images inside the trained model.")


def _add_initialize_model(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "initialize-model",
        help="write an untrained model",
        description="Write an UntrainedModelDirectory for a classification network of torchvision.",
        allow_abbrev=False,
    )
    parser.add_argument("--model-name", required=True, metavar="NAME", help="A builder of torchvision, e.g. resnet18.")
    parser.add_argument("--untrained-model-path", type=Path, required=True, metavar="DIR", help="Folder to write.")
    parser.add_argument(
        "--weights",
        default="none",
        metavar="none|default|FILE|DIR",
        help="none: random; default: torchvision's best, downloaded; a file of weights; "
        "or a folder that holds torchvision's file. Default: %(default)s.",
    )
    parser.add_argument(
        "--random-seed", type=parse_seed, default=1, metavar="INT", help="Seed of random weights. Default: %(default)s."
    )
    parser.add_argument(
        "--outputs-path",
        type=Path,
        default=Path("outputs"),
        metavar="DIR",
        help="Folder for the report of how the run ended. Default: %(default)s.",
    )
