"""Init Image Transformation: write the chosen operations on images as a TransformationDirectory."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from train_pytorch_model.ports.directory_kinds import TRANSFORMATION
from train_pytorch_model.ports.output_directory import OutputDirectory
from train_pytorch_model.ports.transformation import Operation, write_transformation

if TYPE_CHECKING:
    from pathlib import Path

    from train_pytorch_model.modules.transform_options import TransformOptions

logger = logging.getLogger(__name__)

# The retired module left all of these at zero, so that its colour jitter changed nothing.
_JITTER = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.05}


def init_image_transformation(options: TransformOptions, output_path: Path, *, outputs_path: Path) -> list[Operation]:
    """Write the chosen operations as a TransformationDirectory.

    Args:
        options: which operations to apply.
        output_path: the folder to write.
        outputs_path: the folder of reports, which must not overlap with the output.

    Returns:
        The operations, in the order in which they are applied.

    Raises:
        ModuleError: if a number is out of its range, or the output cannot be written.
    """
    options.check()
    output = OutputDirectory(output_path, "Output image transformation", TRANSFORMATION)
    output.check((), outputs_path)
    operations = _operations(options)
    for name, arguments in operations:
        if name in ("RandomRotation", "RandomAffine", "Pad") and arguments == 0:
            logger.warning("%s by 0 changes nothing.", name)
    with output.writing() as folder:
        write_transformation(folder, operations)
    names = ", ".join(name for name, _ in operations) or "no operation"
    logger.info("Saved the image transformation (%s) to %s.", names, output_path)
    return operations


def _operations(options: TransformOptions) -> list[Operation]:
    every: list[tuple[bool, Operation]] = [
        (options.resize, ("Resize", options.size)),
        (options.center_crop, ("CenterCrop", options.crop_size)),
        (options.pad, ("Pad", options.padding)),
        (options.color_jitter, ("ColorJitter", _JITTER)),
        (options.grayscale, ("Grayscale", {"num_output_channels": 3})),
        (options.random_resized_crop, ("RandomResizedCrop", options.random_resized_crop_size)),
        (options.random_crop, ("RandomCrop", options.random_crop_size)),
        (options.random_horizontal_flip, ("RandomHorizontalFlip", {})),
        (options.random_vertical_flip, ("RandomVerticalFlip", {})),
        (options.random_rotation, ("RandomRotation", options.random_rotation_degrees)),
        (options.random_affine, ("RandomAffine", options.random_affine_degrees)),
        (options.random_grayscale, ("RandomGrayscale", {})),
        (options.random_perspective, ("RandomPerspective", {})),
    ]
    return [operation for is_chosen, operation in every if is_chosen]
