"""Images that are there twice: in identical files, with identical pixels, or nearly so."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from train_pytorch_model.data.file_hashes import DeadlineError, sha256_of
from train_pytorch_model.data.small_versions import (
    COARSE_SIDE,
    COSINE,
    FINE_SIDE,
    NUM_AVERAGED,
    similarities,
    sketches_of,
    small_version,
)
from train_pytorch_model.data.threads import reading

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from train_pytorch_model.data.findings import Files
    from train_pytorch_model.data.image_store import ImageStore

SAME_FILE = "identical files"
SAME_PIXELS = "identical pixels"
NEARLY_SAME = "nearly identical"
MIRRORED = "mirrored"
"""One image is the other one with left and right exchanged, or nearly so."""
_IMAGES_AT_ONCE = 128
# Cosines that are computed at a time: 64 MB.
_COSINES_AT_ONCE = 2**24
# A pair is found if it is this much closer than either image is to the image at this fraction of the ranks of all, or
# if it is as similar as two frames of a film are. Otherwise it is one of many images that are alike, such as digits.
# Of 1,797 digits 4 pairs are found, without this rule 559; of 23 pairs of shots of one scene, 22 are.
_DISTANCE_RATIO = 0.1
_RANK_FRACTION = 0.01
_FIRST_RANK = 6
_NUM_RANKED = 1024
_SIMILARITY_OF_FRAMES = 0.97
# The memory for the small versions of all images.
_MAX_SKETCH_BYTES = 2**29
# Of the time, for reading the images, and for reading and comparing them.
_READING_FRACTION = 0.5
_COMPARING_FRACTION = 0.8


@dataclass(frozen=True)
class Duplicate:
    """Two images that are the same, or nearly so."""

    first: int
    """Counted over all datasets, one after the other."""
    second: int
    """Greater than `first`."""
    similarity: float
    """In [0, 1]: the lower cosine of the small versions and of their details; 1 for identical pixels."""
    kind: str
    """SAME_FILE, SAME_PIXELS, NEARLY_SAME or MIRRORED."""


@dataclass(frozen=True)
class Duplicates:
    """The result of a search for images that are there twice."""

    found: list[Duplicate]
    """Identical files first, mirrored images last, then by similarity. Of many equal images, each is in a pair."""
    num_compared: int
    """Images that were compared with the others before the deadline."""
    num_images: int

    @property
    def unfinished(self) -> str:
        """A sentence about images that were not compared before the deadline; empty if there are none."""
        if self.num_compared == self.num_images:
            return ""
        return (
            f"The search for images that are there twice ran out of time after {self.num_compared:,} of "
            f"{self.num_images:,} images: there may be more than were found."
        )


def find_duplicates(
    datasets: Sequence[tuple[ImageStore, Files]], labels: np.ndarray, device: torch.device, seconds: float
) -> Duplicates:
    """Find images that are there twice, within a dataset or in two.

    Each image is compared with all others, and paired with the most similar one, the most similar one with another
    label, and the most similar one of another dataset.

    Args:
        datasets: the decoded images of each dataset, and their files. The images of the last dataset are read first.
        labels: a number for the label, or the set of labels, of each image of all datasets, int of shape (N,).
        device: the device to compute on.
        seconds: the time after which the search stops and returns what it has found.
    """
    start = time.monotonic()
    counts = [len(store) for store, _ in datasets]
    offsets = np.cumsum([0, *counts])
    seen = _sketches(datasets, offsets, device, start + _READING_FRACTION * seconds)
    index = seen.images
    groups = np.repeat(np.arange(len(datasets)), counts)[index], labels[index]
    equal = _equal(seen.digests, groups)
    similar, are_close, num_compared = _candidates(seen.sketches, groups, start + _COMPARING_FRACTION * seconds)
    pairs = np.sort(index[np.concatenate([equal, similar])], axis=1)
    of_close = np.concatenate([np.ones(len(equal), dtype=bool), are_close])
    close = set(map(tuple, pairs[of_close].tolist()))
    ordered = sorted(set(map(tuple, pairs.tolist())))
    found: list[Duplicate] = []
    unverified: set[int] = set()
    for first in range(0, len(ordered), _IMAGES_AT_ONCE):
        if time.monotonic() >= start + seconds:
            unverified.update(image for pair in ordered[first:] for image in pair)
            break
        block = ordered[first : first + _IMAGES_AT_ONCE]
        found += _verified(block, close, datasets, offsets, device, seen.typical, start + seconds)
    order = (SAME_FILE, SAME_PIXELS, NEARLY_SAME, MIRRORED)
    found.sort(key=lambda pair: (order.index(pair.kind), -pair.similarity))
    return Duplicates(found, max(0, num_compared - len(unverified)), int(offsets[-1]))


@dataclass(frozen=True)
class _Seen:
    """What is kept of the images that were read in time."""

    sketches: torch.Tensor
    """The result of `sketches_of` for small grey versions, float32 of shape (N, values)."""
    digests: list[bytes]
    """A digest of the small version in colour of each image."""
    images: np.ndarray
    """The numbers of these images, counted over all datasets, int64 of shape (N,)."""
    typical: torch.Tensor
    """The mean of finer versions of some images, float32 of shape (1, 3, side, side)."""


def _sketches(
    datasets: Sequence[tuple[ImageStore, Files]], offsets: np.ndarray, device: torch.device, end: float
) -> _Seen:
    """Read images until all are read or the time is over."""
    parts = [torch.empty(0, COARSE_SIDE**2 + 2, device=device)]
    digests: list[bytes] = []
    drawn = [torch.empty(0, 3, FINE_SIDE, FINE_SIDE, device=device)]
    index = [np.empty(0, dtype=np.int64)]
    room = _MAX_SKETCH_BYTES // (4 * (COARSE_SIDE**2 + 2))
    generator = torch.Generator().manual_seed(0)
    for number, (store, _) in reversed(list(enumerate(datasets))):
        order = torch.randperm(len(store), generator=generator)[:room]
        room -= len(order)
        batches = torch.split(order, _IMAGES_AT_ONCE)
        for batch, (pixels, _) in zip(batches, store.batches(batches, device)):
            if time.monotonic() >= end:
                break
            coarse = small_version(pixels, COARSE_SIDE)
            parts.append(sketches_of(coarse.mean(1)))
            digests += [hashlib.sha256(image).digest() for image in coarse.cpu().contiguous().numpy()]
            index.append(batch.numpy() + offsets[number])
            if sum(map(len, drawn)) < NUM_AVERAGED:
                drawn.append(small_version(pixels, FINE_SIDE))
    return _Seen(torch.cat(parts), digests, np.concatenate(index), torch.cat(drawn).mean(0, keepdim=True))


def _candidates(
    sketches: torch.Tensor, groups: tuple[np.ndarray, np.ndarray], end: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return pairs of similar images, int of shape (P, 2), and the number of images that were compared in time.

    The second value is whether the images of a pair are much closer to each other than to most others, bool of shape
    (P,).
    """
    count = len(sketches)
    if not count:
        return np.empty((0, 2), dtype=np.int64), np.empty(0, dtype=bool), 0
    dataset, label = (torch.from_numpy(group).to(sketches.device) for group in groups)
    pairs: list[torch.Tensor] = []
    rows = torch.arange(count, device=sketches.device)
    small, rest = torch.split(sketches, [COARSE_SIDE**2, sketches.shape[1] - COARSE_SIDE**2], 1)
    mirrored = torch.cat([small.view(-1, COARSE_SIDE, COARSE_SIDE).flip(2).flatten(1), rest], 1)
    ranked = rows[:: max(1, count // _NUM_RANKED)]
    rank = min(len(ranked), max(_FIRST_RANK, int(_RANK_FRACTION * len(ranked))))
    are_close: list[torch.Tensor] = []
    num_compared = 0
    for block in torch.split(rows, max(1, _COSINES_AT_ONCE // count)):
        if time.monotonic() >= end:
            break
        excluded = (None, label[block, None] == label, dataset[block, None] == dataset)
        # The image itself is among them.
        usual = (sketches[block] @ sketches[ranked].T).topk(rank).values[:, -1]
        for others in (sketches, mirrored):
            cosines = sketches[block] @ others.T
            cosines[torch.arange(len(block)), block] = -1
            for is_excluded in excluded:
                values, partners = (cosines if is_excluded is None else cosines.masked_fill(is_excluded, -1)).max(1)
                is_similar = values >= COSINE
                pairs.append(torch.stack([block[is_similar], partners[is_similar]], 1))
                are_close.append((1 - values <= _DISTANCE_RATIO * (1 - usual))[is_similar])
        num_compared += len(block)
    if not pairs:
        return np.empty((0, 2), dtype=np.int64), np.empty(0, dtype=bool), 0
    return torch.cat(pairs).cpu().numpy(), torch.cat(are_close).cpu().numpy(), num_compared


def _equal(digests: Sequence[bytes], groups: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return pairs of images whose small versions are equal, int of shape (P, 2), whatever the rounding of cosines.

    Each image is paired with the first one that is equal, and with the first one of another dataset or label.
    """
    earlier: dict[bytes, list[int]] = {}
    pairs: list[tuple[int, int]] = []
    for image, digest in enumerate(digests):
        others = earlier.setdefault(digest, [])
        if others:
            is_same = [group[others] == group[image] for group in groups]
            chosen = {0, *(int(same.argmin()) for same in is_same if not same.all())}
            pairs += [(others[other], image) for other in sorted(chosen)]
        if not others or not (is_same[0] & is_same[1]).any():
            others.append(image)
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _verified(
    pairs: Sequence[tuple[int, int]],
    close: set[tuple[int, int]],
    datasets: Sequence[tuple[ImageStore, Files]],
    offsets: np.ndarray,
    device: torch.device,
    typical: torch.Tensor,
    end: float,
) -> Iterator[Duplicate]:
    """Yield the pairs of images that are the same, or nearly so, on a closer look."""
    first, second = (_pixels([pair[side] for pair in pairs], datasets, offsets, device) for side in (0, 1))
    is_same = (first == second).flatten(1).all(1).tolist()
    has_details = min(first.shape[2:]) >= FINE_SIDE
    small = small_version(first, FINE_SIDE), small_version(second, FINE_SIDE)
    near = similarities(*small, typical).tolist()
    mirrored = similarities(small[0], small[1].flip(3), typical).tolist()
    for pair, has_same_pixels, similarity, if_mirrored in zip(pairs, is_same, near, mirrored):
        is_near = pair in close or max(similarity, if_mirrored) >= _SIMILARITY_OF_FRAMES
        if has_same_pixels:
            is_same_file = _have_same_bytes(pair, datasets, offsets, end)
            yield Duplicate(*pair, 1.0, SAME_FILE if is_same_file else SAME_PIXELS)
        elif has_details and is_near and (similarity or if_mirrored):
            yield Duplicate(*pair, similarity or if_mirrored, NEARLY_SAME if similarity else MIRRORED)


def _place(image: int, offsets: np.ndarray) -> tuple[int, int]:
    """Return the dataset of an image, and its index there."""
    dataset = int(np.searchsorted(offsets, image, side="right")) - 1
    return dataset, image - int(offsets[dataset])


def _pixels(
    images: Sequence[int], datasets: Sequence[tuple[ImageStore, Files]], offsets: np.ndarray, device: torch.device
) -> torch.Tensor:
    """Return the pixels of images, uint8 of shape (B, 3, height, width)."""
    places = [_place(image, offsets) for image in images]
    rows: list[torch.Tensor] = [torch.empty(0)] * len(images)
    for number, (store, _) in enumerate(datasets):
        wanted = [position for position, (dataset, _) in enumerate(places) if dataset == number]
        if wanted:
            indices = torch.tensor([places[position][1] for position in wanted])
            pixels, _ = next(iter(store.batches([indices], device)))
            for position, row in zip(wanted, pixels):
                rows[position] = row
    return torch.stack(rows)


def _have_same_bytes(
    pair: tuple[int, int], datasets: Sequence[tuple[ImageStore, Files]], offsets: np.ndarray, end: float
) -> bool:
    """Return whether two files are identical; False if this cannot be found out."""
    paths, sizes = [], []
    for dataset, index in (_place(image, offsets) for image in pair):
        files = datasets[dataset][1]
        paths.append(files.path_of(index))
        sizes.append(int(files.sizes[index]))
    if sizes[0] != sizes[1]:
        return False
    digests = set()
    for path in paths:
        try:
            with reading(path):
                digests.add(sha256_of(path, deadline=end))
        except (DeadlineError, OSError):
            return False
    return len(digests) == 1
