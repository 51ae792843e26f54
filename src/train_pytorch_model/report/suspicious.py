"""The images that a report asks a person to look at: wrong labels, duplicates, classes that look like one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional

from train_pytorch_model.text.csv_cells import write_sheet

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SUSPICIOUS_IMAGES = "suspicious_images.csv"
COLUMNS = (
    *("dataset", "path", "given_label", "suggested_label", "score", "kind", "match"),
    *("other_dataset", "other_path", "other_label"),
)
TRAINING, VALIDATION = "training", "validation"
TWO_LABELS = "two labels"
"""The same image is there with another label."""
LABEL = "label"
"""The label looks wrong."""
BOTH_DATASETS = "both datasets"
"""The same image is in the training and the validation dataset."""
REPEATED = "repeated"
"""The same image is there twice in one dataset."""
KINDS = (TWO_LABELS, LABEL, BOTH_DATASETS, REPEATED)
TITLES = (
    (
        TWO_LABELS,
        "The same image with two labels",
        "One of the labels is wrong, unless the image belongs to both or a detail decides.",
    ),
    (LABEL, "Labels that look wrong", "The score is the probability that an image is not of the given class."),
    (BOTH_DATASETS, "Images in both datasets", "The model has seen these validation images, or images like them."),
    (REPEATED, "Images that are there twice", "They count twice in training or in validation."),
)
"""The kinds in this order, the title of each, and a sentence about it."""
MAX_SHOWN = 24
"""Images, or pairs of images, of each kind on the page. The table has all."""


@dataclass(frozen=True)
class ImageName:
    """An image as a person finds it."""

    dataset: str
    """TRAINING or VALIDATION."""
    path: str
    """In the dataset. It is only shown, never opened."""
    label: str
    """Its label in the dataset."""
    jpeg: Optional[bytes] = None
    """A small version; None where none is shown."""


@dataclass(frozen=True)
class Suspect:
    """An image to look at, or a pair of images."""

    kind: str
    """One of KINDS."""
    image: ImageName
    score: float
    """In [0, 1]; more is more suspicious. For a label: the probability that the image is not of the given class. For a
    pair: how similar the images are."""
    suggested: Optional[str] = None
    """The label that looks right; None if nothing is suggested."""
    match: Optional[str] = None
    """How a pair of images is the same; None for a single image."""
    other: Optional[ImageName] = None
    """The other image of a pair."""

    def cells(self) -> tuple[Any, ...]:
        """Return the cells of the row of the table, one for each of COLUMNS."""
        image, other = self.image, self.other
        others = (other.dataset, other.path, other.label) if other else (None,) * 3
        score = round(self.score, 6)
        return (image.dataset, image.path, image.label, self.suggested, score, self.kind, self.match, *others)


@dataclass(frozen=True)
class AlikeClasses:
    """Two classes that should perhaps be one."""

    first: str
    second: str
    first_as_second: float
    """The fraction of the images of the first class that look like the second, in [0, 1], among those that look like
    one of both."""
    second_as_first: float


@dataclass(frozen=True)
class Suspicions:
    """What a person should look at."""

    suspects: Sequence[Suspect] = ()
    """In the order of KINDS, and of each kind the most suspicious first."""
    alike: Sequence[AlikeClasses] = ()
    """The most alike first."""
    notes: Sequence[str] = ()
    """Sentences: how labels were judged, and what was left out."""
    warnings: Sequence[str] = ()
    """Sentences for the log and the list of warnings."""

    def of_kind(self, kind: str) -> list[Suspect]:
        """Return the suspects of a kind."""
        return [suspect for suspect in self.suspects if suspect.kind == kind]


def write_suspicious_images(suspicions: Suspicions, folder: Path) -> None:
    """Write the table of suspicious images; only its header if there are none."""
    write_sheet(folder / SUSPICIOUS_IMAGES, COLUMNS, (suspect.cells() for suspect in suspicions.suspects))
