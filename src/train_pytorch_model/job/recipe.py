"""Chooses the recipe for the network that is given, and resolves the settings with it."""

from __future__ import annotations

import contextlib
from dataclasses import fields
from typing import TYPE_CHECKING

from torch import nn

from train_pytorch_model.job.settings import ResolvedSettings, Settings
from train_pytorch_model.models.network_rules import NetworkError
from train_pytorch_model.parameters.recipes import NetworkFacts, resolve
from train_pytorch_model.training.layers import stages_of

if TYPE_CHECKING:
    from train_pytorch_model.ports.untrained_model import UntrainedModel


def resolve_settings(settings: Settings, model: UntrainedModel | None) -> ResolvedSettings:
    """Return the settings with the values that the recipe decides.

    Args:
        settings: as given.
        model: the model to train; None if it cannot be read, which is reported elsewhere.
    """
    values = {item.name: getattr(settings, item.name) for item in fields(settings)}
    return ResolvedSettings(**{**values, "parameters": resolve(settings.parameters, _facts_of(model))})


def _facts_of(model: UntrainedModel | None) -> NetworkFacts:
    modules: list[nn.Module] = []
    num_stages = 0
    if model is not None:
        with contextlib.suppress(NetworkError):  # reported when the network is built
            network = model.description.build_without_weights()
            modules = list(network.modules())
            num_stages = len(stages_of(network))
    return NetworkFacts(
        has_weights=model is not None and (model.pretrained is not None or model.labels is not None),
        uses_layer_norm=any(isinstance(module, nn.LayerNorm) for module in modules),
        num_stages=num_stages,
    )
