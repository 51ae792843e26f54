"""Computes heat maps: how much each place of an image speaks for a class, in the eyes of a network.

Heat maps of the report, of Score Image Model and of served models are computed here. A trained model carries a copy of
this file, so it needs only PyTorch and, for a heat map itself, captum.
"""

from __future__ import annotations

import importlib
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable

import torch
from torch import nn
from torch.nn import functional
from torch.utils.weak import WeakTensorKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping

# A layer with fewer rows or columns would only tell one half of an image from the other.
_FEWEST_POSITIONS = 4
# Integrated gradients: steps of the integral, which is averaged over copies of the image with noise. The standard
# deviation of the noise is a fraction of the range of the pixels. Without it, transformers of few images light up at
# places that do not matter.
_NUM_STEPS = 4
NUM_COPIES = 8
_NOISE = 0.08
# Where the image itself must serve as the grid: rows and columns of its heat.
_IMAGE_GRID = 14
_OLDEST_PYTHON = (3, 10)
_Layout = tuple[int, int, bool]  # rows and columns of a grid, and whether its channels are last


class HeatMapError(Exception):
    """Heat maps cannot be computed; the message says why."""


@dataclass(frozen=True)
class Grid:
    """The layer whose output shows where in the image something is."""

    layer: str
    """The name of the module; "" for the image itself."""
    is_channels_last: bool = False
    """Whether the output is of shape (B, rows, columns, channels) instead of (B, channels, rows, columns)."""
    is_mixed_later: bool = False
    """Whether later layers mix all positions, as attention does, so that the gradient at one point says little."""


def check_captum() -> None:
    """Raise a HeatMapError if captum is not installed, before any work."""
    try:
        importlib.import_module("captum.attr")
    except ImportError as error:
        if sys.version_info < _OLDEST_PYTHON:
            found = ".".join(map(str, sys.version_info[:2]))
            raise HeatMapError(f"heat maps need captum and Python 3.10 or later, and this is Python {found}") from error
        raise HeatMapError(
            "heat maps need the package captum, which is not installed; the extra train-pytorch-model[explain] has it"
        ) from error


class HeatMaps:
    """Computes heat maps of one network.

    Where a network ends with a grid of features, as convolutional networks do, the heat is the gradient of the logit of
    the class times these features, summed over the channels. For a network that averages them over all positions, this
    is Grad-CAM (https://arxiv.org/abs/1610.02391); in general, it is HiResCAM (https://arxiv.org/abs/2011.08891), which
    shows no place that does not raise the logit.

    For transformers of tokens, it is the integrated gradients of the patches (https://arxiv.org/abs/1703.01365), from
    an image of the mean colour to the image, averaged over copies of both with noise (https://arxiv.org/abs/1706.03825).
    The noise is the same in every call.
    """

    def __init__(self, network: nn.Module, *, averages_mirrored: bool = False) -> None:
        """Keep the network.

        Args:
            network: in any mode. Each call leaves it as it was.
            averages_mirrored: whether the probabilities of an image are the mean of its own and those of its mirror
                image, and so the heat.
        """
        self._network = network
        self._averages_mirrored = averages_mirrored
        self._grids: dict[tuple[int, ...], Grid] = {}

    def heat(self, images: torch.Tensor, label: int, num_copies: int = NUM_COPIES) -> torch.Tensor:
        """Compute the heat of one image for one class.

        Args:
            images: normalized, float32 of shape (1, 3, height, width), on the device of the network.
            label: the index of the class.
            num_copies: with noise, for integrated gradients.

        Returns:
            Heat of each pixel, float32 of shape (height, width), on the CPU: 0 where nothing speaks for the class.

        Raises:
            HeatMapError: if captum is not installed.
            Exception: what the network raises if it cannot be differentiated.
        """
        check_captum()
        with _fixed(self._network), torch.inference_mode(mode=False), torch.enable_grad():
            images = images.detach().clone()  # no tensor of inference mode
            heat = self._heat(images, label, num_copies)
            if self._averages_mirrored:
                heat = (heat + self._heat(images.flip(3), label, num_copies).flip(1)) / 2
        return heat

    def num_passes(self, images: torch.Tensor, num_copies: int = NUM_COPIES) -> int:
        """Return the number of passes through the network, forward and backward, for the heat of one image."""
        with _fixed(self._network), torch.inference_mode(mode=False), torch.enable_grad():
            grid = self._grid(images.detach().clone())
        one = _NUM_STEPS * num_copies if grid.is_mixed_later else 1
        return 2 * one if self._averages_mirrored else one

    def _grid(self, images: torch.Tensor) -> Grid:
        size = tuple(images.shape[2:])
        if size not in self._grids:
            self._grids[size] = find_grid(self._network, images)
        return self._grids[size]

    def _heat(self, images: torch.Tensor, label: int, num_copies: int) -> torch.Tensor:
        size, given = images.shape[2:], images.detach().requires_grad_()
        values = _attributions(self._network, self._grid(images), given, label, num_copies)
        # Interpolated before negative values are cut off, a place between heat and its opposite would look cold.
        heat = functional.interpolate(values.relu()[None, None], size, mode="bilinear", align_corners=False)
        return heat[0, 0].cpu()


def find_grid(network: nn.Module, images: torch.Tensor) -> Grid:
    """Find the last layer whose output is a grid of positions and the only way from the image to the logits.

    Args:
        network: in evaluation mode, without parameters that require gradients.
        images: of shape (1, 3, height, width).
    """
    outputs, layouts, num_logits = _outputs(network, images)
    names = list(outputs)
    heads = [name for name in names if _num_outputs(network.get_submodule(name)) == num_logits]
    # A head that is a convolution, as in SqueezeNet, adds its bias to each position, which says nothing of the image.
    features = names[: names.index(heads[-1])] if heads else names
    grids = [name for name in reversed(features) if name in layouts]
    # Without a layer of enough positions, the one with the most: a stable sort keeps the last one first.
    for name in sorted(grids, key=lambda name: -min(*layouts[name][:2], _FEWEST_POSITIONS)):
        if _is_bottleneck(network, name, images):
            later = names[names.index(name) + 1 :]
            has_tokens = any(len(outputs[other]) == 3 and outputs[other][1] > 1 for other in later)
            return Grid(name, layouts[name][2], has_tokens)
    return Grid("", is_mixed_later=True)


def _outputs(network: nn.Module, images: torch.Tensor) -> tuple[dict[str, torch.Size], dict[str, _Layout], int]:
    """Return the shapes of the outputs of the modules that are called once, in the order in which they end.

    The second value has the layouts of grids, the third is the number of logits. A grid has no more positions than the
    input of its layer: for small images, the adaptive pooling of AlexNet and VGG repeats those that it gets.
    """
    shapes: dict[str, torch.Size] = {}
    grids: dict[str, _Layout] = {}
    repeated: set[str] = set()
    layouts: MutableMapping[torch.Tensor, _Layout | None] = WeakTensorKeyDictionary()

    def look(name: str, given: tuple[Any, ...], output: Any) -> None:
        if name in shapes:
            repeated.add(name)
        if not isinstance(output, torch.Tensor) or not output.is_floating_point():
            return
        shapes[name] = output.shape
        layout = layouts.get(output)  # which may be that of a part of this module
        if layout is None and (layout := _layout(output.shape, images.shape)) is not None:
            inputs = [layouts.get(one) or _layout(one.shape, images.shape) for one in given if torch.is_tensor(one)]
            if inputs and None not in inputs:
                rows, columns = (min(layout[axis], max(one[axis] for one in inputs if one)) for axis in (0, 1))
                layout = rows, columns, layout[2]
        layouts[output] = layout
        if layout is not None and max(layout[:2]) > 1 and output.shape != images.shape:
            grids[name] = layout

    handles = [
        module.register_forward_hook(lambda _, given, output, name=name: look(name, given, output))
        for name, module in network.named_modules()
        if name
    ]
    try:
        with torch.no_grad():
            num_logits = _logits(network, images).shape[-1]
    finally:
        for handle in handles:
            handle.remove()
    return {name: shape for name, shape in shapes.items() if name not in repeated}, grids, num_logits


def _num_outputs(module: nn.Module) -> int:
    """Return the number of outputs of a layer that could be a head; 0 for others."""
    if isinstance(module, nn.Linear):
        return module.out_features
    return module.out_channels if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) else 0


def _layout(shape: torch.Size, of_images: torch.Size) -> _Layout | None:
    """Return the layout of a grid, which has the proportions of the image, but for rounding; None for other shapes."""
    if len(shape) != 4 or shape[0] != of_images[0]:
        return None
    for sides, is_channels_last in ((shape[2:], False), (shape[1:3], True)):
        strides = [(side / (count + 1), side / max(count - 1, 0.5)) for side, count in zip(of_images[2:], sides)]
        if max(low for low, _ in strides) <= min(high for _, high in strides):
            return sides[0], sides[1], is_channels_last
    return None


def _is_bottleneck(network: nn.Module, layer: str, images: torch.Tensor) -> bool:
    """Return whether the logits depend on the image only through the output of a layer."""
    handle = network.get_submodule(layer).register_forward_hook(lambda _, __, output: output.detach())
    try:
        # Gradients are only needed for whether there are any: a graph of the layers before and beside this one.
        return not _logits(network, images.detach().requires_grad_()).requires_grad
    finally:
        handle.remove()


def _attributions(network: nn.Module, grid: Grid, images: torch.Tensor, label: int, num_copies: int) -> torch.Tensor:
    """Return what each position of the grid adds to the logit of a class, float32 of shape (rows, columns)."""
    captum = importlib.import_module("captum.attr")

    def logits(given: torch.Tensor) -> torch.Tensor:
        return _logits(network, given)

    layer = network.get_submodule(grid.layer) if grid.layer else None
    if grid.is_mixed_later:
        values = _integrated_gradients(captum, logits, layer, images, label, num_copies)
    else:
        values = captum.LayerGradientXActivation(logits, layer).attribute(images, target=label)[0].detach().float()
    values = values.sum(-1 if grid.is_channels_last else 0)
    if layer is None:
        rows, columns = (min(side, _IMAGE_GRID) for side in values.shape)
        values = functional.adaptive_avg_pool2d(values[None, None], (rows, columns))[0, 0]
    return values


def _integrated_gradients(
    captum: Any,
    logits: Callable[[torch.Tensor], torch.Tensor],
    layer: nn.Module | None,
    images: torch.Tensor,
    label: int,
    num_copies: int,
) -> torch.Tensor:
    """Return the integrated gradients of the output of a layer, or of the image if it is None, without the batch."""
    method = captum.IntegratedGradients(logits) if layer is None else captum.LayerIntegratedGradients(logits, layer)
    generator = torch.Generator().manual_seed(0)
    shape = (2, num_copies, *images.shape[1:])
    noise = torch.randn(shape, generator=generator).to(images) * (_NOISE * (images.max() - images.min()).detach())
    given, baselines = images.detach() + noise[0], noise[1]

    def summed(at_once: int) -> torch.Tensor:
        values = [
            method.attribute(
                part.requires_grad_(), baseline, target=label, n_steps=_NUM_STEPS, internal_batch_size=at_once
            ).detach()
            for part, baseline in zip(torch.split(given, at_once), torch.split(baselines, at_once))
        ]
        return torch.cat(values).float().mean(0)

    try:
        return summed(num_copies)
    except RuntimeError:  # such as no memory for all copies at once
        if images.device.type == "cuda":
            torch.cuda.empty_cache()
    return summed(1)


def _logits(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    output = network(images.clone())  # which it may change in place, unlike a tensor whose gradient is wanted
    logits: torch.Tensor = output if isinstance(output, torch.Tensor) else output[0]
    return logits.float()


@contextmanager
def _fixed(network: nn.Module) -> Iterator[None]:
    """Run a block with the network in evaluation mode and without gradients of the weights; then restore both."""
    modes = [(module, module.training) for module in network.modules()]
    wanted = [parameter for parameter in network.parameters() if parameter.requires_grad]
    network.eval()
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_()
        for module, mode in modes:
            module.training = mode
