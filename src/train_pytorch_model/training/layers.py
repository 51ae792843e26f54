"""The stages of a network in the order of execution, and those that training leaves as they are."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Union

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from train_pytorch_model.models.heads import is_auxiliary

if TYPE_CHECKING:
    from train_pytorch_model.training.plan import Plan

# A module with less than this fraction of the body's parameters is not what its stages lie in.
_BIG = 0.05

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """Consecutive layers of a network that are trained or frozen together."""

    name: str
    """The name of its first layer with weights."""
    parameter_names: tuple[str, ...]
    module_names: tuple[str, ...]
    """Modules that belong to the stage as a whole; layers without parameters belong to the stage that follows."""


def stages_of(network: nn.Module) -> list[Stage]:
    """Return the stages of a network in the order of execution; the last one is the head.

    Stages are the children of the network, or of the one child that contains almost all layers, such as `features`,
    `blocks` or `encoder.layers`. A normalization layer belongs to the stage before it, and the embeddings of a
    transformer belong to the first stage. Auxiliary heads are not stages.
    """
    stages: list[Stage] = []
    pending: list[str] = []  # layers without parameters
    loose: list[str] = []  # embeddings before the first stage
    for name, owner in _layers(network):
        if isinstance(owner, nn.Parameter):
            names, modules, is_own = [name], [], False
        else:
            names = [f"{name}.{key}" for key, _ in owner.named_parameters()]
            modules = [name]
            is_own = any(parameter.ndim > 1 for parameter in owner.parameters())
        if not names:
            pending += modules
        elif is_own:
            stages.append(Stage(name, tuple(loose + names), tuple(pending + modules)))
            pending, loose = [], []
        elif stages:
            last = stages[-1]
            stages[-1] = Stage(last.name, (*last.parameter_names, *names), (*last.module_names, *pending, *modules))
            pending = []
        else:
            loose += names
            pending += modules
    if stages:
        last = stages[-1]
        stages[-1] = Stage(last.name, (*last.parameter_names, *loose), (*last.module_names, *pending))
    return stages


def head_stages(network: nn.Module, head_names: Collection[str]) -> list[Stage]:
    """Return the stages of a network that are heads: two of a distilled transformer.

    Args:
        network: to look at.
        head_names: the names of the parameters of all heads. If no stage begins with one, the last stage is the head.
    """
    stages = stages_of(network)
    of_first = [[name for name in stage.parameter_names if name.startswith(f"{stage.name}.")] for stage in stages]
    heads = [stage for stage, names in zip(stages, of_first) if set(names) <= set(head_names)]
    return heads or stages[-1:]


def frozen_stages(network: nn.Module, count: int, head_names: Collection[str] = ()) -> list[Stage]:
    """Return the first `count` stages of a network, without those that are heads, which may be anywhere.

    Args:
        network: to look at.
        count: the number of stages, which may be larger than that of the network.
        head_names: see `head_stages`.
    """
    if not count:
        return []
    heads = head_stages(network, head_names)
    return [stage for stage in stages_of(network) if stage not in heads][:count]


def set_frozen_parts_to_evaluation(
    network: nn.Module, modules: Iterable[str], *, batch_norm: bool, auxiliary: bool
) -> None:
    """Put the parts of a network in training mode that training leaves as they are into evaluation mode.

    Args:
        network: in training mode.
        modules: the names of its frozen modules.
        batch_norm: whether the statistics of batches are frozen in all layers.
        auxiliary: whether auxiliary heads do not run.
    """
    for name in modules:
        network.get_submodule(name).eval()
    if batch_norm:
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
    if auxiliary:
        # GoogLeNet and Inception run their auxiliary heads while this flag of the network itself is set.
        network.training = False


def rate_factors(network: nn.Module, layer_decay: float | None) -> dict[str, float]:
    """Return the learning rate of each parameter of a stage, by name, relative to that of the head.

    Of n stages, stage k, counted from 1, has `layer_decay ** (n - k)`, as in timm. The last stage is the head.
    """
    if layer_decay is None:
        return {}
    stages = reversed(stages_of(network))
    return {name: layer_decay**depth for depth, stage in enumerate(stages) for name in stage.parameter_names}


class TrainableLayers:
    """Which layers of a network are trained, and which are in training mode.

    For some epochs, the head can be trained alone: the layers before it get no gradients and are in evaluation mode.
    """

    def __init__(self, network: nn.Module, plan: Plan) -> None:
        """Freeze what the plan wants frozen: those parameters no longer get gradients."""
        stages = frozen_stages(network, plan.layers_to_freeze, plan.head_names)
        if len(stages) < plan.layers_to_freeze:
            logger.warning("The network has %d layers before its head. All of them are frozen.", len(stages))
        frozen = {name for stage in stages for name in stage.parameter_names} - plan.head_names
        auxiliary = tuple(f"{name}." for name in plan.auxiliary_heads)
        if plan.fits_head:
            # The fitted head is the result to improve on. Auxiliary heads are not fitted: their large gradients would
            # change the layers before them.
            frozen.update(name for name, _ in network.named_parameters() if name.startswith(auxiliary))
        for name, parameter in network.named_parameters():
            if name in frozen:
                parameter.requires_grad_(False)
        self._network = network
        self._frozen = frozen
        self._frozen_modules = [name for stage in stages for name in stage.module_names]
        self._freezes_batch_norm = plan.freeze_batch_norm
        self._has_auxiliary = bool(auxiliary)
        self._fits_head = plan.fits_head
        heads = head_stages(network, plan.head_names)
        heads = heads or [Stage("", tuple(name for name, _ in network.named_parameters()), ())]
        others = {name for name in plan.head_names if not name.startswith(auxiliary)}
        self._head_names = frozenset(others.union(*(stage.parameter_names for stage in heads)))
        self._head_modules = [name for stage in heads for name in stage.module_names]
        self._trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
        self._trains_head_alone = False

    def train_head_alone(self, alone: bool) -> None:
        """Train only the head from now on, or again all that the plan trains."""
        self._trains_head_alone = alone
        for name, parameter in self._network.named_parameters():
            parameter.requires_grad_(name in self._trained and (not alone or name in self._head_names))

    @property
    def head_names(self) -> frozenset[str]:
        """The names of the parameters of all heads, and of what belongs to their stages."""
        return self._head_names

    def head_modules(self) -> list[nn.Module]:
        """Return the modules of the stages of the heads in order, also those without weights."""
        return [self._network.get_submodule(name) for name in self._head_modules]

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield names and parameters that are trained, in the network's order."""
        return ((name, value) for name, value in self._network.named_parameters() if name not in self._frozen)

    def set_training_mode(self) -> None:
        """Put the network into training mode and its frozen layers into evaluation mode."""
        network = self._network.train()
        if self._trains_head_alone:
            network.eval().training = True
            for module in self.head_modules():
                module.train()
        set_frozen_parts_to_evaluation(
            network,
            self._frozen_modules,
            batch_norm=self._freezes_batch_norm,
            auxiliary=self._has_auxiliary and (self._fits_head or self._trains_head_alone),
        )


def _layers(network: nn.Module) -> Iterator[tuple[str, Union[nn.Module, nn.Parameter]]]:
    """Yield the layers or groups of layers of a network, and parameters that belong to none, with their full names."""
    prefix, root = "", network
    children = list(root.named_children())
    while len(children) == 1 and _is_composite(children[0][1]):
        prefix, root = f"{prefix}{children[0][0]}.", children[0][1]
        children = list(root.named_children())
    yield from _own_parameters(prefix, root)
    with_weights = [name for name, child in children if _num_parameters(child) and not is_auxiliary(name)]
    if not with_weights:
        return
    head = [name for name, _ in children].index(with_weights[-1])
    yield from _body(prefix, children[:head])
    for name, child in children[head:]:
        if _is_composite(child):
            yield from _own_parameters(f"{prefix}{name}.", child)
            yield from ((f"{prefix}{name}.{key}", module) for key, module in child.named_children())
        elif not is_auxiliary(name):
            yield f"{prefix}{name}", child


def _body(
    prefix: str, children: Sequence[tuple[str, nn.Module]], least: float | None = None
) -> Iterator[tuple[str, Union[nn.Module, nn.Parameter]]]:
    """Yield children, and instead of one that contains almost all layers its children.

    Args:
        prefix: of the children's full names.
        children: names and modules.
        least: the number of parameters of a module that may contain almost all layers; None for the outermost modules,
            of which several may be plain sequences of layers, as in VGG.
    """
    children = [(name, child) for name, child in children if not is_auxiliary(name)]
    is_outermost = least is None
    if least is None:
        least = _BIG * sum(_num_parameters(child) for _, child in children)
    big = [child for _, child in children if _has_layers(child) and _num_parameters(child) >= least]
    for name, child in children:
        if child in big and (len(big) == 1 or (is_outermost and _is_flat(child))):
            yield from _own_parameters(f"{prefix}{name}.", child)
            yield from _body(f"{prefix}{name}.", list(child.named_children()), least)
        else:
            yield f"{prefix}{name}", child


def _own_parameters(prefix: str, module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((f"{prefix}{name}", value) for name, value in module.named_parameters(recurse=False))


def _num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _is_composite(module: nn.Module) -> bool:
    return any(_num_parameters(child) for child in module.children())


def _has_layers(module: nn.Module) -> bool:
    """Return whether there are several layers in a module, not one as in a patch embedding."""
    with_weights = [child for child in module.children() if _num_parameters(child)]
    return len(with_weights) > 1 or any(_has_layers(child) for child in with_weights)


def _is_flat(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and not any(_is_composite(child) for child in module.children())
