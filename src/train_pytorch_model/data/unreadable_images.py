"""`unreadable_images.json`: the images that a command skipped because it could not read them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_FILE = "unreadable_images.json"


def write_unreadable_images(
    outputs_path: Path, dataset: str, unreadable: Iterable[tuple[str, str]], *, keep_others: bool = False
) -> Path:
    """Write the list of unreadable images of one dataset.

    The file is a JSON object: the name of each dataset, and a list of objects with `file_name` and `reason`.

    Args:
        outputs_path: the folder of reports.
        dataset: the name of the dataset, such as "Training dataset".
        unreadable: the name of each file and the reason why it cannot be read.
        keep_others: whether to keep the lists of other datasets that the file already contains.

    Returns:
        The path of the file.

    Raises:
        OSError: if the file cannot be written.
    """
    outputs_path.mkdir(parents=True, exist_ok=True)
    path = outputs_path / _FILE
    lists = _read(path) if keep_others else {}
    lists[dataset] = [{"file_name": name, "reason": reason} for name, reason in unreadable]
    path.write_text(json.dumps(lists, indent=2), encoding="utf-8")
    return path


def _read(path: Path) -> dict[str, object]:
    try:
        lists = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return lists if isinstance(lists, dict) else {}
