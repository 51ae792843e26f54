"""The task of a trained model: one class an image, or several labels.

Scoring and served models share this module. A trained model carries a copy of it, so it needs only the standard
library.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

TASK_FILE = "task.json"
"""The file of a trained model of several labels that contains `Task.to_dict`; other models have none."""
MULTICLASS = "multiclass"
"""The task of a dataset with one class per image, and of a model trained on it."""
MULTILABEL = "multilabel"
"""The task of a dataset with a list of labels per image, and of a model trained on it."""


@dataclass(frozen=True)
class Task:
    """What a trained model says of an image."""

    name: str = MULTICLASS
    """`multiclass`: one class. `multilabel`: none, one or several labels."""
    thresholds: dict[str, float] = field(default_factory=dict)
    """With `multilabel`: for each label, the lowest probability with which an image gets it."""

    @property
    def is_multilabel(self) -> bool:
        """Whether an image may have any number of labels."""
        return self.name == MULTILABEL

    def labels_of(self, probabilities: Sequence[float], labels: Sequence[str]) -> list[str]:
        """Return the labels whose probabilities reach their thresholds.

        Args:
            probabilities: of one image, for each output of the network.
            labels: of the outputs.
        """
        return [label for label, value in zip(labels, probabilities) if value >= self.thresholds[label]]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        return {"task": self.name, "thresholds": self.thresholds}

    @classmethod
    def from_dict(cls, values: Any, labels: Sequence[str]) -> Task:
        """Return the task of `to_dict`.

        Args:
            values: the content of the file.
            labels: of the outputs. More may follow, as a label map may have more rows than there are outputs.

        Raises:
            ValueError: if the values are not those of a task of several labels, or are for other labels.
        """
        thresholds = values.get("thresholds") if isinstance(values, dict) else None
        if not isinstance(thresholds, dict) or values.get("task") != MULTILABEL:
            raise ValueError(f"{str(values)[:200]} is no task of several labels")
        for label, value in thresholds.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise ValueError(f"the threshold of {label!r} should be a number from 0 to 1, but is {value!r}")
        of_model = labels[: len(thresholds)]
        if other := sorted(set(of_model) ^ set(thresholds)):
            raise ValueError(f"the labels of the model and those with a threshold differ in {other[0]!r}")
        return cls(MULTILABEL, {label: float(thresholds[label]) for label in of_model})
