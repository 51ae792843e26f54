"""How flags are written and their values read, on every command line of the package."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Optional


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


def add_boolean(parser: argparse.ArgumentParser, name: str, description: str) -> None:
    """Add a flag that takes true or false, and means true when it stands alone."""
    parser.add_argument(
        flag_of(name), type=parse_boolean, nargs="?", const=True, default=False, metavar="BOOL", help=description
    )


def add_outputs_path(parser: argparse.ArgumentParser) -> None:
    """Add the folder of the report."""
    parser.add_argument(
        "--outputs-path",
        type=Path,
        default=Path("outputs"),
        metavar="DIR",
        help="Folder for the report of how the run ended. Default: %(default)s.",
    )


def add_logging(parser: argparse.ArgumentParser) -> None:
    """Add how much a command says, and in what form."""
    parser.add_argument("--quiet", action="store_true", help="Say nothing but warnings and errors.")
    parser.add_argument(
        "--log-format",
        choices=("text", "json"),
        default="text",
        metavar="text|json",
        help="Lines for people, or a JSON object a line. Default: %(default)s.",
    )
