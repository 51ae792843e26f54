"""Tells by a name whether a folder is a split of a dataset (train, valid, test)."""

from __future__ import annotations

import re

_SPLITS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("valid", "val", "validation", "validate", "dev", "eval", "evaluation"), "valid"),
    **dict.fromkeys(("test", "testing", "tst", "holdout"), "test"),
}
# Words beside the name of a split that say nothing: train_images, test_set, train2017.
_FILLERS = frozenset(
    ("images", "image", "imgs", "img", "pictures", "photos", "data", "dataset", "set", "folder", "jpg", "jpeg", "png")
)
_UNLABELLED = frozenset(("test", "testing", "tst", "unlabeled", "unlabelled", "predict", "prediction", "pred"))
_WORD = re.compile(r"[^\W\d_]+")


def split_of(name: str) -> str | None:
    """Return "train", "valid" or "test" for a name such as "Training_set" or "val2017"; None for other names."""
    words = _words(name)
    splits = {_SPLITS[word] for word in words if word in _SPLITS}
    is_split = len(splits) == 1 and all(word in _SPLITS or word in _FILLERS for word in words)
    return splits.pop() if is_split else None


def splits_in(path: str) -> set[str]:
    """Return the splits that a path speaks of, such as {"train"} for "annotations/instances_train2017.json"."""
    return {_SPLITS[word] for word in _words(path) if word in _SPLITS}


def is_unlabelled_part(path: str) -> bool:
    """Whether a path speaks of images that usually have no labels, such as "test_images"."""
    return not _UNLABELLED.isdisjoint(_words(path))


def _words(path: str) -> list[str]:
    return _WORD.findall(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", path).lower())
