"""The summary of a conversion: the classes, what was left out and why, and which file gave the labels."""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

from train_pytorch_model.data.model_task import MULTILABEL
from train_pytorch_model.data.unreadable_images import write_unreadable_images
from train_pytorch_model.errors import InvalidDatasetError
from train_pytorch_model.modules.image_sources import DATASET
from train_pytorch_model.text.wording import join_some, name_some

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence
    from pathlib import Path

    from train_pytorch_model.modules.label_task import LabelTask

logger = logging.getLogger(__name__)

SUMMARY_FILE = "conversion.json"
_MAX_LEFT_OUT = 0.1


class LeftOut:
    """The images and the other files that are not converted, by reason."""

    def __init__(self) -> None:
        self.images: dict[str, list[str]] = {}
        """Names of images by reason."""
        self.files: dict[str, list[str]] = {}
        """Names of files that could hold images or labels by reason."""
        self.losses: Counter[str] = Counter()
        """The number of images by reason, without those that nobody expects in the output."""
        self.advice = ""
        """What else to do about them, as a sentence."""

    def add_images(self, reason: str, names: Iterable[str], *, is_loss: bool = True) -> None:
        """Add images that are not converted.

        Args:
            reason: why, as in "12 images without a label".
            names: the names of the images.
            is_loss: whether the images are missing in the output. Images of another split are not.
        """
        group = self.images.setdefault(reason, [])
        before = len(group)
        group.extend(names)
        if is_loss:
            self.losses[reason] += len(group) - before

    def add_files(self, reason: str, names: Iterable[str]) -> None:
        """Add files or folders that are not read, and that could hold images or labels."""
        self.files.setdefault(reason, []).extend(names)

    def check(
        self,
        where: str,
        before: Iterable[str],
        after: Container[object],
        num_kept: int,
        faults: Sequence[str] = (),
    ) -> None:
        """Refuse a conversion that loses more than a tenth of the images, or all images of a class.

        Args:
            where: the dataset, for messages.
            before: the labels before any image was left out.
            after: the labels of the images that are kept.
            num_kept: the number of the images that are kept.
            faults: what is wrong with images that cannot be read.

        Raises:
            InvalidDatasetError: if so; the message says how many, why, and names the first.
        """
        num_left_out = sum(self.losses.values())
        num_images = num_kept + num_left_out
        lost = [name for name in before if name not in after]
        if not lost and num_left_out <= _MAX_LEFT_OUT * num_images:
            return
        reasons = "; ".join(
            f"{count} {reason}: {name_some(self.images[reason])}" for reason, count in self.losses.items() if count
        )
        what = f"all images of {name_some(lost)}" if lost else f"{num_left_out} of {num_images} images"
        raise InvalidDatasetError(
            where,
            f"{what} would be left out ({reasons}){f': {join_some(faults)}' if faults else ''}",
            f"Correct the input, or give --allow-partial to convert the rest. {self.advice}".rstrip(),
        )

    def log(self, where: str) -> None:
        """Log a warning for each reason, with the first names."""
        for kind, groups in (("images", self.images), ("files", self.files)):
            for reason, names in groups.items():
                if names:
                    logger.warning("%s: skipped %d %s %s: %s.", where, len(names), kind, reason, name_some(names))


@dataclass(frozen=True)
class ConversionSummary:
    """What was converted."""

    classes: Optional[Mapping[str, int]]
    """The number of images by class or label, in the order of the ids; None for images without labels."""
    num_images: int
    labels_from: tuple[str, ...]
    """The files that gave the labels; empty if the folders did, or if there are none."""
    split: Optional[str]
    left_out: LeftOut
    task: Optional[LabelTask] = None
    """Whether an image has one label or several, and why; None for images without labels, or if it is evident."""
    num_without_label: int = 0
    """The number of images that have none of several labels."""

    def write(self, outputs_path: Path) -> Path:
        """Write the summary as JSON, with the names of all that was left out.

        Returns:
            The path of the file.

        Raises:
            OSError: if the file cannot be written.
        """
        outputs_path.mkdir(parents=True, exist_ok=True)
        path = outputs_path / SUMMARY_FILE
        document = {
            "num_images": self.num_images,
            "classes": None if self.classes is None else dict(self.classes),
            "labels_from": list(self.labels_from) or ("none" if self.classes is None else "folders"),
            "split": self.split,
            **self._of_several_labels(),
            "left_out_images": _groups(self.left_out.images),
            "left_out_files": _groups(self.left_out.files),
        }
        path.write_text(json.dumps(document, indent=2), encoding="utf-8")
        return path

    def _of_several_labels(self) -> dict[str, object]:
        if self.task is None or self.task.name != MULTILABEL:
            return {}
        return {
            "task": self.task.name,
            "label_separator": self.task.separator,
            "num_images_without_label": self.num_without_label,
        }

    def log(self) -> None:
        """Log the task, the number of images of each class or label, and where the labels are from."""
        if self.classes is None:
            logger.info("%d images without labels.", self.num_images)
            return
        counts = ", ".join(f"{name!r} {count}" for name, count in list(self.classes.items())[:20])
        is_multilabel = self.task is not None and self.task.name == MULTILABEL
        kind = "labels" if is_multilabel else "classes"
        more = f" and {len(self.classes) - 20} more {kind}" if len(self.classes) > 20 else ""
        source = f"from {', '.join(self.labels_from[:5])}" if self.labels_from else "from the names of the folders"
        if self.task is not None:
            logger.info("The task is %s: %s.", self.task.name, self.task.reason)
        if is_multilabel:
            logger.info("%d of %d images have no label.", self.num_without_label, self.num_images)
        logger.info(
            "%d images %s %d %s: %s%s. The labels are %s.",
            self.num_images,
            "with" if is_multilabel else "in",
            len(self.classes),
            kind,
            counts,
            more,
            source,
        )


def report_unreadable(
    outputs_path: Path, where: str, unreadable: Mapping[str, str], num_images: int, *, is_all: bool
) -> None:
    """Write the list of images that cannot be read, and log a warning, if there are any.

    Args:
        outputs_path: the folder of reports.
        where: the dataset, for messages.
        unreadable: the reason for each of them, by name.
        num_images: the number of all images.
        is_all: whether no image is left.

    Raises:
        InvalidDatasetError: if no image is left.
    """
    if not unreadable:
        return
    reasons = join_some([f"{name!r}: {reason}" for name, reason in unreadable.items()])
    if is_all:
        raise InvalidDatasetError(where, f"none of its {len(unreadable)} images can be read: {reasons}")
    path = write_unreadable_images(outputs_path, DATASET, unreadable.items())
    logger.warning(
        "%s: skipped %d of %d images that cannot be read: %s. The full list is in %s.",
        where,
        len(unreadable),
        num_images,
        reasons,
        path,
    )


def _groups(groups: Mapping[str, list[str]]) -> list[dict[str, object]]:
    return [{"reason": reason, "count": len(names), "names": names} for reason, names in groups.items() if names]
