"""The head of a network: the linear layer that computes the logits from the features."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from train_pytorch_model.models.network import logits_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# The largest error of the logits relative to the largest logit: far above rounding, far below any other function.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Head:
    """The linear layer of a network that computes its logits.

    Its features are its input, in evaluation mode. If it is a convolution, they are the means over all positions.
    """

    name: str
    """The name of the module, such as "fc" or "classifier.1"."""
    shape: tuple[int, ...]
    """The shape of its weight: (classes, features) or, for a convolution, (classes, features, 1, 1)."""
    has_bias: bool
    is_rectified: bool
    """The logits are the means over all positions of ReLU(convolution), as in SqueezeNet, and not linear in the
    features. They are if the bias is so large that the convolution is positive everywhere."""

    @property
    def num_classes(self) -> int:
        """The number of logits."""
        return self.shape[0]

    @property
    def num_features(self) -> int:
        """The number of features."""
        return self.shape[1]

    @property
    def parameter_names(self) -> frozenset[str]:
        """The names of its parameters in the network."""
        return frozenset(self._key(name) for name in ("weight", "bias") if name == "weight" or self.has_bias)

    def state(self, weight: torch.Tensor, bias: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the entries of the network's state dict.

        Args:
            weight: of shape (classes, features).
            bias: of shape (classes,); ignored if the head has none.
        """
        state = {self._key("weight"): weight.reshape(self.shape)}
        return {**state, self._key("bias"): bias} if self.has_bias else state

    def logits(self, given: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Return the logits, float32 of shape (B, classes), that the network computes in evaluation mode.

        Args:
            given: the input of the head, or its features if the head is not rectified.
            weight: of the head.
            bias: of the head.
        """
        if self.is_rectified:
            return functional.conv2d(given.float(), weight, bias).relu().mean((2, 3))
        return functional.linear(features_of(given), weight.flatten(1), bias)

    def scaled(self, state: Mapping[str, torch.Tensor], factor: float) -> dict[str, torch.Tensor]:
        """Return the entries of a state dict of the network with which its logits are multiplied by a factor.

        Args:
            state: the network's; it is not changed.
            factor: > 0, so that ReLU(factor * x) is factor * ReLU(x).
        """
        return {key: (state[key].double() * factor).to(state[key].dtype) for key in self.parameter_names}

    def _key(self, name: str) -> str:
        return f"{self.name}.{name}" if self.name else name


def find_head(network: nn.Module, size: tuple[int, int]) -> Head | str:
    """Find the head of a network, whatever its name, and check with a small batch that the logits are linear in it.

    Auxiliary heads are not the head. The check uses random weights of the head, so it also holds for a head of zeros.

    Args:
        network: on any device but "meta"; it is left as it was.
        size: (height, width) of its images in pixels.

    Returns:
        The head, or why the network has none that can be fitted: words that follow "the network".
    """
    device = next(network.parameters()).device
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, *size, generator=generator).to(device)
    with evaluating(network):
        name, num_logits = _last_linear(network, images)
        if not name:
            return "does not end with a linear layer"
        layer = network.get_submodule(name)
        weight, bias = layer.weight, layer.bias
        assert isinstance(weight, torch.Tensor)
        head = Head(name, tuple(weight.shape), bias is not None, is_rectified=False)
        if not head.parameter_names <= {key for key, _ in network.named_parameters(remove_duplicate=False)}:
            return f"computes the weights of its last layer, {name}"
        trial = torch.randn(num_logits, head.num_features, generator=generator) / head.num_features**0.5
        trial_bias = torch.randn(num_logits, generator=generator) if head.has_bias else torch.zeros(num_logits)
        trial, trial_bias = trial.to(device), trial_bias.to(device)
        with head_inputs(network, head) as inputs:
            logits, negated = (
                logits_of(functional_call(network, head.state(sign * trial, sign * trial_bias), images))
                for sign in (1, -1)
            )
        if len(inputs) != 2 or logits.shape != (len(images), num_logits):
            return f"does not compute its logits by its last linear layer, {name}, alone"
        linear = functional.linear(features_of(inputs[0]), trial, trial_bias)
        # With one sign alone, all logits could be positive by chance, and a ReLU behind them would not be seen.
        if _is_close(linear, logits) and _is_close(-linear, negated):
            return head
        if inputs[0].dim() == 4 and head.has_bias:
            convolved = functional.conv2d(inputs[0], trial[:, :, None, None], trial_bias)
            rectified, rectified_negated = (values.relu().mean((2, 3)) for values in (convolved, -convolved))
            if _is_close(rectified, logits) and _is_close(rectified_negated, negated):
                return Head(name, head.shape, has_bias=True, is_rectified=True)
    return f"computes its logits from the output of its last linear layer, {name}, in a way that is not known here"


def auxiliary_heads(network: nn.Module, size: tuple[int, int]) -> frozenset[str]:
    """Return the names of the children of a network that are auxiliary heads: the logits do not depend on them.

    GoogLeNet and Inception run theirs in training mode only. A head such as that of VOLO, which is called auxiliary but
    contributes to the logits in evaluation mode, is none.

    Args:
        network: on any device but "meta"; it is left as it was.
        size: (height, width) of its images in pixels.
    """
    names = [name for name, _ in network.named_children() if is_auxiliary(name)]
    logits = None
    if names:
        # What the network does not accept is reported elsewhere.
        with evaluating(network), torch.enable_grad(), suppress(Exception):
            logits = logits_of(network(torch.zeros(1, 3, *size, device=next(network.parameters()).device)))
    if logits is None or logits.grad_fn is None:
        return frozenset()
    used = _leaves(logits.grad_fn)
    return frozenset(name for name in names if used.isdisjoint(map(id, network.get_submodule(name).parameters())))


def is_auxiliary(name: str) -> bool:
    """Return whether the name of a child of a network is that of an auxiliary head."""
    return name.lower().startswith("aux")


def _leaves(function: torch.autograd.graph.Node) -> set[int]:
    """The identities of the parameters that a value was computed from."""
    seen, pending = {function}, [function]
    while pending:
        following = {node for node, _ in pending.pop().next_functions if node is not None} - seen
        seen |= following
        pending += following
    return {id(getattr(node, "variable", None)) for node in seen}


def features_of(given: torch.Tensor) -> torch.Tensor:
    """Return the features, float32 of shape (B, features), of the input of a head: the means over all positions.

    Args:
        given: of shape (B, features) or (B, features, height, width).
    """
    given = given.float()
    return given.mean((2, 3)) if given.dim() == 4 else given


@contextmanager
def head_inputs(network: nn.Module, head: Head) -> Iterator[list[torch.Tensor]]:
    """Collect what the head is given inside the block, in the order of the calls, in a list."""
    inputs: list[torch.Tensor] = []

    def keep(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        inputs.append(arguments[0])

    handle = network.get_submodule(head.name).register_forward_pre_hook(keep)
    try:
        yield inputs
    finally:
        handle.remove()


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Run a block with the network in evaluation mode and without gradients; then restore the mode of each layer."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _last_linear(network: nn.Module, images: torch.Tensor) -> tuple[str, int]:
    """Return the name of the linear layer that is called last with as many outputs as there are logits, and these.

    The name is empty if there is none.
    """
    called: list[tuple[str, int]] = []
    handles = [
        module.register_forward_pre_hook(lambda _, __, name=name, count=count: called.append((name, count)))
        for name, module in network.named_modules()
        if (count := _num_outputs(module))
    ]
    try:
        num_logits = logits_of(network(images)).shape[-1]
    finally:
        for handle in handles:
            handle.remove()
    names = [name for name, count in called if count == num_logits]
    return (names[-1] if names else ""), num_logits


def _num_outputs(module: nn.Module) -> int:
    """Return the number of outputs of a linear layer or a convolution that is one at each position; 0 for others."""
    if isinstance(module, nn.Linear):
        return module.out_features
    if isinstance(module, nn.Conv2d) and module.kernel_size == module.stride == (1, 1) and module.groups == 1:
        return module.out_channels if module.padding in ((0, 0), "valid") else 0
    return 0


def _is_close(given: torch.Tensor, wanted: torch.Tensor) -> bool:
    if given.shape != wanted.shape:
        return False
    return bool((given - wanted).abs().max() <= _TOLERANCE * wanted.abs().max())
