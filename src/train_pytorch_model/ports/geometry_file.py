"""The geometry of a trained model: how images of any size become the pixels that its network sees."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from train_pytorch_model.data.image_geometry import GEOMETRY_FILE, Geometry
from train_pytorch_model.ports.named_files import find_file
from train_pytorch_model.ports.small_files import read_text
from train_pytorch_model.text.wording import MAX_SHOWN

if TYPE_CHECKING:
    from pathlib import Path

_MAX_BYTES = 2**16


def read_geometry(folder: Path) -> Geometry | None:
    """Return the geometry of a model directory; None if its network sees images as they are.

    Raises:
        ValueError: if the file is damaged.
        OSError: if it cannot be read.
    """
    if not os.path.lexists(folder / GEOMETRY_FILE):
        return None
    try:
        return Geometry.from_dict(json.loads(read_text(find_file(folder, GEOMETRY_FILE), _MAX_BYTES)))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"the file {GEOMETRY_FILE}, which says how images are resized, is damaged: {str(error)[:MAX_SHOWN]}. "
            "Copy the directory of the trained model again"
        ) from error


def write_geometry(folder: Path, geometry: Geometry | None) -> None:
    """Write the geometry into a model directory, unless it leaves images as they are."""
    if geometry is not None and not geometry.keeps_images:
        text = json.dumps(geometry.to_dict(), indent=2)
        (folder / GEOMETRY_FILE).write_text(text, encoding="utf-8")
