"""What pretrained weights are and which pixels they were made for: the file that Initialize Model writes for Train."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Callable, Union

RECORD_FILE = "pretrained_weights.json"
"""The file of an UntrainedModelDirectory that contains `WeightsRecord.to_dict`; random weights have none."""
_MAX_NUMBER = 2**16
_MAX_CHARACTERS = 1000
# The limits of the geometry that training makes of a record.
_MAX_SIDE = 2**13
_SMALLEST_FRACTION = 0.1
SMALLEST_STD = 1e-6
"""Of pixels in [0, 1], so no real standard deviation is as small."""
_INTERPOLATIONS = ("bilinear", "bicubic")
_RESIZE_MODES = ("crop", "stretch")

Channels = tuple[float, float, float]
"""A number for each of red, green and blue."""
IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class WeightsRecord:
    """What weights are, and the pixels that they were made for."""

    source: str
    """The library's name of the weights, their address, or the name of their file."""
    sha256: str
    """SHA-256 of their file, hexadecimal; of the state dict (`digest_of`) if the library reads the file itself."""
    mean: Channels
    """Mean of each channel, for pixels in [0, 1]."""
    std: Channels
    """Standard deviation of each channel, at least `SMALLEST_STD`."""
    image_size: tuple[int, int]
    """(height, width) in pixels."""
    crop_fraction: float
    """The part of a resized image's sides that the centre crop has in evaluation, in [0.1, 1]: 224 of 256 is 0.875."""
    interpolation: str
    """`bilinear` or `bicubic`."""
    resize: str = "crop"
    """`crop`, or `stretch` if images are resized whatever their aspect ratio."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        lists = {"mean": list(self.mean), "std": list(self.std), "image_size": list(self.image_size)}
        return {**asdict(self), **lists}

    @classmethod
    def from_dict(cls, values: object) -> WeightsRecord:
        """Return the record of `to_dict`. Keys that it does not know are ignored.

        Raises:
            ValueError: if the values are not those of a record; the message names the first key that is wrong.
        """
        if not isinstance(values, dict):
            raise ValueError("it is not a mapping")
        values = {"resize": "crop", **values}
        checks: dict[str, Callable[[Any], bool]] = {
            "source": _is_line,
            "sha256": _is_line,
            "mean": lambda value: _is_numbers(value, 3),
            "std": lambda value: _is_numbers(value, 3) and min(value) >= SMALLEST_STD,
            "image_size": lambda value: _is_numbers(value, 2) and all(map(_is_side, value)),
            "crop_fraction": lambda value: _is_numbers([value], 1) and _SMALLEST_FRACTION <= value <= 1,
            "interpolation": lambda value: value in _INTERPOLATIONS,
            "resize": lambda value: value in _RESIZE_MODES,
        }
        for key, is_valid in checks.items():
            if not is_valid(values.get(key)):
                raise ValueError(f"{key!r} is missing or has a value that is not possible")
        mean, std = (_channels(values[key]) for key in ("mean", "std"))
        height, width = (int(side) for side in values["image_size"])
        fraction = float(values["crop_fraction"])
        how = (fraction, values["interpolation"], values["resize"])
        return cls(values["source"], values["sha256"], mean, std, (height, width), *how)

    def to_json(self) -> str:
        """Return the content of the file."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> WeightsRecord:
        """Return the record of a file's content.

        Raises:
            ValueError: if the text is not JSON or not a record.
        """
        try:
            return cls.from_dict(json.loads(text))
        except RecursionError as error:
            raise ValueError("its lists are nested too deep") from error


def channels_of(given: Union[str, float, Sequence[float]]) -> Channels:
    """Return the three numbers that a person gave: one for all channels, or three, as numbers or as text.

    Raises:
        ValueError: if they are not one or three numbers.
    """
    if isinstance(given, str):
        given = [float(part) for part in given.strip("[]() ").replace(",", " ").split()]
    elif isinstance(given, (int, float)):
        given = [given]
    return _channels(list(given) * (3 if len(given) == 1 else 1))


def _is_line(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and len(value) <= _MAX_CHARACTERS


def _is_numbers(value: object, count: int) -> bool:
    if not isinstance(value, list) or len(value) != count:
        return False
    return all(type(number) in (int, float) and abs(number) <= _MAX_NUMBER for number in value)


def _is_side(value: float) -> bool:
    return 0 < int(value) == value <= _MAX_SIDE


def _channels(values: Sequence[float]) -> Channels:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
