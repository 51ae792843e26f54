"""The folds of a cross-validation on disk: which are finished, and whether they belong to the same cross-validation."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from train_pytorch_model.data.file_hashes import sha256_of
from train_pytorch_model.errors import UserError, as_module_error
from train_pytorch_model.job.datasets import digest_of

if TYPE_CHECKING:
    from pathlib import Path

    from train_pytorch_model.ports.labelled_images import LabelledImages

logger = logging.getLogger(__name__)

_SETTINGS_FILE = "cross_validation_settings.json"
_FOLD_FILE = "fold.json"
# Parameters that do not change the results.
_NO_IDENTITY = (
    *("resume", "checkpoint_minutes", "print_frequency", "report", "image_store", "cuda_graph"),
    "random_seed",
)


@dataclass(frozen=True)
class FoldRuns:
    """The folder with one folder per fold."""

    path: Path
    seed: int
    """The random seed of the cross-validation."""

    def folder(self, fold: int) -> Path:
        """Return the folder of a fold, counted from 0."""
        return self.path / f"fold-{fold + 1}"

    @property
    def features(self) -> Path:
        """The folder of what all folds have in common."""
        return self.path / "features"

    def trained_model(self, fold: int) -> Path:
        """Return the folder of the model of a fold."""
        return self.folder(fold) / "trained_model"

    def scored(self, fold: int) -> Path:
        """Return the folder of the scored images of a fold."""
        return self.folder(fold) / "scored"

    def finished(self, fold: int) -> dict[str, Any] | None:
        """Return what `finish` was given; None for a fold that is not finished."""
        try:
            values: dict[str, Any] = json.loads((self.folder(fold) / _FOLD_FILE).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return values

    def finish(self, fold: int, values: dict[str, Any]) -> None:
        """Mark a fold as finished."""
        _write_json(self.folder(fold) / _FOLD_FILE, values)


def open_fold_runs(path: Path, identity: dict[str, Any], seed: int, resume: str) -> FoldRuns:
    """Open the folder of the folds; those of another cross-validation are removed.

    Args:
        path: the folder, which exists.
        identity: what two cross-validations must have in common for one to go on with the folds of the other, by name.
        seed: the random seed, if none was given and the folder has none.
        resume: "auto", "never" or "require".

    Raises:
        UserError: if the folder contains anything else, or must have folds of this cross-validation and has none.
    """
    earlier = _read_settings(path)
    if earlier is None and any(path.glob("fold-*")):
        raise UserError(f"--folds-path {path} contains folders of folds that are of no cross-validation. Give another.")
    reason = "there are no folds" if earlier is None else _differences(earlier, identity)
    if resume == "require" and reason:
        raise UserError(f"--resume require: the cross-validation cannot go on from {path}: {reason}.")
    if earlier is not None and not reason and resume != "never":
        return FoldRuns(path, int(earlier["seed"]))
    if earlier is not None:
        if reason:
            logger.warning("Starting from scratch: the folds in %s belong to a different run (%s).", path, reason)
        for folder in path.glob("fold-*"):
            shutil.rmtree(folder)
        shutil.rmtree(FoldRuns(path, seed).features, ignore_errors=True)
    _write_json(path / _SETTINGS_FILE, {"identity": identity, "seed": seed})
    return FoldRuns(path, seed)


def _differences(earlier: dict[str, Any], identity: dict[str, Any]) -> str:
    """What an earlier cross-validation does not have in common with this one, for messages."""
    known = earlier.get("identity")
    known = known if isinstance(known, dict) else {}
    names = sorted(name for name in {*known, *identity} if known.get(name) != identity.get(name))
    return f"it differs in: {', '.join(names)}" if names else ""


def identity_of(
    parameters: Any,
    images: LabelledImages,
    groups: np.ndarray | None,
    untrained_model_path: Path,
    **others: object,
) -> dict[str, Any]:
    """Return what two cross-validations must have in common, as values for JSON.

    Args:
        parameters: the training parameters.
        images: the dataset.
        groups: of the images.
        untrained_model_path: the model to train.
        **others: further settings by name.
    """
    chosen = {name: value for name, value in asdict(parameters).items() if name not in _NO_IDENTITY}
    values = {
        **{name.replace("_", " "): value for name, value in {**chosen, **others}.items()},
        "random seed": parameters.random_seed,
        "images": _digest_of_images(images),
        "groups": None if groups is None else hashlib.sha256(groups.tobytes()).hexdigest(),
        "untrained model": _digest_of_folder(untrained_model_path),
    }
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


def _digest_of_images(images: LabelledImages) -> str:
    num_bytes = np.zeros(len(images), dtype=np.int64)
    for index in range(len(images)):
        with suppress(OSError, ValueError):  # training reports it
            num_bytes[index] = images.path_of(index).stat().st_size
    return digest_of(images, num_bytes)


def _digest_of_folder(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        for file in sorted(path.rglob("*")):
            if file.is_file():
                digest.update(file.relative_to(path).as_posix().encode("utf-8", "surrogatepass") + b"\0")
                digest.update(sha256_of(file))
    except OSError as error:
        raise as_module_error(error) from error
    return digest.hexdigest()


def _read_settings(path: Path) -> dict[str, Any] | None:
    try:
        settings = json.loads((path / _SETTINGS_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        settings = None
    return settings if isinstance(settings, dict) else {}


def _write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a file, without a rename, which mounted storage may lack. A part of it is read as if there were none."""
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
