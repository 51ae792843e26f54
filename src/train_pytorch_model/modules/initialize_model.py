"""Initialize Model: write an untrained classification network of torchvision or timm."""

from __future__ import annotations

import difflib
import logging
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import torch

from train_pytorch_model import designer_core
from train_pytorch_model.data.batches import derive_seed
from train_pytorch_model.errors import (
    UNTRAINED_MODEL,
    FailedToDownloadFilesError,
    InvalidModelDirectoryError,
)
from train_pytorch_model.models.description import NetworkDescription, timm_models, torchvision_builders
from train_pytorch_model.models.libraries import ModelLibrary, ModelRow, library_of, model_libraries
from train_pytorch_model.models.network import check_state
from train_pytorch_model.models.network_rules import NetworkError
from train_pytorch_model.models.state_dicts import with_entries
from train_pytorch_model.models.weights import check_tensors, read_weights
from train_pytorch_model.ports.directory_kinds import UNTRAINED
from train_pytorch_model.ports.output_directory import OutputDirectory

logger = logging.getLogger(__name__)

# DenseNet's published files use the layer names of an early release: denselayer1.norm.1 for denselayer1.norm1.
_OLD_DENSENET_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(\d)")
# Between two attempts of a download.
_WAITS_SECONDS = (3, 10)
# Errors of these packages are network errors, whatever their class.
_NETWORK_PACKAGES = ("huggingface_hub", "httpx", "requests", "urllib3", "http")
_HINT = "Give none, default, a file of weights, or a folder that contains the library's file."


@dataclass(frozen=True)
class InitializedModel:
    """The output of Initialize Model."""

    untrained_model_path: Path
    model_name: str
    num_parameters: int


def initialize_model(
    model_name: str,
    untrained_model_path: Path,
    *,
    weights: str = "none",
    pretrained: bool = False,
    memory_efficient: bool = False,
    zero_init_residual: bool = False,
    random_seed: Optional[int] = 1,
    outputs_path: Path,
) -> InitializedModel:
    """Write an untrained model with 1000 outputs.

    Args:
        model_name: a classification builder of torchvision, such as resnet18, or a network of timm, if timm is
            installed. `timm/NAME` chooses timm for a name that both have.
        untrained_model_path: the folder to write.
        weights: "none" for random weights; "default" for the library's best, from its cache or downloaded; a file; or
            a folder that contains a file of the library's name.
        pretrained: the same as `weights="default"`, as the retired modules called it; `weights` takes precedence.
        memory_efficient: whether a DenseNet recomputes activations to save memory.
        zero_init_residual: whether each residual block of a ResNet starts as the identity.
        random_seed: seed of random weights; None for different ones each time.
        outputs_path: the folder of reports, which must not overlap with the output.

    Returns:
        The name of the model and its number of parameters.

    Raises:
        InvalidModelDirectoryError: if the name is unknown, the weights do not fit, or the output cannot be written.
        FailedToDownloadFilesError: if the default weights cannot be downloaded.
    """
    if pretrained and weights == "none":
        weights = "default"
    library, name = _find(model_name)
    output = OutputDirectory(untrained_model_path, UNTRAINED_MODEL, UNTRAINED)
    output.check((), outputs_path)
    switches = {"memory_efficient": memory_efficient, "zero_init_residual": zero_init_residual}
    description = library.describe(name, {key: True for key, is_on in switches.items() if is_on})
    torch.manual_seed(derive_seed(secrets.randbits(32) if random_seed is None else random_seed, "network"))
    if weights == "none":
        network = _build(description)
    else:
        state, source = _read(library, name, weights)
        network = _with_weights(description, state, source)
    with output.writing() as folder:
        designer_core.dump_untrained_model(folder, network, description.flavor_extras(is_cuda=False))
    logger.info("Saved the untrained model %s (weights: %s) to %s.", model_name, weights, untrained_model_path)
    return InitializedModel(untrained_model_path, model_name, sum(value.numel() for value in network.parameters()))


def _find(model_name: str) -> tuple[ModelLibrary, str]:
    """The library of a model and its name there."""
    found = library_of(model_name)
    if found is None:
        names = torchvision_builders()
        close = difflib.get_close_matches(model_name, [*names, *timm_models()], n=3)
        meant = f"Did you mean {' or '.join(close)}? " if close else ""
        raise InvalidModelDirectoryError(
            UNTRAINED_MODEL, f"there is no model {model_name!r}", f"{meant}Available: {', '.join(names)}."
        )
    return found


def _build(description: NetworkDescription) -> torch.nn.Module:
    try:
        return description.build()
    except NetworkError as error:
        raise InvalidModelDirectoryError(UNTRAINED_MODEL, str(error)) from error


def _with_weights(description: NetworkDescription, state: Any, source: str) -> torch.nn.Module:
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InvalidModelDirectoryError(UNTRAINED_MODEL, f"{source} is not a flat state_dict of tensors", _HINT)
    network = _build(description)
    state = with_entries(state, {_OLD_DENSENET_NAME.sub(r"\1\2", key): value for key, value in state.items()})
    try:
        check_state(description, state)
    except NetworkError as error:
        raise InvalidModelDirectoryError(UNTRAINED_MODEL, f"in {source}, {error}", _HINT) from error
    network.load_state_dict(state)
    return network


def _read(library: ModelLibrary, name: str, weights: str) -> tuple[Any, str]:
    if weights == "default":
        return _download(library, name), library.address(name)
    path = Path(weights)
    if path.is_dir():
        names = library.weight_files(name)
        found = [path / file for file in names if (path / file).is_file()]
        if not found:
            raise InvalidModelDirectoryError(
                UNTRAINED_MODEL, f"the folder {path} contains none of {', '.join(names)}", _HINT
            )
        path = found[0]
    elif not path.is_file():
        raise InvalidModelDirectoryError(
            UNTRAINED_MODEL, f"the weights {weights!r} are neither a file nor a folder", _HINT
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file  # installed with timm

            state = load_file(path)
            check_tensors(path, state)
            return state, str(path)
        return read_weights(path), str(path)
    except MemoryError:
        raise
    except ValueError as error:
        raise InvalidModelDirectoryError(UNTRAINED_MODEL, f"in {path}, {error}", _HINT) from error
    except Exception as error:  # the exceptions for damaged or hostile files are not documented
        raise InvalidModelDirectoryError(
            UNTRAINED_MODEL, f"{path} has no weights that can be loaded safely ({type(error).__name__})", _HINT
        ) from error


def _download(library: ModelLibrary, name: str) -> Any:
    for wait_seconds in (*_WAITS_SECONDS, None):
        try:
            return library.fetch(name)
        except Exception as error:  # the class of a download error depends on the library's release
            if not _is_of_network(error):
                raise InvalidModelDirectoryError(
                    UNTRAINED_MODEL,
                    f"the weights of {name} cannot be loaded: {error}",
                    "If a cached file is damaged, remove it.",
                ) from error
            if wait_seconds is None:
                raise FailedToDownloadFilesError(
                    library.address(name), "Or download the file on another machine and give it with --weights FILE."
                ) from error
            logger.warning("Cannot download %s (%s); retrying in %d s.", library.address(name), error, wait_seconds)
            time.sleep(wait_seconds)
    raise AssertionError("the last attempt returns or raises")


def _is_of_network(error: Exception) -> bool:
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError) or "invalid hash" in str(error) or package in _NETWORK_PACKAGES


def list_models() -> list[ModelRow]:
    """List the networks of the installed libraries."""
    return [row for library in model_libraries() for row in library.rows()]
