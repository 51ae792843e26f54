"""Properties of the data that make metrics misleading: class imbalance, and images in both datasets."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

import numpy as np

from train_pytorch_model.data.file_hashes import DeadlineError, sha256_of
from train_pytorch_model.data.threads import in_threads, reading
from train_pytorch_model.text.wording import join_some, name_some

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_IMBALANCE = 10


def imbalance(counts: np.ndarray, classes: Sequence[str], *, is_multilabel: bool = False) -> list[str]:
    """Return a warning about classes or labels with too few images.

    Args:
        counts: the number of training images of each class, int of shape (C,).
        classes: the names of the C classes.
        is_multilabel: whether an image may have several labels.

    Returns:
        A sentence about all classes with fewer than a tenth of the images of the largest class; empty if there is none.
    """
    noun, metric = ("label", "micro F1 score") if is_multilabel else ("class", "accuracy")
    nouns = "labels" if is_multilabel else "classes"
    largest = int(np.argmax(counts))
    few = np.flatnonzero(counts * _IMBALANCE < counts[largest]).tolist()
    if not few:
        return []
    named = join_some([f"{classes[number]!r} ({counts[number]})" for number in few])
    return [
        f"{len(few)} of {len(classes)} {nouns} {'has' if len(few) == 1 else 'have'} fewer than a tenth of the training "
        f"images of {classes[largest]!r} ({counts[largest]}): {named}. A model learns such {nouns} badly, and the "
        f"{metric} over all images hides this: see the metrics of each {noun}."
    ]


@dataclass(frozen=True)
class Files:
    """The files of a dataset."""

    path_of: Callable[[int], Path]
    """Returns the file at an index."""
    sizes: np.ndarray
    """Sizes in bytes, int64 of shape (N,)."""


@dataclass(frozen=True)
class Comparison:
    """The result of a search for files that are in both datasets."""

    pairs: list[tuple[int, int]]
    """(index in training, index in validation) for each validation file that is identical to a training file."""
    num_valid: int
    """The number of all validation files."""
    num_candidates: int
    """The number of files that had to be read, because files of their size are in both datasets."""
    num_read: int
    """The number of files that were read before the deadline."""
    num_unreadable: int

    @property
    def unfinished(self) -> str:
        """A sentence about files that were not read before the deadline; empty if there are none."""
        num_done = self.num_read + self.num_unreadable
        if num_done == self.num_candidates:
            return ""
        return (
            f"The search for images in both datasets ran out of time after {num_done} of "
            f"{self.num_candidates} files: there may be more than were found."
        )

    def warnings(self, name_of: Callable[[int], str] | None = None) -> list[str]:
        """Return sentences about what was found and what was not searched.

        Args:
            name_of: returns the name of a validation file. If given, the first identical files are named.
        """
        texts = []
        if self.pairs:
            named = f": {name_some([name_of(valid) for _, valid in self.pairs])}" if name_of else ""
            texts.append(
                f"{len(self.pairs)} of {self.num_valid} validation images are identical to training images, "
                f"byte for byte{named}. The model has seen them: its metrics will be worse on new images."
            )
        if self.unfinished:
            texts.append(self.unfinished)
        if self.num_unreadable:
            texts.append(f"The search for images in both datasets could not read {self.num_unreadable} files.")
        return texts


def compare_images(train_files: Files, valid_files: Files, deadline: float) -> Comparison:
    """Find validation files that are identical to training files, byte for byte.

    Only files whose size is in both datasets are read, and their SHA-256 is compared.

    Args:
        train_files: the files of the training dataset.
        valid_files: the files of the validation dataset.
        deadline: the number of seconds after which the search stops and returns what it has found.
    """
    end = time.monotonic() + deadline
    sets = (train_files, valid_files)
    common = np.intersect1d(train_files.sizes, valid_files.sizes)
    indices = [np.flatnonzero(np.isin(files.sizes, common)) for files in sets]
    is_valid = np.repeat((False, True), [len(part) for part in indices])
    index = np.concatenate(indices)
    sizes = np.concatenate([files.sizes[part] for files, part in zip(sets, indices)])
    # Ordered by size, so that a stopped search has completed some sizes; training files before validation files.
    order = np.lexsort((index, is_valid, sizes))
    is_valid, index = is_valid[order], index[order]

    def hash_file(number: int) -> tuple[bool, Optional[bytes]]:
        return _hash(sets[int(is_valid[number])].path_of(int(index[number])), end)

    first: dict[bytes, int] = {}
    pairs: list[tuple[int, int]] = []
    num_read = num_unreadable = 0
    for number, (is_in_time, digest) in enumerate(in_threads(hash_file, len(index), at_once=16)):
        if not is_in_time:
            break
        if digest is None:
            num_unreadable += 1
            continue
        num_read += 1
        place = int(index[number])
        if not is_valid[number]:
            first.setdefault(digest, place)
        elif digest in first:
            pairs.append((first[digest], place))
    pairs.sort(key=lambda pair: pair[1])
    return Comparison(pairs, len(valid_files.sizes), len(index), num_read, num_unreadable)


def _hash(path: Path, end: float) -> tuple[bool, Optional[bytes]]:
    """Return whether the time sufficed, and the SHA-256 of a file; None if it cannot be read."""
    try:
        with reading(path):
            return True, sha256_of(path, deadline=end)
    except DeadlineError:
        return False, None
    except OSError:
        return True, None
