"""The libraries that networks come from, torchvision and timm: names, descriptions, published weights."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlparse

import torch
import torchvision

from train_pytorch_model.models.network import NetworkDescription, timm_models, torchvision_builders

# What a builder would otherwise decide by whether it is given weights. The pixels that training gives are already
# what GoogLeNet's and Inception v3's weights were made for ([-1, 1]), so nothing is to be transformed again.
_WITH_AUXILIARY_HEADS = {"transform_input": False, "aux_logits": True, "init_weights": True}
_FIXED_ARGUMENTS = {"googlenet": _WITH_AUXILIARY_HEADS, "inception_v3": _WITH_AUXILIARY_HEADS}


class ModelRow(NamedTuple):
    """What a list shows of a network."""

    name: str
    num_parameters: int | None
    """None where only building it would tell."""
    image_side: int
    """In pixels, of what its weights were trained on."""
    accuracy: float | None
    """Top-1 of its best weights on ImageNet in percent, where the library tells it."""


class ModelLibrary(Protocol):
    """Where a network comes from."""

    def describe(self, name: str, init_params: dict[str, Any]) -> NetworkDescription:
        """How to build a network of 1000 outputs."""

    def weight_files(self, name: str) -> list[str]:
        """What files of its published weights are called, the best first."""

    def address(self, name: str) -> str:
        """Where its best weights lie."""

    def fetch(self, name: str) -> dict[str, torch.Tensor]:
        """Its best weights, from the library's cache or downloaded."""

    def rows(self) -> list[ModelRow]:
        """All networks."""


class Torchvision:
    """Classification builders of torchvision."""

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
        is_seen = sys.stderr.isatty()
        state: dict[str, torch.Tensor] = _best_weights(name).get_state_dict(progress=is_seen, check_hash=True)
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
    """The best weights of a builder; of a vision transformer, which is built for one size, the best for 224x224."""
    weights = torchvision.models.get_model_weights(name)
    if not name.startswith("vit_"):
        return weights.DEFAULT
    return next(entry for entry in [weights.DEFAULT, *weights] if entry.meta["min_size"] == (224, 224))


class Timm:
    """Networks of timm."""

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
    """The library of a network and its name there; None when there is none of that name.

    `timm/resnet18` is timm's; `resnet18`, which both have, is torchvision's.
    """
    plain = name[len("timm/") :] if name.startswith("timm/") else name
    if plain == name and name in torchvision_builders():
        return Torchvision(), name
    return (Timm(), plain) if plain in timm_models() else None


def model_libraries() -> list[ModelLibrary]:
    """Those that are installed."""
    return [Torchvision(), *([Timm()] if importlib.util.find_spec("timm") else [])]
