"""Reads YAML files as Azure's SDK reads them: with PyYAML's rules for YAML 1.1, `file:` references and no dates."""

from __future__ import annotations

import re
from datetime import date
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.resolver import BaseResolver

from train_pytorch_model.pipelines.definition import PipelineError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Place = tuple[str, ...]
"""Where a value is in a document: keys, and indices such as `[0]`."""


class _Resolver(BaseResolver):
    """Decides whether a plain scalar is a boolean, a number, a date or null, by the regular expressions of PyYAML.

    In ruamel.yaml, `off` is text by the rules of YAML 1.2, while `y` and `1e3` are not text by those of YAML 1.1.
    """

    processing_version = (1, 1)

    def __init__(self, version: object = None, loader: object = None) -> None:
        super().__init__(loader)


_BOOLEAN = r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF"
_FLOAT = r"""[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+][0-9]+)?
    |\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?
    |[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*
    |[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"""
_INTEGER = r"""[-+]?0b[0-1_]+
    |[-+]?0[0-7_]+
    |[-+]?(?:0|[1-9][0-9_]*)
    |[-+]?0x[0-9a-fA-F_]+
    |[-+]?[1-9][0-9_]*(?::[0-5]?[0-9])+"""
_DATE = r"""[0-9]{4}-[0-9]{2}-[0-9]{2}
    |[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]*)?
     (?:[ \t]*(?:Z|[-+][0-9]{1,2}(?::?[0-9]{2})?))?"""
for _tag, _pattern, _first in (
    ("bool", _BOOLEAN, "yYnNtTfFoO"),
    ("float", _FLOAT, "-+0123456789."),
    ("int", _INTEGER, "-+0123456789"),
    ("merge", "<<", "<"),
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("timestamp", _DATE, "0123456789"),
):
    _whole = re.compile(rf"^(?:{_pattern})$", re.VERBOSE)
    # `add_implicit_resolver` would add the rule to a list of the library, for all YAML files that the process reads.
    _Resolver.add_implicit_resolver_base(f"tag:yaml.org,2002:{_tag}", _whole, list(_first))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that contains a mapping.

    Raises:
        PipelineError: if the file cannot be read, is not YAML, or contains something else.
    """
    if path.exists() and not path.is_file():
        raise PipelineError(f"{path} cannot be read: it is not a regular file")
    parser = YAML(typ="safe", pure=True)
    parser.Resolver = _Resolver
    try:
        document = parser.load(path.read_text(encoding="utf-8-sig"))
        places = list(leaves(document))
    except (OSError, ValueError, YAMLError, RecursionError) as error:
        raise PipelineError(f"{path} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise PipelineError(f"{path} does not contain a mapping")
    for place, value in places:
        not_text = [key for key in place if not isinstance(key, str)]
        if not_text:
            raise PipelineError(f"{path}: {dotted(place)}: the key {not_text[0]!r} is not text; put it in quotes")
        if isinstance(value, date):
            raise PipelineError(f"{path}: {dotted(place)}: {value} is a date in YAML; put it in quotes")
    return document


def leaves(value: object, place: Place = ()) -> Iterator[tuple[Place, object]]:
    """Yield the place and the value of everything in a document that is neither a mapping nor a list."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*place, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, (*place, f"[{index}]"))
    else:
        yield place, value


def dotted(place: Place) -> str:
    """Return a place as text, such as `jobs.train.inputs.epochs`."""
    return ".".join(map(str, place))


def is_remote(text: str) -> bool:
    """Whether a path is in a workspace or behind an address, such as `azureml:data@latest` or `https://…`."""
    return re.match(r"^(azureml:|runs:|git\+|[a-zA-Z][a-zA-Z0-9+.-]*://)", text) is not None and not text.startswith(
        "file:"
    )
