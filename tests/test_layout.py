"""The package is built in floors: a room (a folder or a file of the package) imports only rooms below it."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "src" / "train_pytorch_model"
NAME = PACKAGE.name
MAX_ROOMS = 24  # besides benchmarks/ and samples/
MAX_FLOORS = 9


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(file: Path) -> set[str]:
    """Full names of what a file imports, also in functions and under TYPE_CHECKING."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def imports_of_rooms() -> dict[str, set[str]]:
    rooms = {room_of(file) for file in PACKAGE.rglob("*.py")} - {"__init__"}
    imports: dict[str, set[str]] = {room: set() for room in rooms}
    for file in PACKAGE.rglob("*.py"):
        room = room_of(file)
        parts = [name.split(".") for name in imported_modules(file)]
        used = {part[1] for part in parts if part[0] == NAME and len(part) > 1}
        if room != "__init__":  # it gives the names of api.py, which are imported on first use
            imports[room] |= (used & rooms) - {room}
    return imports


def test_rooms_import_only_rooms_below_them() -> None:
    imports = imports_of_rooms()
    floors: dict[str, int] = {}
    for room in TopologicalSorter(imports).static_order():  # raises CycleError for a circle
        floors[room] = 1 + max((floors[used] for used in imports[room]), default=0)
    assert floors["errors"] == floors["text"] == 1
    assert max(floors.values()) <= MAX_FLOORS, floors
    assert len(imports) <= MAX_ROOMS, sorted(imports)
