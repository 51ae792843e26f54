"""Changes the files of an image directory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.making import read_json_lines


def edit_schema(directory: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    path = directory / "_schema.json"
    schema = json.loads(path.read_text())
    change(schema["columnAttributes"])
    path.write_text(json.dumps(schema))


def edit_items(directory: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    items: list[Any] = read_json_lines(directory / "images.lst")
    change(items)
    (directory / "images.lst").write_text("".join(json.dumps(item) + "\n" for item in items))


def set_categories(categories: object) -> Callable[[Path], None]:
    return lambda path: edit_schema(path, lambda columns: columns[2]["properties"].update(categories=categories))


def append_to(name: str, content: bytes) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        (path / name).write_bytes((path / name).read_bytes() + content)

    return change
