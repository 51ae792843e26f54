"""Reads model directories: the port "Untrained model", and trained models.

Directories come from four sources: this package, which names builders of torchvision and timm; the retired modules that
initialize DenseNet and ResNet; other tools that name a network class of torchvision or timm; and earlier training runs.
"""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchvision.models import get_model_builder

from train_pytorch_model import designer_core
from train_pytorch_model.data.file_hashes import sha256_of
from train_pytorch_model.data.model_task import TASK_FILE, Task
from train_pytorch_model.errors import UNTRAINED_MODEL, InvalidModelDirectoryError, UserError
from train_pytorch_model.models.description import NetworkDescription, describe, torchvision_builders
from train_pytorch_model.models.network_rules import NetworkError
from train_pytorch_model.models.weight_choice import Choice, choose_weights, log_choice
from train_pytorch_model.models.weight_records import RECORD_FILE, WeightsRecord
from train_pytorch_model.models.weights import WeightFile, open_weights
from train_pytorch_model.ports.geometry_file import read_geometry
from train_pytorch_model.ports.local_code import import_local_code, look_in_working_directory
from train_pytorch_model.ports.named_files import find_file
from train_pytorch_model.ports.retired_models import describe_retired, is_retired, retired_record, unwrapped
from train_pytorch_model.ports.small_files import MAX_YAML_BYTES, check_yaml, read_meta, read_text
from train_pytorch_model.ports.task_file import ONE_CLASS, read_task
from train_pytorch_model.text.wording import MAX_SHOWN, shown

if TYPE_CHECKING:
    import torch

    from train_pytorch_model.data.image_geometry import Geometry

logger = logging.getLogger(__name__)

_NORMALIZER = "ImageNormalizer"
_LOCAL_DEPENDENCIES_FILE = "local_dependencies.zip"
# The number of values in the arguments of a network. The longest known list, of layers, has about a hundred.
_MAX_VALUES = 10_000
# The limits for label maps, much larger than any real one.
_MAX_LABELS_BYTES = 2**26
_MAX_OUTPUTS = 10**6


@dataclass(frozen=True)
class UntrainedModel:
    """The content of a model directory: how to build the network, and its weights."""

    path: Path
    description: NetworkDescription
    state: dict[str, torch.Tensor]
    labels: tuple[str, ...] | None
    """The label of each output if the model is trained."""
    code_folders: tuple[str, ...] = ()
    """Folders of the model's own code, which is copied into models that are trained from it."""
    normalisations: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    """Mean and std of each channel, by the name of the image column."""
    missing: frozenset[str] = frozenset()
    """Entries of the head that `state` does not have, because the weights have none of its size."""
    pretrained: WeightsRecord | None = None
    """What the weights are if the model is untrained and they are pretrained."""
    geometry: Geometry | None = None
    """How images become the pixels that a trained network sees; None if it sees them as they are."""
    task: Task = ONE_CLASS
    """What a trained network predicts."""


def read_untrained_model(path: Path, *, trust_code: bool) -> UntrainedModel:
    """Read the port "Untrained model": an UntrainedModelDirectory, or a trained ModelDirectory to continue from.

    Args:
        path: the folder.
        trust_code: whether the model may name any code, including its own `local_dependencies`.

    Raises:
        InvalidModelDirectoryError: if the directory cannot be used; the message says why and what to do.
    """
    hint = "Give the output of an initialize-model step, or a trained model."
    return read_model(path, UNTRAINED_MODEL, hint, trust_code=trust_code, needs_head=False)


def read_model(path: Path, port: str, hint: str, *, trust_code: bool, needs_head: bool = True) -> UntrainedModel:
    """Read a ModelDirectory, trained or not.

    Args:
        path: the folder.
        port: the name of the port in messages.
        hint: what to do if the directory cannot be used.
        trust_code: whether the model may name any code, including its own `local_dependencies`.
        needs_head: whether the weights must have a head of the network's size. Those of a trained model always must.

    Raises:
        InvalidModelDirectoryError: if the directory cannot be used; the message says why and what to do.
    """
    try:
        spec = _read_spec(path)
        code_folders: tuple[str, ...] = ()
        if trust_code:
            look_in_working_directory()
            if spec.get("local_dependencies"):
                code_folders = import_local_code(find_file(path, _LOCAL_DEPENDENCIES_FILE))
        file = find_file(path, spec.get("model_file"), "the file of weights (key 'model_file')")
        labels = _read_labels(path, spec)
        geometry = read_geometry(path)
        task = _read_task(path, spec, labels)
        normalisations = _normalisations(spec)
        weights = open_weights(file)
        sha256 = sha256_of(file).hex()
        logger.info("Weights of %s: SHA-256 %s.", file, sha256)
        needs_head = needs_head or labels is not None
        description, choice = _describe(spec, weights, trust_code=trust_code, needs_head=needs_head)
        weights.read(choice.state)
        log_choice(file, choice)
        pretrained = _read_record(path, spec["flavor_extras"], sha256) if labels is None else None
    except (ValueError, OSError, NetworkError) as error:
        raise InvalidModelDirectoryError(port, f"in {path}, {error}", hint) from error
    return UntrainedModel(
        path,
        description,
        choice.state,
        labels,
        code_folders,
        normalisations,
        choice.missing,
        pretrained,
        geometry,
        task,
    )


def _read_spec(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise ValueError("the folder does not exist")
    meta = read_meta(path, "ModelDirectory")
    file = find_file(path, meta.get("model"), "the model specification (key 'model' of _meta.yaml)")
    try:
        check_yaml(file.name, read_text(file, MAX_YAML_BYTES))
        spec = designer_core.load_model_spec(path)
    except UserError:  # designer-core is not installed
        raise
    except Exception as error:  # designer-core raises all errors of its YAML library
        raise ValueError(f"the model specification cannot be read: {str(error)[:MAX_SHOWN]}") from error
    if not isinstance(spec, dict):
        raise ValueError("the model specification is not a mapping")
    if "flavor" not in spec:
        kind = "a pickled model" if spec.get("model_type") == "pickle" else "not a PyTorch model"
        raise ValueError(f"it is {kind}; a PyTorch model saved as a state_dict is needed")
    flavor = spec["flavor"] if isinstance(spec["flavor"], dict) else {"name": spec["flavor"]}
    if flavor.get("name") != "pytorch" or flavor.get("serialization_method", "state_dict") != "state_dict":
        raise ValueError(
            f"its flavor is {shown(flavor)}; a PyTorch model saved as a state_dict "
            "(name pytorch, serialization_method state_dict) is needed"
        )
    if spec.get("task_type", "MultiClassification") not in ("MultiClassification", designer_core.MULTILABEL_TASK_TYPE):
        raise ValueError(f"its task_type is {shown(spec['task_type'])}; only MultiClassification can be trained")
    return spec


def _describe(
    spec: dict[str, Any], weights: WeightFile, *, trust_code: bool, needs_head: bool
) -> tuple[NetworkDescription, Choice]:
    extras = spec.get("flavor_extras")
    module, name = (extras.get("module"), extras.get("class")) if isinstance(extras, dict) else (None, None)
    if not isinstance(extras, dict) or not isinstance(module, str) or not isinstance(name, str):
        raise ValueError("the model specification has no 'module' and 'class' under 'flavor_extras'")
    if max(len(module), len(name)) > MAX_SHOWN:
        raise ValueError(f"the model specification has a 'module' or 'class' of more than {MAX_SHOWN} characters")
    init_params = extras.get("init_params") or {}
    if not isinstance(init_params, dict) or not all(isinstance(key, str) for key in init_params):
        raise ValueError("'init_params' is not a mapping of names to values")
    if not _is_plain(init_params, [_MAX_VALUES]):
        raise ValueError(f"'init_params' has more than {_MAX_VALUES} values, or values other than numbers and text")
    if is_retired(module):
        description = describe_retired(init_params)
        return description, choose_weights(unwrapped(weights, module), description, needs_head=needs_head)
    return _buildable(describe(module, name, init_params, trust_code=trust_code), weights, needs_head=needs_head)


def _read_record(path: Path, extras: dict[str, Any], sha256: str) -> WeightsRecord | None:
    """The record of pretrained weights: that of the directory, or for a retired model that of ImageNet."""
    if not os.path.lexists(path / RECORD_FILE):
        return retired_record(extras.get("init_params") or {}, sha256) if is_retired(extras["module"]) else None
    try:
        return WeightsRecord.from_json(read_text(find_file(path, RECORD_FILE), MAX_YAML_BYTES))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{RECORD_FILE} is damaged: {error}. Run initialize-model again, or remove the file to train with mean and "
            "std 0.5"
        ) from error


def _is_plain(value: Any, left: list[int]) -> bool:
    """Whether a value consists of a limited number of plain values. A YAML alias counts each time it is used."""
    left[0] -= 1
    if left[0] < 0:
        return False
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item, left) for key, item in value.items())
    if isinstance(value, list):
        return all(_is_plain(item, left) for item in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _buildable(
    description: NetworkDescription, weights: WeightFile, *, needs_head: bool
) -> tuple[NetworkDescription, Choice]:
    """Return the description, or that of the torchvision builder whose network fits the weights, and the weights.

    The retired Train module writes the class of the network, without the arguments that the builder gave to the class.

    Raises:
        NetworkError: if the weights do not fit.
    """
    try:
        return description, choose_weights(weights, description, needs_head=needs_head)
    except NetworkError:
        names = (name for name in torchvision_builders() if get_model_builder(name).__module__ == description.module)
        for candidate in (describe("torchvision.models", name, description.init_params) for name in names):
            with contextlib.suppress(NetworkError):
                return candidate, choose_weights(weights, candidate, needs_head=needs_head)
        raise


def _read_labels(path: Path, spec: dict[str, Any]) -> tuple[str, ...] | None:
    if spec.get("label_map_file") is None:
        return None
    file = find_file(path, spec["label_map_file"], "the label map (key 'label_map_file')")
    try:
        rows = list(csv.reader(io.StringIO(read_text(file, _MAX_LABELS_BYTES), newline="")))
        column = rows[0].index("label")
        by_index = {int(row[0]): row[column] for row in rows[1:] if row}
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise ValueError(f"{file.name} is not a table of indices and labels: {str(error)[:MAX_SHOWN]}") from error
    if max(by_index, default=0) > _MAX_OUTPUTS:
        raise ValueError(f"{file.name} has a label for output {shown(max(by_index))}; the limit is {_MAX_OUTPUTS}")
    return tuple(by_index.get(index, str(index)) for index in range(max(by_index, default=-1) + 1))


def _read_task(path: Path, spec: dict[str, Any], labels: tuple[str, ...] | None) -> Task:
    task = read_task(path, labels or ())
    if task.is_multilabel != (spec.get("task_type") == designer_core.MULTILABEL_TASK_TYPE):
        found = "there is" if task.is_multilabel else "there is no"
        raise ValueError(f"its task_type is {shown(spec.get('task_type'))}, but {found} {TASK_FILE}")
    return task


def _normalisations(spec: dict[str, Any]) -> dict[str, tuple[list[float], list[float]]]:
    found = {}
    try:
        for entry in spec.get("inputs") or []:
            processor = entry.get("pre_processor") or {}
            if not processor:
                continue
            if processor["class"] != _NORMALIZER:
                raise ValueError(f"the pre_processor {shown(processor['class'])} is not supported; {_NORMALIZER} is")
            params = processor["init_params"]
            mean, std = (_numbers(params[key]) for key in ("mean", "std"))
            if not len(mean) == len(std) == 3:
                raise ValueError(f"mean {shown(mean)} and std {shown(std)} are not three numbers each")
            if not all(map(math.isfinite, (*mean, *std))) or 0 in std:
                raise ValueError(f"images cannot be normalized with mean {shown(mean)} and std {shown(std)}")
            found[str(entry.get("name"))] = (mean, std)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"the inputs of the model specification are damaged: {type(error).__name__}: {str(error)[:MAX_SHOWN]}"
        ) from error
    return found


def _numbers(values: Any) -> list[float]:
    try:
        return [float(value) for value in values]
    except ValueError as error:
        raise ValueError(f"mean and std must be numbers, not {shown(values)}") from error
