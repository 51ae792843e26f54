"""Initialize Model: an UntrainedModelDirectory for any classification network of torchvision."""

from __future__ import annotations

import difflib
import logging
import re
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
import torchvision

from train_pytorch_model import designer_core
from train_pytorch_model.data.batches import derive_seed
from train_pytorch_model.errors import (
    UNTRAINED_MODEL,
    FailedToDownloadFilesError,
    InvalidModelDirectoryError,
    UserError,
)
from train_pytorch_model.network import (
    NetworkDescription,
    NetworkError,
    check_state,
    torchvision_builders,
    with_entries,
)
from train_pytorch_model.ports.output_directory import OutputDirectory

logger = logging.getLogger(__name__)

# What a builder would otherwise decide by whether it is given weights. The pixels that training gives are already
# what GoogLeNet's and Inception v3's weights were made for ([-1, 1]), so nothing is to be transformed again.
_WITH_AUXILIARY_HEADS = {"transform_input": False, "aux_logits": True, "init_weights": True}
_FIXED_ARGUMENTS = {"googlenet": _WITH_AUXILIARY_HEADS, "inception_v3": _WITH_AUXILIARY_HEADS}
# DenseNet's published files name its layers as an early release did: denselayer1.norm.1 for denselayer1.norm1.
_OLD_DENSENET_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(\d)")
_HINT = "Give none, default, a file of weights, or a folder that holds torchvision's file."


def initialize_model(model_name: str, path: Path, *, weights: str, seed: int | None) -> None:
    """Write an untrained model of 1000 outputs.

    Args:
        model_name: a classification builder of torchvision, such as resnet18.
        path: the folder to write.
        weights: "none" for random ones; "default" for torchvision's best, from its cache or downloaded; a file; or a
            folder that holds a file under torchvision's name.
        seed: of random weights; None for new ones each time.

    Raises:
        InvalidModelDirectoryError: for an unknown name, weights that do not fit, or an output that cannot be written.
        FailedToDownloadFilesError: when the default weights cannot be fetched.
    """
    if model_name not in torchvision_builders():
        close = difflib.get_close_matches(model_name, torchvision_builders(), n=3)
        meant = f"Did you mean {' or '.join(close)}? " if close else ""
        raise InvalidModelDirectoryError(
            UNTRAINED_MODEL,
            f"there is no model {model_name!r}",
            f"{meant}There are: {', '.join(torchvision_builders())}.",
        )
    output = OutputDirectory(path, UNTRAINED_MODEL, trained=False)
    output.check()
    description = _description(model_name)
    torch.manual_seed(derive_seed(secrets.randbits(32) if seed is None else seed, "network"))
    if weights == "none":
        network = description.build()
    else:
        state, source = _read(model_name, weights)
        network = _with_weights(description, state, source)
    with output.writing() as folder:
        designer_core.dump_untrained_model(folder, network, description.flavor_extras(is_cuda=False))
    logger.info("The untrained model %s (weights: %s) lies in %s.", model_name, weights, path)


def _description(model_name: str) -> NetworkDescription:
    return NetworkDescription("torchvision.models", model_name, dict(_FIXED_ARGUMENTS.get(model_name, {})))


def _with_weights(description: NetworkDescription, state: Any, source: str) -> torch.nn.Module:
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InvalidModelDirectoryError(UNTRAINED_MODEL, f"{source} is no flat state_dict of tensors", _HINT)
    network = description.build()
    state = with_entries(state, {_OLD_DENSENET_NAME.sub(r"\1\2", key): value for key, value in state.items()})
    try:
        check_state(description, state)
    except NetworkError as error:
        raise InvalidModelDirectoryError(UNTRAINED_MODEL, f"in {source}, {error}", _HINT) from error
    network.load_state_dict(state)
    return network


def _read(model_name: str, weights: str) -> tuple[Any, str]:
    enum = torchvision.models.get_model_weights(model_name)
    urls = {Path(urlparse(entry.url).path).name: entry.url for entry in [enum.DEFAULT, *enum]}
    if weights == "default":
        return _download(enum.DEFAULT), enum.DEFAULT.url
    path = Path(weights)
    if path.is_dir():
        found = [path / name for name in urls if (path / name).is_file()]
        if not found:
            raise InvalidModelDirectoryError(
                UNTRAINED_MODEL, f"the folder {path} holds none of {', '.join(urls)}", _HINT
            )
        path = found[0]
    elif not path.is_file():
        raise InvalidModelDirectoryError(
            UNTRAINED_MODEL, f"the weights {weights!r} are neither a file nor a folder", _HINT
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True), str(path)
    except Exception as error:  # what a damaged or hostile file raises is not documented
        raise InvalidModelDirectoryError(
            UNTRAINED_MODEL, f"{path} holds no weights that can be loaded safely ({type(error).__name__})", _HINT
        ) from error


def _download(entry: Any) -> Any:
    try:
        return entry.get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        raise FailedToDownloadFilesError(
            entry.url, "Or fetch the file elsewhere and give it with --weights FILE."
        ) from error
    except RuntimeError as error:
        raise UserError(f"{entry.url} came damaged: {error}. Run it again.") from error
