"""The libraries that networks come from, torchvision and timm: names, descriptions, published weights."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlparse

import torch
import torchvision

from train_pytorch_model.models.description import NetworkDescription, timm_models, torchvision_builders

# Arguments whose defaults depend on whether a builder loads weights. Pixels in training are already in [-1, 1], for
# which the weights of GoogLeNet and Inception v3 were made, so the networks must not transform them again.
_WITH_AUXILIARY_HEADS = {"transform_input": False, "aux_logits": True, "init_weights": True}
_FIXED_ARGUMENTS = {"googlenet": _WITH_AUXILIARY_HEADS, "inception_v3": _WITH_AUXILIARY_HEADS}


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

    def rows(self) -> list[ModelRow]:
        """See `ModelLibrary`."""
        sides = {name: _timm().get_pretrained_cfg(name).input_size[-1] for name in timm_models()}
        return [ModelRow(f"timm/{name}", None, side, None) for name, side in sides.items()]


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
