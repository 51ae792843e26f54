"""Loads and runs the model in the same folder, a ModelDirectory, without the package that wrote it.

It only needs torch, Pillow, PyYAML and the library of the network. Columns and probabilities are those of Score Image
Model.
"""

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
import importlib
import io
import logging
import os
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from PIL import Image
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = logging.getLogger(__name__)

# Classes and builders of these packages are safe to call. Other functions of the same libraries may download files or
# call arbitrary code.
_PACKAGES_OF_NETWORKS = ("torchvision.models", "timm.models")
# Arguments that would download weights or read files. The weights of the model replace them anyway.
_WEIGHT_ARGUMENTS = frozenset(
    [
        *("weights", "weights_backbone", "pretrained", "pretrained_backbone", "progress"),
        *("pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"),
    ]
)
# The environment variable that allows networks of other packages, as --trust-model-code does in training.
_TRUST = "TRUST_MODEL_CODE"
_MAX_CODE_BYTES = 256 * 2**20
_MAX_PIXELS = 16_000_000
# The formats of Score Image Model, without those that Pillow decodes with external programs.
_FORMATS = ("PNG", "JPEG", "BMP", "PPM", "TIFF", "WEBP", "GIF", "MPO")


class BadImageError(Exception):
    """An invalid image; the message says why."""


class ServedModel:
    """A network with its labels and its normalisation."""

    def __init__(self, folder: Path) -> None:
        """Load a ModelDirectory.

        Raises:
            ValueError: if the network is neither of a known library nor trusted.
        """
        spec = yaml.safe_load((folder / "model_spec.yaml").read_text(encoding="utf-8"))
        extras = spec["flavor_extras"]
        has_code = bool(spec.get("local_dependencies"))
        if has_code:
            _import_local_code(folder / "local_dependencies.zip")
        weights = folder / spec["model_file"]
        logger.info("Weights of %s: SHA-256 %s.", weights, hashlib.sha256(weights.read_bytes()).hexdigest())
        trusted = has_code or os.environ.get(_TRUST, "").lower() in ("1", "true")
        network = build_network(extras["module"], extras["class"], extras.get("init_params") or {}, trusted=trusted)
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._network = network.eval().to(self._device)
        normalisation = spec["inputs"][0]["pre_processor"]["init_params"]
        self._mean, self._std = (
            torch.tensor(normalisation[key], device=self._device).view(3, 1, 1) for key in ("mean", "std")
        )
        with (folder / spec["label_map_file"]).open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        column = rows[0].index("label")
        self._labels = {int(row[0]): row[column] for row in rows[1:] if row}

    def answer(self, images: Iterable[Image.Image]) -> dict[str, Any]:
        """Compute the columns and rows of Score Image Model's table for images, one image at a time.

        Raises:
            BadImageError: if the network does not support the size of an image.
        """
        probabilities = [self._probabilities(image) for image in images]
        labels = [self._labels.get(index, str(index)) for index in range(len(probabilities[0]))]
        rows = [[*row, labels[max(range(len(row)), key=row.__getitem__)]] for row in probabilities]
        return {"columns": [*(f"Scored Probabilities_{label}" for label in labels), "Scored Labels"], "result": rows}

    @torch.inference_mode()
    def _probabilities(self, image: Image.Image) -> list[float]:
        rgb = image.convert("RGB")
        data = torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8).view(rgb.height, rgb.width, 3)
        pixels = data.permute(2, 0, 1).to(self._device).float().div(255).sub(self._mean).div(self._std)
        try:
            logits = self._network(pixels[None].contiguous())
        except (RuntimeError, AssertionError) as error:
            raise BadImageError(f"the network does not support images of {rgb.width}x{rgb.height}: {error}") from error
        row: list[float] = logits.float().softmax(1)[0].double().tolist()
        return row


def build_network(module: str, name: str, arguments: dict[str, Any], *, trusted: bool) -> nn.Module:
    """Build a network with a class or a builder of a known library; if trusted, with any callable."""
    if not trusted:
        arguments = {key: value for key, value in arguments.items() if key not in _WEIGHT_ARGUMENTS}
        if not _is_known(module, name, arguments):
            raise ValueError(
                f"{module}.{name} is neither a class of networks nor a builder of torchvision or timm; "
                f"if you trust it, set {_TRUST}=1"
            )
    network = getattr(importlib.import_module(module), name)(**arguments)
    if not isinstance(network, nn.Module):
        raise ValueError(f"{module}.{name} returns a {type(network).__name__}, not a network")
    return network


def _is_known(module: str, name: str, arguments: dict[str, Any]) -> bool:
    """Whether the names refer to a network of a known library. No other module is imported to decide it."""
    if module == "timm":
        # Only names of the list: create_model would also accept the URL or the folder of a model.
        networks = importlib.import_module("timm").list_models()
        return name == "create_model" and str(arguments.get("model_name")) in networks
    if not _is_of_networks(module):
        return False
    if module.partition(".")[0] == "torchvision":
        models = importlib.import_module("torchvision.models")
        if name in models.list_models(module=models):
            return True
    found = getattr(importlib.import_module(module), name, None)
    return isinstance(found, type) and issubclass(found, nn.Module) and _is_of_networks(found.__module__)


def _is_of_networks(module: str) -> bool:
    return any(module == known or module.startswith(f"{known}.") for known in _PACKAGES_OF_NETWORKS)


def _import_local_code(archive: Path) -> None:
    """Unpack and import the code of a model that was trusted in training. zipfile keeps all files within the folder."""
    target = Path(tempfile.mkdtemp(prefix="model-code-"))  # accessible to this user only
    with zipfile.ZipFile(archive) as packed:
        if sum(entry.file_size for entry in packed.infolist()) > _MAX_CODE_BYTES:
            raise ValueError(f"{archive.name} is too large for code")
        packed.extractall(target)
    sys.path[:0] = [str(target), *(str(entry) for entry in target.iterdir() if entry.is_dir())]


def decode_base64(text: object) -> Image.Image:
    """Decode an image from the base64 of its file, with or without a prefix such as `data:image/png;base64,`.

    Raises:
        BadImageError: if it is not a string, not base64, or not an image.
    """
    if not isinstance(text, str):
        raise BadImageError(f"expected the base64 of an image file, but got a {type(text).__name__}")
    try:
        return decode(base64.b64decode("".join(text.rpartition(",")[2].split()), validate=True))
    except (binascii.Error, ValueError) as error:
        raise BadImageError(f"it is not base64: {error}") from error


def decode(data: bytes) -> Image.Image:
    """Decode an image from the content of its file.

    Raises:
        BadImageError: if it is not an image, or too large.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        size = image.width * image.height
        if size <= _MAX_PIXELS:
            image.load()
    except Exception as error:  # the exceptions of Pillow's decoders are not documented
        raise BadImageError(f"it is not a readable image: {error}") from error
    if size > _MAX_PIXELS:
        raise BadImageError(f"it has {image.width}x{image.height} pixels, which is too large")
    return image
