"""Writes the files of a trained model."""

from __future__ import annotations

from pathlib import Path

META = "type: ModelDirectory\n"


def write_model(folder: Path, content: str = "new") -> None:
    (folder / "_meta.yaml").write_text(META)
    (folder / "index_to_label.csv").write_text(",label\n")
    (folder / "model").write_text(content)
