"""Sets of photos and files of weights in a folder, and the parts of a set that one run trains on."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import timm
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.models import list_models

PARTS = ("train", "valid", "test")
# A fifth of the images of each class is held back.
_HELD_BACK = 0.2
# A set without a folder `test` has the same test images in every run.
_SEED_OF_TEST = 0

Images = dict[str, list[Path]]
"""The images of each class, sorted by name."""


@dataclass(frozen=True)
class PhotoSet:
    """Photos of several classes."""

    name: str
    train: Images
    test: Images

    def write(self, path: Path, seed: int) -> Path:
        """Copy the images to PART/CLASS below a folder, with a fifth of the training images as validation images."""
        train, valid = _split(self.train, seed)
        for part, images in zip(PARTS, (train, valid, self.test)):
            for label, files in images.items():
                folder = path / part / label
                folder.mkdir(parents=True)
                for file in files:
                    shutil.copy2(file, folder)
        return path


def find_sets(path: Path) -> list[PhotoSet]:
    """Return the sets in a folder, or the folder itself if it is a set.

    A set is a folder with `train/CLASS` and `test/CLASS`, or only with class folders.
    """
    own = _read_set(path)
    if own:
        return [own]
    found = (_read_set(folder) for folder in sorted(path.iterdir()) if folder.is_dir())
    return [photos for photos in found if photos]


def find_weights(path: Path) -> dict[str, Path]:
    """Return the files of weights of a folder by the name of their network: `resnet18.pth`, `resnet18.f16.pth`."""
    return {file.stem.removesuffix(".f16"): file for file in sorted(path.glob("*.pth"))}


def model_name(network: str) -> str:
    """Return the name that this package gives to a network, which is torchvision's or else timm's.

    Raises:
        ValueError: if neither library has it.
    """
    if network in list_models():
        return network
    if network in timm.list_models():
        return f"timm/{network}"
    raise ValueError(
        f"Expected the name of a file of weights to be a network of torchvision or timm, but got {network}"
    )


def _read_set(path: Path) -> PhotoSet | None:
    if (path / "train").is_dir():
        train, test = _read_classes(path / "train"), _read_classes(path / "test")
    else:
        train, test = _read_classes(path), {}
    if train and not test:
        train, test = _split(train, _SEED_OF_TEST)
    return PhotoSet(path.resolve().name, train, test) if len(train) > 1 else None


def _read_classes(path: Path) -> Images:
    classes: Images = {}
    for folder in sorted(path.iterdir()) if path.is_dir() else ():
        files = sorted(file for file in folder.glob("*") if file.suffix.lower() in IMG_EXTENSIONS)
        if files:
            classes[folder.name] = files
    return classes


def _split(images: Images, seed: int) -> tuple[Images, Images]:
    """Split the images of each class into four fifths and one fifth; each gets an image if there are two."""
    kept, held_back = {}, {}
    for label, files in images.items():
        drawn = random.Random(f"{seed} {label}").sample(files, len(files))
        count = max(1, round(_HELD_BACK * len(files))) if len(files) > 1 else 0
        held_back[label], kept[label] = sorted(drawn[:count]), sorted(drawn[count:])
    return kept, {label: files for label, files in held_back.items() if files}
