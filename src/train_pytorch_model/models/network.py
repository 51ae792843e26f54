"""From a network's description to a module with the right head.

A description is what `model_spec.yaml` says under `flavor_extras`: a callable by module and name, and its arguments.
Calling it and loading a state dict is all that Score Image Model does, so whatever is built here can be scored.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torchvision
from torch import nn

from train_pytorch_model.models.network_rules import (
    WEIGHT_ARGUMENTS,
    NetworkError,
    bytes_of,
    check_numbers,
    has_networks,
    without_weights,
)
from train_pytorch_model.models.state_dicts import is_finite, with_entries
from train_pytorch_model.text.wording import MAX_SHOWN, shown

logger = logging.getLogger(__name__)

# Batches that a normalisation has seen, which nothing here makes use of.
_COUNTER = "num_batches_tracked"

# Where networks come from that need no trust: nothing but a class of these packages is ever called.
_KNOWN_PACKAGES = ("torchvision", "timm", "train_pytorch_model")
_BUILDERS_MODULE = "torchvision.models"
_TIMM_BUILDER = ("timm", "create_model")
# Arguments that stand in a message.
_MAX_SHOWN_ARGUMENTS = 20


@dataclass(frozen=True)
class NetworkDescription:
    """A callable by name and its arguments: `module.name(**init_params)` gives the network."""

    module: str
    name: str
    init_params: dict[str, Any] = field(default_factory=dict)

    @property
    def is_known(self) -> bool:
        """Whether it is code of a library that is known here, not of a user's own."""
        return self.module.split(".")[0] in _KNOWN_PACKAGES

    def with_num_classes(self, num_classes: int) -> NetworkDescription:
        """The same network for `num_classes` classes."""
        return replace(self, init_params={**self.init_params, "num_classes": num_classes})

    def flavor_extras(self, *, is_cuda: bool) -> dict[str, Any]:
        """The description in the form of `model_spec.yaml`."""
        return {
            "module": self.module,
            "class": self.name,
            "is_cuda": is_cuda,
            "init_params": dict(self.init_params),
        }

    def build(self) -> nn.Module:
        """Build the network with fresh weights on the CPU.

        Raises:
            NetworkError: when the callable is absent or does not take the arguments.
        """
        builder = _import_callable(self.module, self.name)
        try:
            with warnings.catch_warnings():
                # Builders warn of defaults that may change one day; the weights are loaded over them anyway.
                warnings.simplefilter("ignore")
                network = builder(**self.init_params)
        except Exception as error:
            raise NetworkError(f"{self} cannot be built: {type(error).__name__}: {str(error)[:MAX_SHOWN]}") from error
        if not isinstance(network, nn.Module):
            raise NetworkError(f"{self} gives a {type(network).__name__}, not a torch.nn.Module")
        return network

    def build_without_weights(self, num_weight_bytes: int | None = None) -> nn.Module:
        """Build the network with shapes only, on the device "meta": no memory, no drawing of weights.

        Args:
            num_weight_bytes: of the weights that it is to take, where they are known.

        Raises:
            NetworkError: as `build` does.
        """
        with without_weights(num_weight_bytes):
            return self.build().to("meta")

    def shapes(self) -> dict[str, torch.Size]:
        """The shape of every entry of the network's state dict."""
        return {key: value.shape for key, value in self.build_without_weights().state_dict().items()}

    def __str__(self) -> str:
        """The description as one would call it."""
        first = list(self.init_params.items())[:_MAX_SHOWN_ARGUMENTS]
        arguments = [f"{key[:MAX_SHOWN]}={shown(value)}" for key, value in first]
        more = ["…"] if len(self.init_params) > len(first) else []
        return f"{self.module}.{self.name}({', '.join([*arguments, *more])})"


def torchvision_builders() -> list[str]:
    """Names of torchvision's classification builders."""
    return list(torchvision.models.list_models(module=torchvision.models))


def timm_models() -> frozenset[str]:
    """Names of timm's networks; none when timm is not installed."""
    if importlib.util.find_spec("timm") is None:
        return frozenset()
    return frozenset(importlib.import_module("timm.models").list_models())


def describe(module: str, name: str, init_params: dict[str, Any], *, trust_code: bool = False) -> NetworkDescription:
    """Check a description read from a directory and bring it into the form that is written back.

    Functions of torchvision are named by `torchvision.models` and their own name, whatever way they were given.

    Args:
        module: of the callable.
        name: of the callable.
        init_params: plain keyword arguments.
        trust_code: whether any callable may be imported and called.

    Raises:
        NetworkError: when the callable is absent, or is none that may be called without trust.
    """
    init_params = dict(init_params)
    if (module, name) == (_BUILDERS_MODULE, "get_model"):
        name = str(init_params.pop("name", None))
    plain = {key: value for key, value in init_params.items() if key not in WEIGHT_ARGUMENTS}
    if module.split(".")[0] == "torchvision" and name in torchvision_builders():
        check_numbers(plain)
        return NetworkDescription(_BUILDERS_MODULE, name, plain)
    # A name of timm's list, and no address or folder, which it would take for a name too.
    if (module, name) == _TIMM_BUILDER and str(plain.get("model_name")) in timm_models():
        check_numbers(plain)
        return NetworkDescription(module, name, plain)
    if trust_code:
        _import_callable(module, name)
        return NetworkDescription(module, name, init_params)
    if not has_networks(module):  # by its name: to import a module runs it
        raise NetworkError(
            f"{module}.{name} is none of the networks of torchvision, timm and this package; "
            "if you trust it, add --trust-model-code"
        )
    found = _import_callable(module, name)
    # A module shows what it imports, too.
    is_theirs = has_networks(getattr(found, "__module__", ""))
    if not (inspect.isclass(found) and issubclass(found, nn.Module) and is_theirs):
        raise NetworkError(
            f"{module}.{name} is no classification builder of torchvision or timm and no torch.nn.Module class; "
            "if you trust it, add --trust-model-code"
        )
    check_numbers(plain)
    return NetworkDescription(module, name, plain)


def _import_callable(module: str, name: str) -> Any:
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception as error:  # a foreign module may raise anything while it is imported
        raise NetworkError(f"{module} cannot be imported: {type(error).__name__}: {str(error)[:MAX_SHOWN]}") from error
    if not callable(found):
        raise NetworkError(f"{module} has no {name!r} to call")
    return found


def head_keys(description: NetworkDescription, num_classes: int) -> set[str]:
    """Keys of the state dict that depend on the number of classes: the head, auxiliary heads included."""
    one = description.with_num_classes(num_classes).shapes()
    other = description.with_num_classes(num_classes + 1).shapes()
    return {key for key, shape in one.items() if other.get(key) != shape}


def check_state(description: NetworkDescription, state: dict[str, torch.Tensor]) -> None:
    """Hold a state dict against the network that is to take it.

    Raises:
        NetworkError: naming the first keys or shapes that differ.
    """
    network = description.build_without_weights(bytes_of(state))
    expected = {key: value.shape for key, value in network.state_dict().items()}
    # Files from before PyTorch 0.4.1 lack the batch counters, and loading fills them in.
    missing = [key for key in expected if key not in state and not key.endswith(_COUNTER)]
    extra = [key for key in state if key not in expected]
    wrong = [
        f"{key} is {tuple(state[key].shape)}, not {tuple(shape)}"
        for key, shape in expected.items()
        if key in state and state[key].shape != shape
    ]
    if missing or extra or wrong:
        parts = [f"missing {shown(missing[:3])}"] if missing else []
        parts += [f"unexpected {shown(extra[:3])}"] if extra else []
        parts += wrong[:3]
        raise NetworkError(f"its weights do not fit {description}: {'; '.join(parts)}")
    # Buffers may hold it: masks of attention, and ranges that nothing has been seen of yet.
    for key, _ in network.named_parameters():
        if key in state and not is_finite(state[key]):
            raise NetworkError(f"its weights {shown(key)} hold numbers that are not finite (NaN or infinity)")


def with_head(
    description: NetworkDescription, state: dict[str, torch.Tensor], num_classes: int, *, keep_head: bool
) -> tuple[nn.Module, NetworkDescription]:
    """Build the network for `num_classes` classes around the given weights.

    Every weight is kept but those of the head, which are drawn anew (from torch's global generator) unless they fit
    and `keep_head` says so.

    Args:
        description: of the network that `state` belongs to.
        state: all of that network's weights.
        num_classes: outputs wanted.
        keep_head: keep the head where its shapes fit.

    Returns:
        The network on the CPU and the description that builds its like.

    Raises:
        NetworkError: when the weights do not fit the description, or no layer depends on the number of classes.
    """
    check_state(description, state)
    wanted = description.with_num_classes(num_classes)
    head = head_keys(description, num_classes)
    if not head:
        raise NetworkError(f"no layer of {description} depends on num_classes, so its head cannot be fitted")
    network = wanted.build()
    given = {key: value.shape for key, value in state.items()}
    shapes = {key: value.shape for key, value in network.state_dict().items()}
    differing = {key for key in {**given, **shapes} if given.get(key) != shapes.get(key) and not key.endswith(_COUNTER)}
    if not differing <= head:
        raise NetworkError(
            f"more than the head of {description} depends on num_classes: {shown(sorted(differing - head)[:3])}"
        )
    if differing or not keep_head:
        state = with_entries(state, {key: value for key, value in state.items() if key not in head})
    network.load_state_dict(state, strict=False)
    return network, wanted


def logits_of(output: Any) -> torch.Tensor:
    """The logits of a network's output, which may be a tuple that begins with them."""
    logits: torch.Tensor = output if isinstance(output, torch.Tensor) else output[0]
    return logits


def check_image_size(
    description: NetworkDescription, size: tuple[int, int], batch_size: int, num_classes: int | None, *, training: bool
) -> None:
    """Pass a batch of shapes, without any data, through the network.

    Args:
        description: of the network.
        size: (height, width) in pixels.
        batch_size: images in the batch.
        num_classes: outputs expected of each; None for any number.
        training: whether in training mode, where normalisation over the batch needs more than one value.

    Raises:
        NetworkError: with the network's own words when it cannot take such a batch.
    """
    network = description.build_without_weights().train(training)
    try:
        with torch.no_grad():
            output = network(torch.empty(batch_size, 3, *size, device="meta"))
    except NotImplementedError:
        return  # an operator that knows no shapes without data: nothing can be said before training
    except Exception as error:
        raise NetworkError(str(error)) from error
    shape = tuple(logits_of(output).shape)
    if num_classes is not None and shape != (batch_size, num_classes):
        raise NetworkError(f"it gives {shape} where ({batch_size}, {num_classes}) is expected")
