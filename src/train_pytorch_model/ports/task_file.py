"""The task of a trained model: one class per image, or several labels with a threshold each."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from train_pytorch_model.data.model_task import TASK_FILE, Task
from train_pytorch_model.ports.named_files import find_file
from train_pytorch_model.ports.small_files import read_text
from train_pytorch_model.text.wording import MAX_SHOWN, name_some

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ONE_CLASS = Task()
"""The task of models without `task.json`."""
LABELS_ARE_TEXT = "(labels are text)"
"""The row that a label map may have after those of the outputs, so that pandas reads all labels as text."""
_MAX_BYTES = 2**26


def read_task(folder: Path, labels: Sequence[str]) -> Task:
    """Return the task of a model directory.

    Args:
        folder: the directory.
        labels: the rows of its label map.

    Raises:
        ValueError: if the file is damaged.
        OSError: if it cannot be read.
    """
    if not os.path.lexists(folder / TASK_FILE):
        return ONE_CLASS
    try:
        task = Task.from_dict(json.loads(read_text(find_file(folder, TASK_FILE), _MAX_BYTES)), labels)
        without = tuple(labels[len(task.thresholds) :])
        if without not in ((), (LABELS_ARE_TEXT,)):
            raise ValueError(f"it has no threshold of {name_some(without)}")
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"the file {TASK_FILE}, which has the thresholds of the labels, is damaged: {str(error)[:MAX_SHOWN]}. "
            "Correct it, or copy the directory of the trained model again"
        ) from error
    return task


def write_task(folder: Path, task: Task) -> None:
    """Write the task into a model directory, unless it is one class per image."""
    if task.is_multilabel:
        text = json.dumps(task.to_dict(), indent=2, ensure_ascii=False)
        (folder / TASK_FILE).write_text(text + "\n", encoding="utf-8")
