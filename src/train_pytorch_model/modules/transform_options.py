"""The options of Init Image Transformation: names, defaults, ranges and descriptions.

The command line builds its flags from them, so nothing heavy is imported here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Optional

from train_pytorch_model.errors import GreaterThanOrEqualToError, NotInRangeValueError


def _switch(description: str) -> Any:
    return field(default=False, metadata={"description": description})


def _number(default: int, description: str, minimum: int, maximum: Optional[int] = None) -> Any:
    return field(default=default, metadata={"description": description, "minimum": minimum, "maximum": maximum})


@dataclass(frozen=True)
class TransformOptions:
    """Which operations to apply, with their arguments, in the order in which they are applied.

    Names and defaults are those of the retired module.
    """

    resize: bool = _switch("Resize the shorter side.")
    size: int = _number(256, "Length of the shorter side after resizing, in pixels.", 1)
    center_crop: bool = _switch("Crop the centre.")
    crop_size: int = _number(224, "Side of the centre crop, in pixels.", 1)
    pad: bool = _switch("Pad with a black border.")
    padding: int = _number(0, "Width of the border, in pixels.", 0)
    color_jitter: bool = _switch("Randomly change brightness, contrast, saturation and hue a little.")
    grayscale: bool = _switch("Convert to grayscale.")
    random_resized_crop: bool = _switch("Crop a region of random size and aspect ratio and resize it.")
    random_resized_crop_size: int = _number(256, "Side of the resized crop, in pixels.", 1)
    random_crop: bool = _switch("Crop at a random position.")
    random_crop_size: int = _number(224, "Side of the random crop, in pixels.", 1)
    random_horizontal_flip: bool = _switch("Flip horizontally with probability 0.5.")
    random_vertical_flip: bool = _switch("Flip vertically with probability 0.5.")
    random_rotation: bool = _switch("Rotate by a random angle.")
    random_rotation_degrees: int = _number(0, "Largest rotation in either direction, in degrees.", 0, 180)
    random_affine: bool = _switch("Apply a random affine transformation: a rotation about the centre.")
    random_affine_degrees: int = _number(
        0, "Largest rotation of the affine transformation in either direction, in degrees.", 0, 180
    )
    random_grayscale: bool = _switch("Convert to grayscale with probability 0.1.")
    random_perspective: bool = _switch("Apply a random perspective transformation with probability 0.5.")

    def check(self) -> None:
        """Check the numbers against their ranges.

        Raises:
            ModuleError: for the first number that is out of its range.
        """
        for item in fields(self):
            if "minimum" not in item.metadata:
                continue
            value, minimum, maximum = getattr(self, item.name), item.metadata["minimum"], item.metadata["maximum"]
            title = item.name.replace("_", " ").capitalize()
            if maximum is not None and not minimum <= value <= maximum:
                raise NotInRangeValueError(title, minimum, maximum)
            if value < minimum:
                raise GreaterThanOrEqualToError(title, minimum, detail=f"It is {value}.")
