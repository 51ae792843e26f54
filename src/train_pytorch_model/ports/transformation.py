"""TransformationDirectories: image operations, written by Init and read by Apply Image Transformation."""

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
"""The name of a transform of torchvision, and its arguments: a mapping, a list, or one number."""

ARGUMENT = "Image transformation"
_OPERATIONS_FILE = "_transforms.json"
# Much larger than any real list of operations.
_MAX_BYTES = 2**20
_META = "type: TransformationDirectory\nextension: {}\ntransform_type: Image\n"
# Transforms of one image to one image. Tensors or several images cannot be written as a directory of images.
_OPERATIONS = frozenset(
    [
        *("Resize", "CenterCrop", "Pad", "ColorJitter", "Grayscale", "RandomResizedCrop", "RandomCrop"),
        *("RandomHorizontalFlip", "RandomVerticalFlip", "RandomRotation", "RandomAffine", "RandomGrayscale"),
        "RandomPerspective",
    ]
)


def write_transformation(folder: Path, operations: Sequence[Operation]) -> None:
    """Write operations, in the order in which they are applied, as the retired module did."""
    (folder / _OPERATIONS_FILE).write_text(json.dumps([list(entry) for entry in operations]), encoding="utf-8")
    (folder / META_FILE).write_text(_META, encoding="utf-8")


def read_transformation(path: Path) -> list[Operation]:
    """Read the operations of a directory.

    Raises:
        InvalidTransformationDirectoryError: if the directory cannot be used; the message says why.
    """
    hint = "Give the output of an init-image-transformation step."
    try:
        meta = read_meta(path)
        if meta.get("type") != "TransformationDirectory" or meta.get("transform_type") != "Image":
            found = {key: meta.get(key) for key in ("type", "transform_type")}
            raise ValueError(f"{META_FILE} has {shown(found)}, expected a TransformationDirectory of type Image")
        entries = json.loads(read_text(find_file(path, _OPERATIONS_FILE), _MAX_BYTES))
        if not isinstance(entries, list):
            raise ValueError(f"{_OPERATIONS_FILE} is not a list")
        operations = [_operation(entry) for entry in entries]
        make_transforms(operations, for_training=True)
    except (ValueError, OSError, RecursionError) as error:
        raise InvalidTransformationDirectoryError(ARGUMENT, f"in {path}, {error}", hint) from error
    return operations


def _operation(entry: Any) -> Operation:
    if not isinstance(entry, list) or len(entry) not in (1, 2) or not isinstance(entry[0], str):
        raise ValueError(f"{shown(entry)} is not the name of an operation with its arguments")
    name, arguments = entry[0], entry[1] if len(entry) == 2 else {}
    if name not in _OPERATIONS:
        names = ", ".join(sorted(_OPERATIONS))
        raise ValueError(f"the operation {shown(name)} is not supported; supported are {names}")
    if not isinstance(arguments, (dict, list, int, float)):
        raise ValueError(f"the arguments of {name} are {shown(arguments)}, expected a mapping, a list or a number")
    return name, arguments


def is_random(operation: Operation) -> bool:
    """Whether an operation has random parameters, so that it is not applied in inference."""
    return operation[0].startswith("Random") or operation[0] == "ColorJitter"


def make_transforms(operations: Sequence[Operation], *, for_training: bool) -> transforms.Compose:
    """Build torchvision's transforms; without the random ones unless `for_training` is true.

    Raises:
        ValueError: if an operation does not accept its arguments.
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
            raise ValueError(f"{name} does not accept {shown(arguments)}: {str(error)[:MAX_SHOWN]}") from error
    return transforms.Compose(built)
