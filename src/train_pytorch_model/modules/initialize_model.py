"""Initialize Model: write an untrained classification network of torchvision or timm."""

from __future__ import annotations

import contextlib
import difflib
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional, Union

import torch
from torchvision.models import get_model_builder

from train_pytorch_model import designer_core
from train_pytorch_model.data.batches import derive_seed
from train_pytorch_model.data.file_hashes import sha256_of
from train_pytorch_model.errors import (
    UNTRAINED_MODEL,
    FailedToDownloadFilesError,
    InvalidModelDirectoryError,
    UserError,
)
from train_pytorch_model.models.description import NetworkDescription, timm_models, torchvision_builders
from train_pytorch_model.models.libraries import ModelLibrary, ModelRow, library_of, model_libraries
from train_pytorch_model.models.network import check_state
from train_pytorch_model.models.network_rules import NetworkError
from train_pytorch_model.models.state_dicts import digest_of
from train_pytorch_model.models.weight_choice import choose_weights, log_choice
from train_pytorch_model.models.weight_kinds import kind_of_folder
from train_pytorch_model.models.weight_records import (
    RECORD_FILE,
    SMALLEST_STD,
    Channels,
    WeightsRecord,
    channels_of,
)
from train_pytorch_model.models.weights import WeightFile, open_weights
from train_pytorch_model.ports.directory_kinds import UNTRAINED
from train_pytorch_model.ports.output_directory import OutputDirectory
from train_pytorch_model.text.wording import shown

logger = logging.getLogger(__name__)

# Between two attempts of a download.
_WAITS_SECONDS = (3, 10)
# Errors of these packages are network errors, whatever their class.
_NETWORK_PACKAGES = ("huggingface_hub", "httpx", "requests", "urllib3", "http")
# How long networks that the weights may be of are tried, after they did not fit the wanted one.
_GUESS_SECONDS = 10
# What names of weight files end in.
_ENDINGS = (".pth", ".pt", ".bin", ".safetensors", ".ckpt", ".tar", ".th", ".pkl")
_HINT = "Give none, default, a file of weights, or a folder that contains the library's file."

Normalisation = Union[str, float, Sequence[float]]


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
    weights_mean: Optional[Normalisation] = None,
    weights_std: Optional[Normalisation] = None,
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
        weights_mean: the mean of the pixels, in [0, 1], that the weights were made for: a number, or one for each of
            red, green and blue, also as text; None for that of the library's weights.
        weights_std: the standard deviation of the same pixels, in (0, 1].
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
        UserError: if the mean or the standard deviation is not possible, or there are no weights that it belongs to.
    """
    if pretrained and weights == "none":
        weights = "default"
    normalisation = (
        _channels("--weights-mean", weights_mean, 0.0),
        _channels("--weights-std", weights_std, SMALLEST_STD),
    )
    if weights == "none" and any(normalisation):
        raise UserError("--weights-mean and --weights-std describe pretrained weights. Add --weights, or remove them.")
    library, name = _find(model_name)
    output = OutputDirectory(untrained_model_path, UNTRAINED_MODEL, UNTRAINED)
    output.check((), outputs_path)
    switches = {"memory_efficient": memory_efficient, "zero_init_residual": zero_init_residual}
    description = library.describe(name, {key: True for key, is_on in switches.items() if is_on})
    torch.manual_seed(derive_seed(secrets.randbits(32) if random_seed is None else random_seed, "network"))
    record = None
    if weights == "none":
        network = _build(description)
    else:
        network, record = _with_weights(description, library, name, weights)
        record = replace(record, mean=normalisation[0] or record.mean, std=normalisation[1] or record.std)
        _log(record)
    with output.writing() as folder:
        designer_core.dump_untrained_model(folder, network, description.flavor_extras(is_cuda=False))
        if record:
            (folder / RECORD_FILE).write_text(record.to_json(), encoding="utf-8")
    logger.info("Saved the untrained model %s (weights: %s) to %s.", model_name, weights, untrained_model_path)
    return InitializedModel(untrained_model_path, model_name, sum(value.numel() for value in network.parameters()))


def _channels(flag: str, given: Optional[Normalisation], smallest: float) -> Channels | None:
    """The value of a flag for each channel; None if it was not given."""
    if given is None:
        return None
    try:
        channels = channels_of(given)
        if not all(smallest <= value <= 1 for value in channels):
            raise ValueError
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{flag} is {shown(given)}, but must be one number or three, such as 0.485,0.456,0.406, for pixels between "
            "0 and 1. Divide values for pixels up to 255 by 255."
        ) from error
    return channels


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


def _with_weights(
    description: NetworkDescription, library: ModelLibrary, name: str, weights: str
) -> tuple[torch.nn.Module, WeightsRecord]:
    """Build the network; its weights are those of a file or of the library, its head random if they have none."""
    source, found = _open(library, name, weights)
    network = _build(description)
    try:
        choice = choose_weights(found, description, needs_head=False)
        if weights != "default":  # which the library itself has read
            found.read(choice.state)
        check_state(description, choice.state, choice.missing)
        record = _record(library, name, weights, found)
    except (NetworkError, ValueError, OSError) as error:
        other = _network_that_fits(found, name, time.monotonic() + _GUESS_SECONDS)
        fitting = f"; they fit {other}" if other else ""
        raise InvalidModelDirectoryError(UNTRAINED_MODEL, f"in {source}, {error}{fitting}", _HINT) from error
    log_choice(source, choice)
    network.load_state_dict(choice.state, strict=False)
    return network, record


def _record(library: ModelLibrary, name: str, weights: str, found: WeightFile) -> WeightsRecord:
    if weights != "default":
        file_name = "".join(letter if letter.isprintable() else "?" for letter in found.path.name)
        return library.record(name, sha256_of(found.path).hex(), file_name)
    file = library.cached_file(name)
    return library.record(name, sha256_of(file).hex() if file else digest_of(found.content))


def _log(record: WeightsRecord) -> None:
    mean, std = (",".join(f"{value:g}" for value in channels) for channels in (record.mean, record.std))
    logger.info(
        "The weights were made for images with mean %s and std %s; if that is wrong, give --weights-mean and "
        "--weights-std. Training normalizes images accordingly.",
        mean,
        std,
    )


def _open(library: ModelLibrary, name: str, weights: str) -> tuple[str, WeightFile]:
    """Return where weights come from, and their file."""
    if weights == "default":
        address = library.address(name)
        return address, WeightFile(Path(address), _download(library, name), [])
    path = Path(weights)
    try:
        if path.is_dir():
            path = _file_in(path, library.weight_files(name))
        elif not path.is_file():
            raise ValueError(f"the weights {weights!r} are neither a file nor a folder")
        return str(path), open_weights(path)
    except ValueError as error:
        raise InvalidModelDirectoryError(UNTRAINED_MODEL, str(error), _HINT) from error


def _file_in(folder: Path, names: list[str]) -> Path:
    """Return the file of weights in a folder: one of the library's names, or the only one.

    Raises:
        ValueError: if there is none, or several.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
    if kind := kind_of_folder(folder):
        raise ValueError(f"the folder {folder} {kind}")
    found = sorted(file for file in folder.iterdir() if file.name.lower().endswith(_ENDINGS) and file.is_file())
    if len(found) == 1:
        return found[0]
    several = f"; it contains {shown([file.name for file in found[:5]])}, of which you may give one" if found else ""
    raise ValueError(f"the folder {folder} contains none of {', '.join(names)}{several}")


def _network_that_fits(weights: WeightFile, name: str, deadline: float) -> str:
    """Return the name of another network that weights fit; "" if none is found until a time, in seconds."""
    builders = torchvision_builders()
    module = get_model_builder(name).__module__ if name in builders else ""
    names = [f"timm/{name}"] if name in builders and name in timm_models() else []
    names += sorted(builders, key=lambda other: get_model_builder(other).__module__ != module)
    for other in names:
        found = library_of(other)
        if found is not None and time.monotonic() < deadline:
            with contextlib.suppress(NetworkError, ValueError):
                choose_weights(weights, found[0].describe(found[1], {}), needs_head=False)
                return other
    return ""


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
