"""The libraries that networks come from, torchvision and timm: names, descriptions, published weights."""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlparse

import torch
import torchvision

from train_pytorch_model.models.description import NetworkDescription, timm_models, torchvision_builders
from train_pytorch_model.models.weight_records import WeightsRecord, channels_of

# Arguments whose defaults depend on whether a builder loads weights. Pixels in training are already in [-1, 1], for
# which the weights of GoogLeNet and Inception v3 were made, so the networks must not transform them again.
logger = logging.getLogger(__name__)

_WITH_AUXILIARY_HEADS = {"transform_input": False, "aux_logits": True, "init_weights": True}
_FIXED_ARGUMENTS = {"googlenet": _WITH_AUXILIARY_HEADS, "inception_v3": _WITH_AUXILIARY_HEADS}

# The number of hexadecimal digits of a SHA-256 in the names of published files.
_FEWEST_DIGITS = 8


class ModelRow(NamedTuple):
    """A row in the list of networks."""

    name: str
    num_parameters: int | None
    """None if the library does not publish it."""
    image_side: int
    """Height and width, in pixels, of the images that its weights were trained on."""
    accuracy: float | None
    """Top-1 accuracy of its best weights on ImageNet in percent; None if the library does not publish it."""


class ModelLibrary(Protocol):
    """A library of networks and their published weights."""

    def describe(self, name: str, init_params: dict[str, Any]) -> NetworkDescription:
        """Return the description of a network with 1000 outputs."""

    def weight_files(self, name: str) -> list[str]:
        """Return the file names of its published weights, best first."""

    def address(self, name: str) -> str:
        """Return the address of its best weights."""

    def fetch(self, name: str) -> dict[str, torch.Tensor]:
        """Return its best weights, from the library's cache or downloaded."""

    def cached_file(self, name: str) -> Path | None:
        """Return the file of its best weights after `fetch`; None if the library keeps it in a place of its own."""

    def record(self, name: str, sha256: str, file_name: str = "") -> WeightsRecord:
        """Return the record of weights of the network.

        Args:
            name: the network.
            sha256: the digest of the weights.
            file_name: the name of the file that a user gave; "" for the best weights. A published file is known by its
                name or its SHA-256, and any other file counts as the best weights, made further by its owner.
        """

    def rows(self) -> list[ModelRow]:
        """Return a row for each network."""


class Torchvision:
    """The classification builders of torchvision."""

    def describe(self, name: str, init_params: dict[str, Any]) -> NetworkDescription:
        """See `ModelLibrary`."""
        return NetworkDescription("torchvision.models", name, {**_FIXED_ARGUMENTS.get(name, {}), **init_params})

    def weight_files(self, name: str) -> list[str]:
        """See `ModelLibrary`."""
        weights = [_best_weights(name), *torchvision.models.get_model_weights(name)]
        return list(dict.fromkeys(Path(urlparse(entry.url).path).name for entry in weights))

    def address(self, name: str) -> str:
        """See `ModelLibrary`."""
        return str(_best_weights(name).url)

    def fetch(self, name: str) -> dict[str, torch.Tensor]:
        """See `ModelLibrary`."""
        is_terminal = sys.stderr.isatty()
        state: dict[str, torch.Tensor] = _best_weights(name).get_state_dict(progress=is_terminal, check_hash=True)
        return state

    def cached_file(self, name: str) -> Path | None:
        """See `ModelLibrary`."""
        file = Path(torch.hub.get_dir(), "checkpoints", self.weight_files(name)[0])
        return file if file.is_file() else None

    def record(self, name: str, sha256: str, file_name: str = "") -> WeightsRecord:
        """See `ModelLibrary`."""
        entries = [_best_weights(name), *torchvision.models.get_model_weights(name)]
        entry = next((entry for entry in entries if _is_published(entry.url, file_name, sha256)), entries[0])
        pixels = entry.transforms()
        mean, std = channels_of(pixels.mean), channels_of(pixels.std)
        if name in _FIXED_ARGUMENTS:  # built without the layer that turns ImageNet's mean and std into these
            mean = std = (0.5, 0.5, 0.5)
        height, width = pixels.crop_size * 2 if len(pixels.crop_size) == 1 else pixels.crop_size
        fraction = pixels.crop_size[0] / pixels.resize_size[0]
        interpolation = pixels.interpolation.value
        source = file_name or f"torchvision {entry}"
        return WeightsRecord(source, sha256, mean, std, (height, width), fraction, interpolation)

    def rows(self) -> list[ModelRow]:
        """See `ModelLibrary`."""
        rows = []
        for name in torchvision_builders():
            weights = _best_weights(name)
            accuracy = weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]
            rows.append(ModelRow(name, weights.meta["num_params"], weights.transforms().crop_size[0], accuracy))
        return rows


def _best_weights(name: str) -> Any:
    """Return the best weights of a builder; for vision transformers, which have a fixed size, the best for 224x224."""
    weights = torchvision.models.get_model_weights(name)
    if not name.startswith("vit_"):
        return weights.DEFAULT
    return next(entry for entry in [weights.DEFAULT, *weights] if entry.meta["min_size"] == (224, 224))


class Timm:
    """The networks of timm."""

    def describe(self, name: str, init_params: dict[str, Any]) -> NetworkDescription:
        """See `ModelLibrary`."""
        return NetworkDescription("timm", "create_model", {"model_name": name, "num_classes": 1000, **init_params})

    def weight_files(self, name: str) -> list[str]:
        """See `ModelLibrary`."""
        return ["model.safetensors", "pytorch_model.bin"]

    def address(self, name: str) -> str:
        """See `ModelLibrary`."""
        config = _timm().get_pretrained_cfg(name)
        return str(config.hf_hub_id or config.url)

    def fetch(self, name: str) -> dict[str, torch.Tensor]:
        """See `ModelLibrary`."""
        state: dict[str, torch.Tensor] = _timm().create_model(name, pretrained=True, num_classes=1000).state_dict()
        return state

    def cached_file(self, name: str) -> Path | None:
        """See `ModelLibrary`."""
        return None

    def record(self, name: str, sha256: str, file_name: str = "") -> WeightsRecord:
        """See `ModelLibrary`."""
        best = _timm().get_pretrained_cfg(name)
        configs = [best, *map(_timm().get_pretrained_cfg, _timm().list_pretrained(f"{name}.*"))] if file_name else []
        config = next((config for config in configs if _is_published(config.url, file_name, sha256)), best)
        _, height, width = config.input_size
        fraction, mode = config.crop_pct, config.crop_mode
        resize = "stretch" if mode == "squash" and fraction == 1 else "crop"
        if fraction > 1 or (mode != "center" and resize == "crop"):
            logger.warning(
                "timm evaluates %s with crop_mode %r and crop_pct %g, which pads or stretches images in a way that is "
                "not reproduced here: they are cropped. Its accuracy may be a little lower than published.",
                *(name, mode, fraction),
            )
        mean, std = channels_of(config.mean), channels_of(config.std)
        source = file_name or self.address(name)
        how = (min(fraction, 1.0), config.interpolation, resize)
        return WeightsRecord(source, sha256, mean, std, (height, width), *how)

    def rows(self) -> list[ModelRow]:
        """See `ModelLibrary`."""
        sides = {name: _timm().get_pretrained_cfg(name).input_size[-1] for name in timm_models()}
        return [ModelRow(f"timm/{name}", None, side, None) for name, side in sides.items()]


def _is_published(address: object, file_name: str, sha256: str) -> bool:
    """Whether a file is the one at an address, whose name ends in the first digits of its SHA-256."""
    name = Path(urlparse(str(address)).path)
    digits = name.stem.rpartition("-")[2]
    return file_name == name.name or (len(digits) >= _FEWEST_DIGITS and sha256.startswith(digits))


def _timm() -> Any:
    return importlib.import_module("timm.models")


def library_of(name: str) -> tuple[ModelLibrary, str] | None:
    """Return the library of a network and its name there; None if no library has the name.

    `timm/resnet18` belongs to timm. `resnet18`, which both libraries have, belongs to torchvision.
    """
    plain = name[len("timm/") :] if name.startswith("timm/") else name
    if plain == name and name in torchvision_builders():
        return Torchvision(), name
    return (Timm(), plain) if plain in timm_models() else None


def model_libraries() -> list[ModelLibrary]:
    """Return the installed libraries."""
    return [Torchvision(), *([Timm()] if importlib.util.find_spec("timm") else [])]
