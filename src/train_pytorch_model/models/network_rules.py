"""Limits for descriptions of networks from strangers: known libraries, plausible numbers, bounded memory and time."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode

from train_pytorch_model.text.wording import bytes_in_words, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

# The packages of network classes. Other code of these libraries downloads files or calls what its arguments name.
_PACKAGES_OF_NETWORKS = ("torchvision.models", "timm.models")
# Arguments that would download weights, read files or print progress. The weights of the directory are used instead.
WEIGHT_ARGUMENTS = frozenset(
    [
        *("weights", "weights_backbone", "pretrained", "pretrained_backbone", "progress"),
        *("pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"),
    ]
)
# The largest known argument, a number of outputs, is about ten thousand. Such numbers also say how many layers to make.
MAX_NUMBER = 10**6
# The largest networks of torchvision and timm have about a thousand weight tensors. Building a network of this limit
# takes a few seconds; arguments could ask for any number of layers.
_MAX_PARAMETERS = 10_000
_MAX_LAYERS = 20_000
# The limit if the size of the weights is unknown. The largest tensor of any known network is below half a gigabyte.
_MAX_BYTES = 8 * 2**30
# The memory for tensors other than weights that a builder creates, such as masks and position indices.
_FREE_BYTES = 2**28


class NetworkError(Exception):
    """A network cannot be built from a description, or does not fit; the message says why."""


def has_networks(module: str) -> bool:
    """Whether network classes of a module may be called without trust. Decided by the name; nothing is imported."""
    is_name = all(part.isidentifier() and not part.startswith("__") for part in module.split("."))
    return is_name and any(module == known or module.startswith(f"{known}.") for known in _PACKAGES_OF_NETWORKS)


def check_numbers(value: Any, name: str = "") -> None:
    """Check that the numbers among the arguments of a network are finite and not absurdly large.

    Raises:
        NetworkError: if one is not; the message names the argument.
    """
    if isinstance(value, dict):
        for key, item in value.items():
            check_numbers(item, name or str(key))
    elif isinstance(value, (list, tuple)):
        for item in value:
            check_numbers(item, name)
    elif isinstance(value, (int, float)) and (not math.isfinite(value) or abs(value) > MAX_NUMBER):
        raise NetworkError(f"its argument {shown(name)} is {shown(value)}; numbers up to {MAX_NUMBER} are accepted")


def bytes_of(state: dict[str, torch.Tensor]) -> int:
    """Return the size of weights in bytes."""
    return sum(value.numel() * value.element_size() for value in state.values())


@contextmanager
def without_weights(num_weight_bytes: int | None) -> Iterator[None]:
    """Build networks inside the block with parameters on the device "meta", and with limited memory and time.

    Parameters are moved to "meta" when they are registered, before they are initialized. A builder that computes with
    other tensors (RegNet does) still works.

    Args:
        num_weight_bytes: the size of the weights that will be loaded, if known. It bounds every tensor of the network.
    """
    bound = _MAX_BYTES if num_weight_bytes is None else min(_MAX_BYTES, _FREE_BYTES + 2 * num_weight_bytes)
    counts = _Counts()
    # By their documentation, the hooks may return the value to register; the type stubs do not say so.
    hooks = [
        register_module_parameter_registration_hook(counts.of_parameter),  # type: ignore[arg-type]
        register_module_module_registration_hook(counts.of_module),
    ]
    try:
        with _BoundedMemory(bound):
            yield
    finally:
        for hook in hooks:
            hook.remove()


class _Counts:
    def __init__(self) -> None:
        self._parameters_left = _MAX_PARAMETERS
        self._layers_left = _MAX_LAYERS

    def of_parameter(self, module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        self._parameters_left -= 1
        if self._parameters_left < 0:
            raise NetworkError(f"it has more than {_MAX_PARAMETERS} weight tensors")
        return None if parameter is None else nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)

    def of_module(self, module: nn.Module, name: str, submodule: nn.Module | None) -> None:
        self._layers_left -= 1
        if self._layers_left < 0:
            raise NetworkError(f"it has more than {_MAX_LAYERS} layers")


class _BoundedMemory(TorchDispatchMode):
    """Computes the size of each operation's result on the device "meta" before the operation runs."""

    def __init__(self, bound: int) -> None:
        super().__init__()
        self._bound = bound
        self._filled_left = bound

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not (func._schema.is_mutable or func.is_view):
            self._check(func, _shapes_of(func, args, kwargs))
        elif "resize" in func._schema.name and len(args) > 1 and isinstance(args[1], (list, tuple)):
            self._check(func, torch.empty(args[1], dtype=args[0].dtype, device="meta"))
        return func(*args, **kwargs)

    def _check(self, func: Any, results: Any) -> None:
        results = results if isinstance(results, (list, tuple)) else [results]
        num_bytes = sum(item.numel() * item.element_size() for item in results if isinstance(item, torch.Tensor))
        # torch.empty only reserves addresses, and the weights are never filled.
        if not func._schema.name.startswith("aten::empty"):
            self._filled_left -= num_bytes
        if num_bytes > self._bound or self._filled_left < 0:
            raise NetworkError(f"it needs {bytes_in_words(num_bytes)} of memory, more than its weights explain")


def _shapes_of(func: Any, args: Any, kwargs: Any) -> Any:
    """Return the results of an operation on "meta"; None if they depend on values."""
    is_factory = any(argument.name == "device" for argument in func._schema.arguments)
    has_tensors = any(isinstance(item, (torch.Tensor, list, tuple)) for item in args)
    if not (is_factory or has_tensors):
        return None
    try:
        meta_args = [_as_shape(item) for item in args]
        meta_kwargs = {key: _as_shape(item) for key, item in kwargs.items()}
        return func(*meta_args, **({**meta_kwargs, "device": torch.device("meta")} if is_factory else meta_kwargs))
    except (NotImplementedError, RuntimeError, TypeError):
        return None


def _as_shape(item: Any) -> Any:
    if isinstance(item, torch.Tensor):
        return torch.empty_strided(item.shape, item.stride(), dtype=item.dtype, device="meta")
    if isinstance(item, (list, tuple)) and any(isinstance(entry, torch.Tensor) for entry in item):
        return [_as_shape(entry) for entry in item]
    return item
