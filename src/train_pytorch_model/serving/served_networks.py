"""Builds the network of a model, from the libraries that are safe to call and, if it is trusted, from other code.

It needs only torch and the library of the network, and is copied into each trained model.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from torch import nn

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
TRUST = "TRUST_MODEL_CODE"
_MAX_CODE_BYTES = 256 * 2**20


def build_network(module: str, name: str, arguments: dict[str, Any], *, trusted: bool) -> nn.Module:
    """Build a network with a class or a builder of a known library; if trusted, with any callable."""
    if not trusted:
        arguments = {key: value for key, value in arguments.items() if key not in _WEIGHT_ARGUMENTS}
        if not _is_known(module, name, arguments):
            raise ValueError(
                f"{module}.{name} is neither a class of networks nor a builder of torchvision or timm; "
                f"if you trust it, set {TRUST}=1"
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


def import_local_code(archive: Path) -> None:
    """Unpack and import the code of a model that was trusted in training. zipfile keeps all files within the folder."""
    target = Path(tempfile.mkdtemp(prefix="model-code-"))  # accessible to this user only
    with zipfile.ZipFile(archive) as packed:
        if sum(entry.file_size for entry in packed.infolist()) > _MAX_CODE_BYTES:
            raise ValueError(f"{archive.name} is too large for code")
        packed.extractall(target)
    sys.path[:0] = [str(target), *(str(entry) for entry in target.iterdir() if entry.is_dir())]
