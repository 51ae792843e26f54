"""How flags are written and how their values are parsed, on every command line of the package."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train_pytorch_model.parameters import TrainingParameters
from train_pytorch_model.parameters.definition import Definition

if TYPE_CHECKING:
    from train_pytorch_model.parameters.definition import Value

_BOOLEAN = Definition("", bool, "", "")
_SEED = TrainingParameters.definitions()["random_seed"]


def flag_of(name: str) -> str:
    """The flag of a parameter: `learning_rate` is `--learning-rate`."""
    return "--" + name.replace("_", "-")


def _parser_of(definition: Definition) -> Any:
    def parse(text: str) -> Value:
        try:
            return definition.parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse


parse_boolean = _parser_of(_BOOLEAN)
parse_seed = _parser_of(_SEED)


def add_boolean(group: argparse._ActionsContainer, name: str, description: str, *, default: bool = False) -> None:
    """Add a flag that takes true or false, and means true when it has no value."""
    group.add_argument(
        flag_of(name),
        type=parse_boolean,
        nargs="?",
        const=True,
        default=default,
        metavar="true|false",
        help=f"{description} Default: {str(default).lower()}.",
    )


def add_folder(group: argparse._ActionsContainer, name: str, description: str) -> None:
    """Add a required flag that takes a folder."""
    group.add_argument(flag_of(name), type=Path, required=True, metavar="DIR", help=description)


def add_parameter(group: argparse._ActionsContainer, name: str, definition: Definition, default: Value) -> None:
    """Add the flag of a training parameter, and its older names, which `--help` does not show."""
    if definition.kind is bool:
        add_boolean(group, name, definition.description, default=bool(default))
    else:
        group.add_argument(
            flag_of(name),
            type=_parser_of(definition),
            default=default,
            metavar=definition.metavar,
            help=f"{definition.description} Default: %(default)s.",
        )
    if definition.aliases:
        group.add_argument(
            *definition.aliases,
            dest=name,
            type=_parser_of(definition),
            default=argparse.SUPPRESS,
            help=argparse.SUPPRESS,
        )


def add_outputs_path(parser: argparse._ActionsContainer) -> None:
    """Add the folder of the report on how the command ended."""
    parser.add_argument(
        "--outputs-path",
        type=Path,
        default=Path("outputs"),
        metavar="DIR",
        help="Folder for error_info.json, which says how the command ended. Default: %(default)s.",
    )


def add_logging(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose the amount and the format of log lines."""
    group = parser.add_argument_group("logging")
    group.add_argument("--quiet", action="store_true", help="Log only warnings and errors.")
    group.add_argument(
        "--log-format",
        choices=("text", "json"),
        default="text",
        metavar="text|json",
        help="Log lines as text or as JSON objects, one per line. Default: %(default)s.",
    )
