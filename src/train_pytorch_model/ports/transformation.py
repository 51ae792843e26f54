"""A TransformationDirectory of image operations: written by Init Image Transformation, read by Apply."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from torchvision import transforms

from train_pytorch_model.errors import InvalidTransformationDirectoryError
from train_pytorch_model.ports.named_files import find_file
from train_pytorch_model.ports.small_files import META_FILE, read_meta, read_text
from train_pytorch_model.text.wording import MAX_SHOWN, shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Operation = tuple[str, Any]
"""The name of one of torchvision's transforms, and its arguments: a mapping by name, a list, or one number."""

ARGUMENT = "Image transformation"
_OPERATIONS_FILE = "_transforms.json"
# Far more than any list of operations takes.
_MAX_BYTES = 2**20
_META = "type: TransformationDirectory\nextension: {}\ntransform_type: Image\n"
# From an image to an image; what gives tensors or several images cannot be written as a directory of images.
_OPERATIONS = frozenset(
    [
        *("Resize", "CenterCrop", "Pad", "ColorJitter", "Grayscale", "RandomResizedCrop", "RandomCrop"),
        *("RandomHorizontalFlip", "RandomVerticalFlip", "RandomRotation", "RandomAffine", "RandomGrayscale"),
        "RandomPerspective",
    ]
)


def write_transformation(folder: Path, operations: Sequence[Operation]) -> None:
    """Write operations, to be done in their order, as the retired module does."""
    (folder / _OPERATIONS_FILE).write_text(json.dumps([list(entry) for entry in operations]), encoding="utf-8")
    (folder / META_FILE).write_text(_META, encoding="utf-8")


def read_transformation(path: Path) -> list[Operation]:
    """Read the operations of a directory.

    Raises:
        InvalidTransformationDirectoryError: for any fault, with what was found.
    """
    hint = "Give the output of an init-image-transformation step."
    try:
        meta = read_meta(path)
        if meta.get("type") != "TransformationDirectory" or meta.get("transform_type") != "Image":
            found = {key: meta.get(key) for key in ("type", "transform_type")}
            raise ValueError(f"{META_FILE} says {shown(found)}, and no TransformationDirectory of type Image")
        entries = json.loads(read_text(find_file(path, _OPERATIONS_FILE), _MAX_BYTES))
        if not isinstance(entries, list):
            raise ValueError(f"{_OPERATIONS_FILE} holds no list")
        operations = [_operation(entry) for entry in entries]
        make_transforms(operations, for_training=True)
    except (ValueError, OSError, RecursionError) as error:
        raise InvalidTransformationDirectoryError(ARGUMENT, f"in {path}, {error}", hint) from error
    return operations


def _operation(entry: Any) -> Operation:
    if not isinstance(entry, list) or len(entry) not in (1, 2) or not isinstance(entry[0], str):
        raise ValueError(f"{shown(entry)} is no name of an operation with its arguments")
    name, arguments = entry[0], entry[1] if len(entry) == 2 else {}
    if name not in _OPERATIONS:
        names = ", ".join(sorted(_OPERATIONS))
        raise ValueError(f"there is no operation {shown(name)} from image to image; there are {names}")
    if not isinstance(arguments, (dict, list, int, float)):
        raise ValueError(f"the arguments of {name} are {shown(arguments)}, neither a mapping, a list nor a number")
    return name, arguments


def is_random(operation: Operation) -> bool:
    """Whether an operation differs from image to image, and so has no place in inference."""
    return operation[0].startswith("Random") or operation[0] == "ColorJitter"


def make_transforms(operations: Sequence[Operation], *, for_training: bool) -> transforms.Compose:
    """Build torchvision's transforms, without the random ones where it is not for training.

    Raises:
        ValueError: when an operation does not take its arguments.
    """
    built = []
    for name, arguments in (entry for entry in operations if for_training or not is_random(entry)):
        try:
            builder = getattr(transforms, name)
            if isinstance(arguments, dict):
                built.append(builder(**arguments))
            else:
                built.append(builder(*(arguments if isinstance(arguments, list) else [arguments])))
        except (TypeError, ValueError, KeyError) as error:
            raise ValueError(f"{name} does not take {shown(arguments)}: {str(error)[:MAX_SHOWN]}") from error
    return transforms.Compose(built)
