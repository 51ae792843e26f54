"""Reads small files of a directory, mostly YAML, with limits on size and content."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, NodeEvent, ScalarEvent

from train_pytorch_model.ports.named_files import find_file
from train_pytorch_model.text.wording import shown

if TYPE_CHECKING:
    from pathlib import Path

META_FILE = "_meta.yaml"
# Much larger than any real file, and parsed within a few seconds.
MAX_YAML_BYTES = 2**18
_MAX_VALUES = 10_000
_MAX_DEPTH = 100
# YAML writers use an alias for a list that occurs twice, such as a mean that is also the std.
_MAX_ALIASES = 1000
_MERGE_KEY = "<<"
_MERGE_TAG = "tag:yaml.org,2002:merge"


def read_meta(path: Path, type_name: str | None = None) -> dict[str, Any]:
    """Read `_meta.yaml` of a directory.

    Args:
        path: the directory.
        type_name: the type that the directory must have, such as "ImageDirectory"; None for any.

    Raises:
        ValueError: if the file does not exist, is not a YAML mapping, or has another type.
    """
    try:
        text = read_text(find_file(path, META_FILE), MAX_YAML_BYTES)
        check_yaml(META_FILE, text)
        meta = YAML(typ="safe", pure=True).load(text)
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise ValueError(f"{META_FILE} cannot be read: {error}") from error
    if not isinstance(meta, dict):
        raise ValueError(f"{META_FILE} is not a mapping")
    if type_name not in (None, meta.get("type")):
        raise ValueError(f"{META_FILE} has type {shown(meta.get('type'))}, expected {type_name}")
    return meta


def find_meta_file(path: Path, meta: dict[str, Any], key: str) -> Path:
    """Return the file of a directory that its `_meta.yaml` names.

    Args:
        path: the directory.
        meta: the content of `_meta.yaml`.
        key: the key of the file's name, such as "schema".

    Raises:
        ValueError: if there is no such key, or no such file inside the directory.
    """
    return find_file(path, meta.get(key), f"the key {key!r} of {META_FILE}")


def check_yaml(name: str, text: str) -> None:
    """Check, before loading, that a YAML text has nothing that takes unlimited time or memory.

    An alias alone costs nothing. But merge keys copy the mappings that they name, aliases within anchored values expand
    exponentially, and the time for nested lists grows with the square of their depth. No writer of such files needs
    any of these.

    Args:
        name: the name of the file in messages.
        text: the content of the file.

    Raises:
        ValueError: for merge keys, aliases within anchored values, and too many aliases, values or levels.
        YAMLError: if the text is not YAML.
    """
    num_aliases = num_values = depth = 0
    anchored_at: int | None = None
    for event in YAML(typ="safe", pure=True).parse(text):
        if isinstance(event, CollectionEndEvent):
            depth -= 1
            if depth == anchored_at:
                anchored_at = None
        elif isinstance(event, AliasEvent):
            num_aliases += 1
            if anchored_at is not None or num_aliases > _MAX_ALIASES:
                raise ValueError(f"{name} has aliases within aliases, or too many aliases")
        elif isinstance(event, ScalarEvent) and (event.value == _MERGE_KEY or event.tag == _MERGE_TAG):
            raise ValueError(f"{name} has a merge key (<<), which is not supported")
        num_values += isinstance(event, NodeEvent)
        if num_values > _MAX_VALUES:
            raise ValueError(f"{name} has more than {_MAX_VALUES} values")
        if isinstance(event, CollectionStartEvent):
            if isinstance(event, NodeEvent) and event.anchor and anchored_at is None:
                anchored_at = depth
            depth += 1
            if depth > _MAX_DEPTH:
                raise ValueError(f"{name} has values nested more than {_MAX_DEPTH} levels deep")


def read_text(file: Path, max_bytes: int) -> str:
    """Read a small text file in UTF-8.

    Args:
        file: the file.
        max_bytes: the largest size that is accepted.

    Raises:
        ValueError: if it is larger, not a regular file or not UTF-8.
        OSError: if it cannot be read.
    """
    found = file.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{file.name} is not a regular file")
    if found.st_size > max_bytes:
        raise ValueError(f"{file.name} has {found.st_size} bytes, more than the limit of {max_bytes}")
    return file.read_text(encoding="utf-8")
