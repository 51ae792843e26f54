"""The result of a check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True)
class DatasetFound:
    """A dataset of a training run."""

    path: str
    images: int
    """Number of images that can be read."""
    unreadable: int
    width: Optional[int]
    height: Optional[int]
    """Of the images that the network sees, in pixels; None if no image can be read."""
    file_bytes: int
    decoded_bytes: int
    counts: dict[str, int]
    """Number of images of each class or label."""
    geometry: str = ""
    """What is done to images of other sizes, and what part of them is cut off; empty if all have the size."""
    without_labels: int = 0
    """Number of images that have none of the labels; 0 if each image has one class."""


@dataclass(frozen=True)
class ModelFound:
    """The network as it would be trained."""

    path: str
    network: str
    weights: int
    new_weights: tuple[str, ...]
    """Names of the weights that are initialized because they depend on the classes."""
    pretrained: Optional[str] = None
    """What the weights of an untrained model are, if they are pretrained: the library's name of them or a file."""


@dataclass(frozen=True)
class Chosen:
    """What training would use."""

    device: str
    precision: str
    image_store: str
    cuda_graph: bool


@dataclass(frozen=True)
class Need:
    """Memory or disk space that something needs, and how much is free."""

    what: str
    place: str
    """"device", "memory" or "disk"."""
    needed_bytes: int
    free_bytes: Optional[int]
    """None if the system does not say."""


@dataclass(frozen=True)
class Estimate:
    """How long all epochs would take with one process."""

    start_seconds: float
    """Time until the first step."""
    epoch_seconds: float
    total_seconds: float


@dataclass(frozen=True)
class Problem:
    """An error that training would end with."""

    id: str
    """The designer's name of the error."""
    code: int
    message: str


@dataclass(frozen=True)
class CheckResult:
    """Everything that a check found; a part that could not be checked is None."""

    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]
    classes: tuple[str, ...]
    model: Optional[ModelFound]
    training: Optional[DatasetFound]
    validation: Optional[DatasetFound]
    chosen: Optional[Chosen]
    memory: tuple[Need, ...]
    estimate: Optional[Estimate]
    start: Optional[str]
    """Whether training would resume from a checkpoint or start from scratch."""
    task: Optional[str] = None
    """"multiclass": an image has one class. "multilabel": it has none, one or several labels. None if the training
    dataset cannot be read."""

    @property
    def can_start(self) -> bool:
        """Whether training can start."""
        return not self.problems
