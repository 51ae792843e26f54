"""Optimizers, and their groups of parameters."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import nn

    from train_pytorch_model.training.plan import Plan

_ADAMW_BETA2 = 0.999


def build_optimizer(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    plan: Plan,
    device: torch.device,
    factors: Mapping[str, float] | None = None,
) -> torch.optim.Optimizer:
    """Create an optimizer with the buffers that its first step would create.

    SGD would create its buffers uninitialized. In float16 the first step may be skipped because of infinite gradients,
    and the buffers would stay uninitialized. Starting from zero gives the same first step.

    Args:
        named_parameters: names in the network and parameters to train.
        plan: has the optimizer's name and hyperparameters. The momentum of AdamW is its first beta.
        device: of the parameters.
        factors: of the learning rate of parameters by name, see `rate_factors`; 1 by default.
    """
    groups = _groups(named_parameters, plan, device, factors or {})
    optimizer: torch.optim.Optimizer
    if plan.optimizer == "adamw":
        betas = (plan.momentum, _ADAMW_BETA2)
        # PyTorch captures only such an AdamW in a CUDA graph, and warns when a step is not captured.
        optimizer = torch.optim.AdamW(groups, betas=betas, fused=True, capturable=device.type == "cuda")
        optimizer._warned_capturable_if_run_uncaptured = True
    else:
        optimizer = torch.optim.SGD(groups, momentum=plan.momentum, nesterov=plan.momentum > 0, fused=True)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if plan.optimizer == "adamw":
                optimizer.state[parameter] = {
                    "step": torch.zeros((), device=device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
            elif plan.momentum:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of the body; that of the head is a multiple of it."""
    for group in optimizer.param_groups:
        value = learning_rate * group["factor"]
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(value)
        else:
            group["lr"] = value


def _groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    plan: Plan,
    device: torch.device,
    factors: Mapping[str, float],
) -> list[dict[str, Any]]:
    """Return groups of parameters with the same weight decay and the same factor of the learning rate."""
    members: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in named_parameters:
        factor = factors.get(name, 1.0) * (plan.head_learning_rate_factor if name in plan.head_names else 1.0)
        decays = plan.decays_one_dimensional or parameter.ndim > 1
        members[factor, plan.weight_decay if decays else 0.0].append(parameter)
    return [
        {
            "params": parameters,
            # On a GPU a tensor, so that each replay of a CUDA graph reads its current value.
            "lr": torch.zeros((), device=device) if device.type == "cuda" else 0.0,
            "weight_decay": weight_decay,
            "factor": factor,
        }
        for (factor, weight_decay), parameters in members.items()
    ]
