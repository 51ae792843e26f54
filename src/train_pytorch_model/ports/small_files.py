"""Small files of a directory, YAML above all, read without taking more than they have."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, NodeEvent, ScalarEvent

from train_pytorch_model.ports.named_files import find_file

if TYPE_CHECKING:
    from pathlib import Path

META_FILE = "_meta.yaml"
# Far more than any that was made to be read, and no more than what is read in some seconds.
MAX_YAML_BYTES = 2**18
_MAX_VALUES = 10_000
_MAX_DEPTH = 100
# Writers of YAML name a list that stands several times, such as a mean that is the std too, once.
_MAX_ALIASES = 1000
_MERGE_KEY = "<<"
_MERGE_TAG = "tag:yaml.org,2002:merge"


def read_meta(path: Path) -> dict[str, Any]:
    """Read `_meta.yaml` of a directory as a plain mapping.

    Raises:
        ValueError: when it is absent, no YAML, or no mapping.
    """
    try:
        text = read_text(find_file(path, META_FILE), MAX_YAML_BYTES)
        check_yaml(META_FILE, text)
        meta = YAML(typ="safe", pure=True).load(text)
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise ValueError(f"{META_FILE} cannot be read: {error}") from error
    if not isinstance(meta, dict):
        raise ValueError(f"{META_FILE} holds no mapping of keys to values")
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
    """Refuse what makes a few kilobytes of YAML take time or room without end, before it is loaded.

    Aliases alone cost nothing, but merge keys copy what they name, and named parts within named parts unfold to a
    number that grows manifold with each. The time of a list within lists grows with the square of their number. Nobody
    who writes such files needs any of it.

    Args:
        name: of the file, for messages.
        text: of it.

    Raises:
        ValueError: for merge keys, aliases within what is itself named, and too many aliases, values or levels.
        YAMLError: when it is no YAML.
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
                raise ValueError(f"{name} holds aliases within aliases, or too many of them")
        elif isinstance(event, ScalarEvent) and (event.value == _MERGE_KEY or event.tag == _MERGE_TAG):
            raise ValueError(f"{name} holds a merge key (<<), which no writer of such files uses")
        num_values += isinstance(event, NodeEvent)
        if num_values > _MAX_VALUES:
            raise ValueError(f"{name} holds more than {_MAX_VALUES} values")
        if isinstance(event, CollectionStartEvent):
            if isinstance(event, NodeEvent) and event.anchor and anchored_at is None:
                anchored_at = depth
            depth += 1
            if depth > _MAX_DEPTH:
                raise ValueError(f"{name} holds values within values of more than {_MAX_DEPTH} levels")


def read_text(file: Path, max_bytes: int) -> str:
    """The text of a small file of UTF-8.

    Args:
        file: to read.
        max_bytes: that it may have.

    Raises:
        ValueError: when it is larger, no regular file or no UTF-8.
        OSError: when it cannot be read.
    """
    found = file.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{file.name} is not a regular file")
    if found.st_size > max_bytes:
        raise ValueError(f"{file.name} has {found.st_size} bytes, and may have {max_bytes}")
    return file.read_text(encoding="utf-8")
