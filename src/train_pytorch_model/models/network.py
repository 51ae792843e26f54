"""Builds a network for the wanted number of classes around given weights, and checks what it accepts."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Callable

import torch
from torch import nn
from torch.nn import functional

from train_pytorch_model.models.network_rules import NetworkError, bytes_of
from train_pytorch_model.models.state_dicts import is_finite, with_entries
from train_pytorch_model.text.wording import shown

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from train_pytorch_model.models.description import NetworkDescription

# The number of batches that a batch normalization has seen, which is not used here.
COUNTER = "num_batches_tracked"


def head_keys(description: NetworkDescription, num_classes: int) -> set[str]:
    """Return the keys of the state dict whose shapes depend on the number of classes, auxiliary heads included."""
    one = description.with_num_classes(num_classes).shapes()
    other = description.with_num_classes(num_classes + 1).shapes()
    return {key for key, shape in one.items() if other.get(key) != shape}


def differences(expected: Mapping[str, torch.Tensor], state: Mapping[str, Any], optional: Collection[str] = ()) -> str:
    """Return how a state dict differs from that of a network, such as "missing ['fc.bias']"; "" if it fits.

    Args:
        expected: the network's state dict, whose data is not read.
        state: the given one, whose data is not read.
        optional: entries that may be missing.
    """
    # Files from before PyTorch 0.4.1 have no batch counters; loading adds them.
    missing = [key for key in expected if key not in state and key not in optional and not key.endswith(COUNTER)]
    extra = [key for key in state if key not in expected]
    parts = [f"missing {shown(missing[:3])}"] if missing else []
    parts += [f"unexpected {shown(extra[:3])}"] if extra else []
    wrong = (_difference(key, value, state[key]) for key, value in expected.items() if key in state)
    return "; ".join([*parts, *list(filter(None, wrong))[:3]])


def _difference(key: str, expected: torch.Tensor, value: Any) -> str:
    if not isinstance(value, torch.Tensor) or value.is_nested:
        return f"{key} is not a dense tensor"
    if value.shape != expected.shape:
        return f"{key} is {tuple(value.shape)}, not {tuple(expected.shape)}"
    if expected.is_floating_point() and not value.is_floating_point():
        return f"{key} has numbers of type {str(value.dtype)[6:]}"
    return ""


def check_state(
    description: NetworkDescription, state: dict[str, torch.Tensor], optional: Collection[str] = ()
) -> None:
    """Check that a state dict fits the network and that all parameters are finite.

    Args:
        description: the network.
        state: all its weights.
        optional: entries that may be missing.

    Raises:
        NetworkError: naming the first keys or shapes that differ.
    """
    network = description.build_without_weights(bytes_of(state))
    if differs := differences(network.state_dict(), state, optional):
        raise NetworkError(f"its weights do not fit {description}: {differs}")
    # Buffers may contain infinity: attention masks, and ranges that no value has been recorded for.
    for key, _ in network.named_parameters():
        if key in state and not is_finite(state[key]):
            raise NetworkError(f"its weights {shown(key)} contain numbers that are not finite (NaN or infinity)")


def with_head(
    description: NetworkDescription,
    state: dict[str, torch.Tensor],
    num_classes: int,
    *,
    keep_head: bool,
    missing: frozenset[str] = frozenset(),
) -> tuple[nn.Module, NetworkDescription]:
    """Build the network for `num_classes` classes around the given weights.

    All weights are kept except those of the head, which are initialized randomly (with torch's global generator)
    unless they fit and `keep_head` is true.

    Args:
        description: the network that `state` belongs to.
        state: all weights of that network.
        num_classes: the wanted number of outputs.
        keep_head: whether to keep the head if its shapes fit.
        missing: entries of the head that `state` does not have.

    Returns:
        The network on the CPU, and the description that builds the same network.

    Raises:
        NetworkError: if the weights do not fit the description, or no layer depends on the number of classes.
    """
    check_state(description, state, missing)
    wanted = description.with_num_classes(num_classes)
    head = head_keys(description, num_classes)
    if not head:
        raise NetworkError(f"no layer of {description} depends on num_classes, so its head cannot be adapted")
    network = wanted.build()
    given = {key: value.shape for key, value in state.items()}
    shapes = {key: value.shape for key, value in network.state_dict().items()}
    differing = {key for key in {**given, **shapes} if given.get(key) != shapes.get(key) and not key.endswith(COUNTER)}
    if body := sorted(differing - head - missing):
        raise NetworkError(f"more than the head of {description} depends on num_classes: {shown(body[:3])}")
    if differing or not keep_head:
        state = with_entries(state, {key: value for key, value in state.items() if key not in head})
    network.load_state_dict(state, strict=False)
    return network, wanted


def with_outputs_in_order(
    description: NetworkDescription, state: dict[str, torch.Tensor], order: Sequence[int]
) -> dict[str, torch.Tensor] | None:
    """Return the weights of a network whose output i is output `order[i]` of a network, auxiliary heads included.

    Args:
        description: of the network, with any number of outputs.
        state: all its weights. Entries of the head may be missing.
        order: a permutation of the outputs.

    Returns:
        The weights; None if the head has another number of outputs, or is not made of one part for each of them.
    """
    count = len(order)
    one, other = (description.with_num_classes(number).shapes() for number in (count, count + 1))
    index = torch.tensor(order)
    ordered = {}
    for key in head_keys(description, count) & state.keys():
        shape, larger = one[key], other.get(key, ())
        sides = [side for side, sizes in enumerate(zip(shape, larger)) if sizes == (count, count + 1)]
        if state[key].shape != shape or [*larger] != [size + (side in sides) for side, size in enumerate(shape)]:
            return None
        ordered[key] = state[key]
        for side in sides:
            ordered[key] = ordered[key].index_select(side, index)
    return with_entries(state, {**state, **ordered})


def logits_of(output: Any) -> torch.Tensor:
    """Return the logits of a network's output, which may be a tuple that begins with them."""
    logits: torch.Tensor = output if isinstance(output, torch.Tensor) else output[0]
    return logits


def output_for(network: nn.Module, images: torch.Tensor, *, averages_mirrored: bool, is_multilabel: bool) -> Any:
    """Return the output of a network, or the logits of its mean probabilities for images and their mirror images.

    Args:
        network: in evaluation mode.
        images: normalized, of shape (B, 3, height, width).
        averages_mirrored: whether to average the probabilities of each image and its mirror image.
        is_multilabel: whether probabilities are those of several labels (sigmoid) or of one class (softmax).
    """
    if not averages_mirrored:
        return network(images)
    # The mirror images one after the other, so that a batch needs no more memory.
    given, mirrored = (logits_of(network(views)).float() for views in (images, images.flip(3)))
    if is_multilabel:
        positive = torch.logaddexp(functional.logsigmoid(given), functional.logsigmoid(mirrored))
        return positive - torch.logaddexp(functional.logsigmoid(-given), functional.logsigmoid(-mirrored))
    return torch.logaddexp(given.log_softmax(1), mirrored.log_softmax(1)) - math.log(2)


def check_image_size(
    description: NetworkDescription,
    size: tuple[int, int],
    batch_size: int,
    num_classes: int | None,
    set_mode: Callable[[nn.Module], object],
) -> None:
    """Check that the network accepts a batch of images of a size. Only shapes are computed.

    Args:
        description: the network.
        size: (height, width) in pixels.
        batch_size: the number of images in the batch.
        num_classes: the expected number of outputs per image; None for any number.
        set_mode: puts the network into evaluation mode, or into training mode, in which batch normalization needs more
            than one value.

    Raises:
        NetworkError: with the network's own message if it does not accept the batch.
    """
    network = description.build_without_weights()
    set_mode(network)
    try:
        with torch.no_grad():
            output = network(torch.empty(batch_size, 3, *size, device="meta"))
    except NotImplementedError:
        return  # an operator without an implementation for "meta"; only training itself can tell
    except Exception as error:
        raise NetworkError(str(error)) from error
    shape = tuple(logits_of(output).shape)
    if num_classes is not None and shape != (batch_size, num_classes):
        raise NetworkError(f"its output has shape {shape}, expected ({batch_size}, {num_classes})")


def has_narrow_convolution(description: NetworkDescription, size: tuple[int, int]) -> bool:
    """Return whether images of a size are narrower than the stride of a padded convolution when they reach it.

    In bfloat16 or float16 on a CPU, the gradient of such a convolution has arbitrary values, and often NaN, for the
    weights that see only padding: oneDNN, as of PyTorch 2.10, does not write them. Depthwise convolutions are right.

    Args:
        description: the network.
        size: (height, width) in pixels.
    """
    network = description.build_without_weights().eval()
    found: list[bool] = []

    def look(module: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(module, nn.Conv2d)
        found.append(given[0].shape[3] < module.stride[1] and module.padding != (0, 0))

    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups < module.in_channels:
            module.register_forward_pre_hook(look)
    with torch.no_grad(), suppress(Exception):  # check_image_size has reported what the network does not accept
        network(torch.empty(1, 3, *size, device="meta"))
    return any(found)
