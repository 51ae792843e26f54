"""Descriptions of networks: which callable builds a network, with which arguments.

A description is the content of `flavor_extras` in `model_spec.yaml`. Score Image Model only calls the callable and
loads a state dict, so it can score every network that is built here.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torchvision
from torch import nn

from train_pytorch_model.models.network_rules import (
    WEIGHT_ARGUMENTS,
    NetworkError,
    check_numbers,
    has_networks,
    without_weights,
)
from train_pytorch_model.text.wording import MAX_SHOWN, shown

_KNOWN_PACKAGES = ("torchvision", "timm")
_BUILDERS_MODULE = "torchvision.models"
_TIMM_BUILDER = ("timm", "create_model")
# The number of arguments that a message shows.
_MAX_SHOWN_ARGUMENTS = 20


@dataclass(frozen=True)
class NetworkDescription:
    """The name of a callable and its arguments: `module.name(**init_params)` returns the network."""

    module: str
    name: str
    init_params: dict[str, Any] = field(default_factory=dict)

    @property
    def is_known(self) -> bool:
        """Whether the callable belongs to a known library and not to a user's own code."""
        return self.module.split(".")[0] in _KNOWN_PACKAGES

    @property
    def network_name(self) -> str:
        """What the network is called: its name in timm, which has one builder for all, or that of the callable."""
        is_timm = (self.module, self.name) == _TIMM_BUILDER
        return str(self.init_params.get("model_name", self.name)) if is_timm else self.name

    def with_num_classes(self, num_classes: int) -> NetworkDescription:
        """Return the description of the same network with `num_classes` outputs."""
        return replace(self, init_params={**self.init_params, "num_classes": num_classes})

    def flavor_extras(self, *, is_cuda: bool) -> dict[str, Any]:
        """Return the description in the form of `model_spec.yaml`."""
        return {
            "module": self.module,
            "class": self.name,
            "is_cuda": is_cuda,
            "init_params": dict(self.init_params),
        }

    def build(self) -> nn.Module:
        """Build the network with new weights on the CPU.

        Raises:
            NetworkError: if the callable does not exist or does not accept the arguments.
        """
        builder = _import_callable(self.module, self.name)
        try:
            with warnings.catch_warnings():
                # Builders warn that defaults may change; the weights are loaded afterwards anyway.
                warnings.simplefilter("ignore")
                network = builder(**self.init_params)
        except Exception as error:
            raise NetworkError(f"{self} cannot be built: {type(error).__name__}: {str(error)[:MAX_SHOWN]}") from error
        if not isinstance(network, nn.Module):
            raise NetworkError(f"{self} returns a {type(network).__name__}, not a torch.nn.Module")
        return network

    def build_without_weights(self, num_weight_bytes: int | None = None) -> nn.Module:
        """Build the network on the device "meta": it has shapes, but needs no memory and no random numbers.

        Args:
            num_weight_bytes: the size of the weights that will be loaded, if known.

        Raises:
            NetworkError: as in `build`, and if the network needs too much memory or has too many layers.
        """
        with without_weights(num_weight_bytes):
            return self.build().to("meta")

    def shapes(self) -> dict[str, torch.Size]:
        """Return the shape of every entry of the network's state dict."""
        return {key: value.shape for key, value in self.build_without_weights().state_dict().items()}

    def __str__(self) -> str:
        """Return the call as text, shortened."""
        first = list(self.init_params.items())[:_MAX_SHOWN_ARGUMENTS]
        arguments = [f"{key[:MAX_SHOWN]}={shown(value)}" for key, value in first]
        more = ["…"] if len(self.init_params) > len(first) else []
        return f"{self.module}.{self.name}({', '.join([*arguments, *more])})"


def torchvision_builders() -> list[str]:
    """Return the names of torchvision's classification builders."""
    return list(torchvision.models.list_models(module=torchvision.models))


def timm_models() -> frozenset[str]:
    """Return the names of timm's networks; an empty set if timm is not installed."""
    if importlib.util.find_spec("timm") is None:
        return frozenset()
    return frozenset(importlib.import_module("timm.models").list_models())


def describe(module: str, name: str, init_params: dict[str, Any], *, trust_code: bool = False) -> NetworkDescription:
    """Check a description that was read from a directory and normalize it.

    Functions of torchvision are always written as `torchvision.models` and their own name.

    Args:
        module: the module of the callable.
        name: the name of the callable.
        init_params: keyword arguments, plain values only.
        trust_code: whether any callable may be imported and called.

    Raises:
        NetworkError: if the callable does not exist, or may not be called without `trust_code`.
    """
    init_params = dict(init_params)
    if (module, name) == (_BUILDERS_MODULE, "get_model"):
        name = str(init_params.pop("name", None))
    plain = {key: value for key, value in init_params.items() if key not in WEIGHT_ARGUMENTS}
    if module.split(".")[0] == "torchvision" and name in torchvision_builders():
        check_numbers(plain)
        return NetworkDescription(_BUILDERS_MODULE, name, plain)
    # create_model also accepts an address or a folder as a name, so the name must be in timm's list.
    if (module, name) == _TIMM_BUILDER and str(plain.get("model_name")) in timm_models():
        check_numbers(plain)
        return NetworkDescription(module, name, plain)
    if trust_code:
        _import_callable(module, name)
        return NetworkDescription(module, name, init_params)
    if not has_networks(module):  # decided by the name, because importing a module runs it
        raise NetworkError(
            f"{module}.{name} is not a network of torchvision or timm; if you trust it, add --trust-model-code"
        )
    found = _import_callable(module, name)
    # A module also exposes the names that it imports.
    is_theirs = has_networks(getattr(found, "__module__", ""))
    if not (inspect.isclass(found) and issubclass(found, nn.Module) and is_theirs):
        raise NetworkError(
            f"{module}.{name} is neither a classification builder of torchvision or timm nor one of their "
            "torch.nn.Module classes; if you trust it, add --trust-model-code"
        )
    check_numbers(plain)
    return NetworkDescription(module, name, plain)


def _import_callable(module: str, name: str) -> Any:
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception as error:  # importing another package can raise anything
        raise NetworkError(f"{module} cannot be imported: {type(error).__name__}: {str(error)[:MAX_SHOWN]}") from error
    if not callable(found):
        raise NetworkError(f"{module} has no callable {name!r}")
    return found
