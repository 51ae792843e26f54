"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True)
class DatasetFound:
    """A dataset."""

    path: str
    images: int
    """That can be read and have the size of most."""
    unreadable: int
    width: Optional[int]
    height: Optional[int]
    """In pixels; None when no image can be read."""
    file_bytes: int
    decoded_bytes: int
    counts: dict[str, int]
    """Images of each class."""


@dataclass(frozen=True)
class ModelFound:
    """A network, as it would be trained."""

    path: str
    network: str
    weights: int
    new_weights: tuple[str, ...]
    """Names of those that are drawn anew, because they depend on the classes."""


@dataclass(frozen=True)
class Chosen:
    """What a training would use."""

    device: str
    precision: str
    image_store: str
    cuda_graph: bool


@dataclass(frozen=True)
class Need:
    """Room that something takes, and that there is before it does."""

    what: str
    place: str
    """"device", "memory" or "disk"."""
    needed_bytes: int
    free_bytes: Optional[int]
    """None where the system does not tell."""


@dataclass(frozen=True)
class Estimate:
    """How long a training would take with one process, should all epochs be done."""

    start_seconds: float
    """Until the first step."""
    epoch_seconds: float
    total_seconds: float


@dataclass(frozen=True)
class Problem:
    """A fault, as training would end with it."""

    id: str
    code: int
    message: str


@dataclass(frozen=True)
class Result:
    """All that was found; a part is None where it could not be looked at."""

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
    """Where it would begin: the checkpoint that it would go on from, or anew."""
