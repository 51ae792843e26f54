"""Initialize Model: an UntrainedModelDirectory for any classification network of torchvision or timm."""

from __future__ import annotations

import difflib
import logging
import re
import secrets
import time
from pathlib import Path
from typing import Any

import torch

from train_pytorch_model import designer_core
from train_pytorch_model.data.batches import derive_seed
from train_pytorch_model.errors import (
    UNTRAINED_MODEL,
    FailedToDownloadFilesError,
    InvalidModelDirectoryError,
)
from train_pytorch_model.models.libraries import ModelLibrary, ModelRow, library_of, model_libraries
from train_pytorch_model.models.network import (
    NetworkDescription,
    check_state,
    timm_models,
    torchvision_builders,
)
from train_pytorch_model.models.network_rules import NetworkError
from train_pytorch_model.models.state_dicts import with_entries
from train_pytorch_model.models.weights import check_tensors, read_weights
from train_pytorch_model.ports.output_directory import UNTRAINED, OutputDirectory

logger = logging.getLogger(__name__)

# DenseNet's published files name its layers as an early release did: denselayer1.norm.1 for denselayer1.norm1.
_OLD_DENSENET_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(\d)")
# Between the tries of a download.
_WAITS_SECONDS = (3, 10)
# Whose faults are of the network, whatever class they are of.
_NETWORK_PACKAGES = ("huggingface_hub", "httpx", "requests", "urllib3", "http")
_HINT = "Give none, default, a file of weights, or a folder that holds the library's file."


def initialize_model(
    model_name: str,
    path: Path,
    outputs_path: Path,
    *,
    weights: str,
    seed: int | None,
    init_params: dict[str, Any] | None = None,
) -> None:
    """Write an untrained model of 1000 outputs.

    Args:
        model_name: a classification builder of torchvision, such as resnet18, or a network of timm, where that is
            installed; `timm/NAME` for one that both have.
        path: the folder to write.
        outputs_path: the folder of reports.
        weights: "none" for random ones; "default" for the library's best, from its cache or downloaded; a file; or a
            folder that holds a file under the library's name.
        seed: of random weights; None for new ones each time.
        init_params: arguments of the builder, such as DenseNet's `memory_efficient`.

    Raises:
        InvalidModelDirectoryError: for an unknown name, weights that do not fit, or an output that cannot be written.
        FailedToDownloadFilesError: when the default weights cannot be fetched.
    """
    found = library_of(model_name)
    if found is None:
        names = torchvision_builders()
        close = difflib.get_close_matches(model_name, [*names, *timm_models()], n=3)
        meant = f"Did you mean {' or '.join(close)}? " if close else ""
        raise InvalidModelDirectoryError(
            UNTRAINED_MODEL, f"there is no model {model_name!r}", f"{meant}There are: {', '.join(names)}."
        )
    library, name = found
    output = OutputDirectory(path, UNTRAINED_MODEL, UNTRAINED)
    output.check((), outputs_path)
    description = library.describe(name, init_params or {})
    torch.manual_seed(derive_seed(secrets.randbits(32) if seed is None else seed, "network"))
    if weights == "none":
        network = _build(description)
    else:
        state, source = _read(library, name, weights)
        network = _with_weights(description, state, source)
    with output.writing() as folder:
        designer_core.dump_untrained_model(folder, network, description.flavor_extras(is_cuda=False))
    logger.info("The untrained model %s (weights: %s) lies in %s.", model_name, weights, path)


def _build(description: NetworkDescription) -> torch.nn.Module:
    try:
        return description.build()
    except NetworkError as error:
        raise InvalidModelDirectoryError(UNTRAINED_MODEL, str(error)) from error


def _with_weights(description: NetworkDescription, state: Any, source: str) -> torch.nn.Module:
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InvalidModelDirectoryError(UNTRAINED_MODEL, f"{source} is no flat state_dict of tensors", _HINT)
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
                UNTRAINED_MODEL, f"the folder {path} holds none of {', '.join(names)}", _HINT
            )
        path = found[0]
    elif not path.is_file():
        raise InvalidModelDirectoryError(
            UNTRAINED_MODEL, f"the weights {weights!r} are neither a file nor a folder", _HINT
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file  # comes with timm, whose format it is

            state = load_file(path)
            check_tensors(path, state)
            return state, str(path)
        return read_weights(path), str(path)
    except MemoryError:
        raise
    except ValueError as error:
        raise InvalidModelDirectoryError(UNTRAINED_MODEL, f"in {path}, {error}", _HINT) from error
    except Exception as error:  # what a damaged or hostile file raises is not documented
        raise InvalidModelDirectoryError(
            UNTRAINED_MODEL, f"{path} holds no weights that can be loaded safely ({type(error).__name__})", _HINT
        ) from error


def _download(library: ModelLibrary, name: str) -> Any:
    for wait_seconds in (*_WAITS_SECONDS, None):
        try:
            return library.fetch(name)
        except Exception as error:  # which class a fault of a library's download has depends on its release
            if not _is_of_network(error):
                raise InvalidModelDirectoryError(
                    UNTRAINED_MODEL,
                    f"the weights of {name} cannot be had: {error}",
                    "If a cached file is damaged, remove it.",
                ) from error
            if wait_seconds is None:
                raise FailedToDownloadFilesError(
                    library.address(name), "Or fetch the file elsewhere and give it with --weights FILE."
                ) from error
            logger.warning("%s cannot be fetched (%s); again in %d s.", library.address(name), error, wait_seconds)
            time.sleep(wait_seconds)
    raise AssertionError("the last try returns or raises")


def _is_of_network(error: Exception) -> bool:
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError) or "invalid hash" in str(error) or package in _NETWORK_PACKAGES


def list_models() -> list[ModelRow]:
    """The networks of the libraries that are installed."""
    return [row for library in model_libraries() for row in library.rows()]
