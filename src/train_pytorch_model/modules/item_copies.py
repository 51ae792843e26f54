"""Copies the items of one ImageDirectory into another, with their files."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from train_pytorch_model.data.decoding import UnreadableImageError, check_regular
from train_pytorch_model.data.decoding_check import DecodingCheck
from train_pytorch_model.data.threads import in_threads, reading
from train_pytorch_model.errors import InvalidDatasetError
from train_pytorch_model.ports.image_directory import ImageDirectoryWriter
from train_pytorch_model.ports.image_list import file_of, info_of_copy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from train_pytorch_model.ports.image_list import Columns

_ITEMS_AT_ONCE = 1024
_PIECE_BYTES = 2**20


def copy_items(
    folder: Path,
    schema: dict[str, Any],
    columns: Columns,
    source: Path,
    items: Iterator[dict[str, Any]],
    advance: Callable[[], None],
    unreadable: list[tuple[dict[str, Any], str]] | None = None,
) -> int:
    """Write items and copies of their files in several threads. Names, ids and order are kept.

    Args:
        folder: an empty folder, where the ImageDirectory is written.
        schema: its schema.
        columns: the columns of the schema.
        source: the directory that the items come from.
        items: read in blocks, so that a list of any length fits in memory.
        advance: called once per item.
        unreadable: receives the items whose images cannot be decoded, with the reason, and they are not written; if it
            is None, images are not decoded.

    Returns:
        The number of items that are written.

    Raises:
        InvalidDatasetError: if a file of the source cannot be read.
    """
    num_items = 0
    check = DecodingCheck()
    with ImageDirectoryWriter(folder, schema) as writer:
        while block := list(islice(items, _ITEMS_AT_ONCE)):

            def copy(number: int, block: list[dict[str, Any]] = block) -> tuple[dict[str, Any], str]:
                item = _copy(block[number], columns, source, folder)
                return item, "" if unreadable is None else check.fault_of(folder / item[columns.image_ref]["file_name"])

            for item, fault in in_threads(copy, len(block)):
                if fault and unreadable is not None:
                    (folder / item[columns.image_ref]["file_name"]).unlink(missing_ok=True)
                    unreadable.append((item, fault))
                else:
                    writer.add(item)
                    num_items += 1
                advance()
    return num_items


def _copy(item: dict[str, Any], columns: Columns, source: Path, folder: Path) -> dict[str, Any]:
    info = info_of_copy(item, columns)
    name = file_of(item, columns) or ""
    target = folder / info["file_name"]
    target.parent.mkdir(parents=True, exist_ok=True)
    with reading(source / name), target.open("wb") as copy:
        for piece in _pieces(source, name):
            copy.write(piece)
    return {**item, columns.image_ref: info}


def _pieces(source: Path, name: str) -> Iterator[bytes]:
    """The content of a file of unknown size, piece by piece."""
    file = source / name
    try:
        check_regular(file)
        with file.open("rb") as opened:
            while piece := opened.read(_PIECE_BYTES):
                yield piece
    except (OSError, UnreadableImageError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidDatasetError(f"Image directory {source}", f"{name!r} cannot be read: {reason}") from error
