"""Init Image Transformation: choose what is to be done to images."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from train_pytorch_model.errors import GreaterThanOrEqualToError, NotInRangeValueError
from train_pytorch_model.ports.output_directory import TRANSFORMATION, OutputDirectory
from train_pytorch_model.ports.transformation import Operation, write_transformation

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

# What the retired module left at zero, so that nothing ever changed.
_JITTER = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.05}


@dataclass(frozen=True)
class Choices:
    """What to do, by the retired module's names and defaults, in the order in which it is done."""

    resize: bool = False
    size: int = 256
    center_crop: bool = False
    crop_size: int = 224
    pad: bool = False
    padding: int = 0
    color_jitter: bool = False
    grayscale: bool = False
    random_resized_crop: bool = False
    random_resized_crop_size: int = 256
    random_crop: bool = False
    random_crop_size: int = 224
    random_horizontal_flip: bool = False
    random_vertical_flip: bool = False
    random_rotation: bool = False
    random_rotation_degrees: int = 0
    random_affine: bool = False
    random_affine_degrees: int = 0
    random_grayscale: bool = False
    random_perspective: bool = False

    def check(self) -> None:
        """Hold the numbers against their ranges.

        Raises:
            ModuleError: for the first that is out of its own.
        """
        for item in fields(self):
            value = getattr(self, item.name)
            title = item.name.replace("_", " ").capitalize()
            if isinstance(value, bool):
                continue
            if item.name.endswith("size") and value < 1:
                raise GreaterThanOrEqualToError(title, 1, detail=f"It is {value}.")
            if item.name == "padding" and value < 0:
                raise GreaterThanOrEqualToError(title, 0, detail=f"It is {value}.")
            if item.name.endswith("degrees") and not 0 <= value <= 180:
                raise NotInRangeValueError(title, 0, 180)

    def operations(self) -> list[Operation]:
        """The operations chosen."""
        every: list[tuple[bool, Operation]] = [
            (self.resize, ("Resize", self.size)),
            (self.center_crop, ("CenterCrop", self.crop_size)),
            (self.pad, ("Pad", self.padding)),
            (self.color_jitter, ("ColorJitter", _JITTER)),
            (self.grayscale, ("Grayscale", {"num_output_channels": 3})),
            (self.random_resized_crop, ("RandomResizedCrop", self.random_resized_crop_size)),
            (self.random_crop, ("RandomCrop", self.random_crop_size)),
            (self.random_horizontal_flip, ("RandomHorizontalFlip", {})),
            (self.random_vertical_flip, ("RandomVerticalFlip", {})),
            (self.random_rotation, ("RandomRotation", self.random_rotation_degrees)),
            (self.random_affine, ("RandomAffine", self.random_affine_degrees)),
            (self.random_grayscale, ("RandomGrayscale", {})),
            (self.random_perspective, ("RandomPerspective", {})),
        ]
        return [operation for is_chosen, operation in every if is_chosen]


def init_image_transformation(choices: Choices, output_path: Path, outputs_path: Path) -> None:
    """Write the chosen operations as a TransformationDirectory.

    Raises:
        ModuleError: for a number out of its range, or an output that cannot be written.
    """
    choices.check()
    output = OutputDirectory(output_path, "Output image transformation", TRANSFORMATION)
    output.check((), outputs_path)
    operations = choices.operations()
    for name, arguments in operations:
        if name in ("RandomRotation", "RandomAffine", "Pad") and arguments == 0:
            logger.warning("%s by 0 changes nothing.", name)
    with output.writing() as folder:
        write_transformation(folder, operations)
    logger.info("%s lies in %s.", ", ".join(name for name, _ in operations) or "No operation", output_path)
