"""Models of the retired designer modules: DenseNet and ResNet in wrapper classes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from train_pytorch_model.models.description import NetworkDescription, describe
from train_pytorch_model.models.weight_choice import plain_names, state_dicts
from train_pytorch_model.models.weight_records import IMAGENET_MEAN, IMAGENET_STD, WeightsRecord

if TYPE_CHECKING:
    import torch

    from train_pytorch_model.models.weights import WeightFile

_INITIALIZERS = "azureml.designer.modules.dl.pytorch.initialize_models.vision.classification"
# The module of each wrapper class, and the name of its last layer in torchvision.
_HEADS = {f"{_INITIALIZERS}.resnet": "fc", f"{_INITIALIZERS}.densenet": "classifier"}
_PREFIX = "model."
_ADDED_HEAD = "out_linear_model"


def is_retired(module: str) -> bool:
    """Whether a module, by its name, is that of a wrapper class of the retired modules."""
    return module in _HEADS


def describe_retired(init_params: dict[str, Any]) -> NetworkDescription:
    """Return the description of the torchvision network inside a wrapper.

    Raises:
        NetworkError: if the arguments do not name a network of torchvision.
    """
    arguments = {key: value for key, value in init_params.items() if key != "model_name"}
    return describe("torchvision.models", str(init_params.get("model_name")), arguments)


def retired_record(init_params: dict[str, Any], sha256: str) -> WeightsRecord | None:
    """Return the record of the weights of an untrained wrapper; None if they are random.

    The retired modules took torchvision's first weights of ImageNet for any value of `pretrained` that is true.

    Args:
        init_params: the arguments of the wrapper.
        sha256: of the file of weights.
    """
    if not init_params.get("pretrained"):
        return None
    source = f"torchvision {init_params.get('model_name')} IMAGENET1K_V1"
    return WeightsRecord(source, sha256, IMAGENET_MEAN, IMAGENET_STD, (224, 224), 224 / 256, "bilinear")


def unwrapped(weights: WeightFile, module: str) -> WeightFile:
    """Return a file of weights with the names of the torchvision network inside a wrapper.

    Args:
        weights: the file.
        module: the module of the wrapper's class.

    Raises:
        ValueError: if the wrapper added a head whose shapes do not match.
    """
    for state in state_dicts(weights.content):
        names = plain_names(state)
        if f"{_ADDED_HEAD}.weight" in names:
            weights.read(state)
            plain = _unwrapped_state({name: state[key] for name, key in names.items()}, module)
            return replace(weights, content=plain, storages=[])
    return weights


def _unwrapped_state(state: dict[str, torch.Tensor], module: str) -> dict[str, torch.Tensor]:
    """Return the weights of a wrapper with the names of the torchvision network inside it.

    After pretrained weights, the wrapper added a second linear layer directly after the head of 1000 outputs. The
    product of both, W2 (W1 x + b1) + b2, is one linear layer, which becomes the head.

    Args:
        state: the weights of the wrapper.
        module: the module of the wrapper's class.

    Raises:
        ValueError: if the shapes of the two layers do not match.
    """
    plain = {key[len(_PREFIX) :]: value for key, value in state.items() if key.startswith(_PREFIX)}
    weight = state[f"{_ADDED_HEAD}.weight"]
    head = _HEADS[module]
    try:
        first_weight, first_bias = plain[f"{head}.weight"], plain[f"{head}.bias"]
        # In float64, so that the product is exact to the precision of float32.
        folded_weight = weight.double() @ first_weight.double()
        folded_bias = weight.double() @ first_bias.double() + state[f"{_ADDED_HEAD}.bias"].double()
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"the two heads of the retired network do not match: {error}") from error
    plain[f"{head}.weight"] = folded_weight.to(first_weight.dtype)
    plain[f"{head}.bias"] = folded_bias.to(first_bias.dtype)
    return plain
