"""The sources that each trained model carries, imported as they are there: from one folder, without the package."""

from __future__ import annotations

import sys
from pathlib import Path

import train_pytorch_model

sys.path.extend(str(Path(train_pytorch_model.__file__).parent / name) for name in ("serving", "data"))

import heat_maps
import heat_pictures
import served_batches
import served_explanations
import served_images
import served_json
import served_model
import served_requests

__all__ = [
    "heat_maps",
    "heat_pictures",
    "served_batches",
    "served_explanations",
    "served_images",
    "served_json",
    "served_model",
    "served_requests",
]
