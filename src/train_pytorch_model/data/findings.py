"""What about the data a person should know before believing the numbers."""

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


def imbalance(counts: np.ndarray, classes: Sequence[str]) -> list[str]:
    """A warning of classes that have too few images.

    Args:
        counts: training images of each class, int of shape (C,).
        classes: names of the C classes.

    Returns:
        A sentence for classes with fewer than a tenth of the images of the largest; none where there is no such class.
    """
    largest = int(np.argmax(counts))
    few = np.flatnonzero(counts * _IMBALANCE < counts[largest]).tolist()
    if not few:
        return []
    named = join_some([f"{classes[number]!r} ({counts[number]})" for number in few])
    return [
        f"{len(few)} of {len(classes)} classes {'has' if len(few) == 1 else 'have'} fewer than a tenth of the training "
        f"images of {classes[largest]!r} ({counts[largest]}): {named}. A model learns such classes badly, and the "
        "accuracy over all images hides it: see the numbers of each class."
    ]


@dataclass(frozen=True)
class Files:
    """The files of a dataset."""

    path_of: Callable[[int], Path]
    """The file at an index."""
    sizes: np.ndarray
    """In bytes, int64 of shape (N,)."""


@dataclass(frozen=True)
class Comparison:
    """What a search for files that lie in both sets came to."""

    pairs: list[tuple[int, int]]
    """(index in training, index in validation), one for each validation file whose bytes a training file has too."""
    num_valid: int
    """Validation files in all."""
    num_candidates: int
    """Files of both sets that had to be read, because their sizes occur in both."""
    num_read: int
    """Those that were read before the deadline."""
    num_unreadable: int

    @property
    def unfinished(self) -> str:
        """What the deadline left out, as a sentence; empty when all files were looked at."""
        looked_at = self.num_read + self.num_unreadable
        if looked_at == self.num_candidates:
            return ""
        return (
            f"The search for images that lie in both sets ran out of time after {looked_at} of "
            f"{self.num_candidates} files: there may be more than were found."
        )

    def warnings(self, name_of: Callable[[int], str] | None = None) -> list[str]:
        """What was found, and what was not looked at, as sentences.

        Args:
            name_of: the name of a validation file; the first identical ones are named where this is given.
        """
        texts = []
        if self.pairs:
            named = f": {name_some([name_of(valid) for _, valid in self.pairs])}" if name_of else ""
            texts.append(
                f"{len(self.pairs)} of {self.num_valid} validation images are, byte for byte, among the training "
                f"images too{named}. The model has seen them: its numbers will be worse on new images."
            )
        if self.unfinished:
            texts.append(self.unfinished)
        if self.num_unreadable:
            texts.append(
                f"{self.num_unreadable} files could not be read when looking for images that lie in both sets."
            )
        return texts


def compare_images(train_files: Files, valid_files: Files, deadline: float) -> Comparison:
    """Find validation files that lie, byte for byte, in the training set too.

    Only files whose size occurs in both sets are read, in a few threads; equal SHA-256 sums count as equal bytes.

    Args:
        train_files: of the training set.
        valid_files: of the validation set.
        deadline: seconds after which the search stops with what it has found so far.
    """
    end = time.monotonic() + deadline
    sets = (train_files, valid_files)
    common = np.intersect1d(train_files.sizes, valid_files.sizes)
    indices = [np.flatnonzero(np.isin(files.sizes, common)) for files in sets]
    is_valid = np.repeat((False, True), [len(part) for part in indices])
    index = np.concatenate(indices)
    sizes = np.concatenate([files.sizes[part] for files, part in zip(sets, indices)])
    # Sizes one after the other, so that a search cut short has finished with some; training before validation.
    order = np.lexsort((index, is_valid, sizes))
    is_valid, index = is_valid[order], index[order]

    def sum_of(number: int) -> tuple[bool, Optional[bytes]]:
        return _sum_of(sets[int(is_valid[number])].path_of(int(index[number])), end)

    first: dict[bytes, int] = {}
    pairs: list[tuple[int, int]] = []
    num_read = num_unreadable = 0
    for number, (is_in_time, digest) in enumerate(in_threads(sum_of, len(index), at_once=16)):
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


def _sum_of(path: Path, end: float) -> tuple[bool, Optional[bytes]]:
    """Whether it was done before `end`, and the SHA-256 of a file; None when it cannot be read."""
    try:
        with reading(path):
            return True, sha256_of(path, deadline=end)
    except DeadlineError:
        return False, None
    except OSError:
        return True, None
