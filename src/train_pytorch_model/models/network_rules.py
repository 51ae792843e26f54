"""What a description of a network may ask for: classes of known libraries, numbers of sense, and room of sense."""

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

# Where classes of networks stand. Others of these libraries fetch files or call what they are told to.
_PACKAGES_OF_NETWORKS = ("torchvision.models", "timm.models", "train_pytorch_model")
# Arguments that would fetch weights, read files or print progress; the directory's own weights are what counts.
WEIGHT_ARGUMENTS = frozenset(
    [
        *("weights", "weights_backbone", "pretrained", "pretrained_backbone", "progress"),
        *("pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"),
    ]
)
# The largest argument known, a number of outputs, is some ten thousand; layers are counted by such numbers.
MAX_NUMBER = 10**6
# The largest of torchvision and timm have some thousand tensors of weights; arguments may ask for layers without end,
# and so many are made in some seconds.
_MAX_PARAMETERS = 10_000
_MAX_LAYERS = 20_000
# Without weights to hold it against. The largest tensor of any known network has less than half a gigabyte.
_MAX_BYTES = 8 * 2**30
# What a network makes beside its weights while it is built: masks, and indices of positions.
_FREE_BYTES = 2**28


class NetworkError(Exception):
    """A description that no network can be built from; the text says why."""


def has_networks(module: str) -> bool:
    """Whether a module, by its name alone, is one whose classes of networks may be called without trust."""
    is_name = all(part.isidentifier() and not part.startswith("__") for part in module.split("."))
    return is_name and any(module == known or module.startswith(f"{known}.") for known in _PACKAGES_OF_NETWORKS)


def check_numbers(value: Any, name: str = "") -> None:
    """Refuse numbers among the arguments of a network that no network is made with.

    Raises:
        NetworkError: naming the argument.
    """
    if isinstance(value, dict):
        for key, item in value.items():
            check_numbers(item, name or str(key))
    elif isinstance(value, (list, tuple)):
        for item in value:
            check_numbers(item, name)
    elif isinstance(value, (int, float)) and (not math.isfinite(value) or abs(value) > MAX_NUMBER):
        raise NetworkError(f"its argument {shown(name)} holds {shown(value)}, and no network has so many of anything")


def bytes_of(state: dict[str, torch.Tensor]) -> int:
    """What weights take."""
    return sum(value.numel() * value.element_size() for value in state.values())


@contextmanager
def without_weights(num_weight_bytes: int | None) -> Iterator[None]:
    """Let networks be built whose parameters have shapes only, and stop what grows without end before it does.

    Parameters are moved to the device "meta" as they are registered, before they are drawn; a builder that computes
    with tensors of its own (RegNet does) still can.

    Args:
        num_weight_bytes: of the weights that the network is to take, where they are known: no tensor of it is larger.
    """
    bound = _MAX_BYTES if num_weight_bytes is None else min(_MAX_BYTES, _FREE_BYTES + 2 * num_weight_bytes)
    counts = _Counts()
    # Their stubs say that the hooks return nothing; their documentation says that they may return what is registered.
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
            raise NetworkError(f"it has more than {_MAX_PARAMETERS} tensors of weights")
        return None if parameter is None else nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)

    def of_module(self, module: nn.Module, name: str, submodule: nn.Module | None) -> None:
        self._layers_left -= 1
        if self._layers_left < 0:
            raise NetworkError(f"it has more than {_MAX_LAYERS} layers")


class _BoundedMemory(TorchDispatchMode):
    """Learns what each operation would give, without memory, before it is done."""

    def __init__(self, bound: int) -> None:
        super().__init__()
        self._bound = bound
        self._filled_left = bound

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not (func._schema.is_mutable or func.is_view):
            self._take(func, _shapes_of(func, args, kwargs))
        elif "resize" in func._schema.name and len(args) > 1 and isinstance(args[1], (list, tuple)):
            self._take(func, torch.empty(args[1], dtype=args[0].dtype, device="meta"))
        return func(*args, **kwargs)

    def _take(self, func: Any, given: Any) -> None:
        given = given if isinstance(given, (list, tuple)) else [given]
        num_bytes = sum(item.numel() * item.element_size() for item in given if isinstance(item, torch.Tensor))
        # What is only set aside takes no memory until it is filled, and the weights are not.
        if not func._schema.name.startswith("aten::empty"):
            self._filled_left -= num_bytes
        if num_bytes > self._bound or self._filled_left < 0:
            raise NetworkError(f"it asks for {bytes_in_words(num_bytes)} of memory, more than its weights do")


def _shapes_of(func: Any, args: Any, kwargs: Any) -> Any:
    """What an operation gives, as shapes; None where nothing can be said without the numbers."""
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
