"""The only module that imports azureml-designer-core. Its version 0.0.86 is the last release that contains code.

The import of that package needs two names that current versions of Python and pandas no longer have, and it has side
effects: it adds a handler to the root logger, sets its loggers to DEBUG (a line per image), and makes Pillow accept
truncated images and long comments. Here, the names exist during the import, and the side effects are undone.
"""

from __future__ import annotations

import collections
import collections.abc
import errno
import importlib
import logging
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from PIL import ImageFile, PngImagePlugin

from train_pytorch_model.errors import UserError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

_IMAGE_DIRECTORY = "azureml.studio.core.io.image_directory"
_MODEL_DIRECTORY = "azureml.studio.core.io.model_directory"
_MODEL_META = "azureml.designer.core.model.model_spec.builtin_model_meta"
_STATE_DICT_MODEL = "azureml.designer.core.model.builtin_models.pytorch.state_dict"

MULTILABEL_TASK_TYPE = "MultiLabelClassification"
MODEL_SPEC_FILE = "model_spec.yaml"
INSTALL_COMMAND = "python -m pip install --no-deps azureml-designer-core==0.0.86"


@contextmanager
def _names_of_older_libraries() -> Iterator[None]:
    """Provide `collections.Iterable` (removed in Python 3.10) and `is_string_like_dtype` (removed in pandas 1.2)."""
    pandas_types = importlib.import_module("pandas.core.dtypes.common")
    added: list[tuple[Any, str]] = []
    for owner, name, value in (
        (collections, "Iterable", collections.abc.Iterable),
        (pandas_types, "is_string_like_dtype", lambda _: False),
    ):
        if not hasattr(owner, name):
            setattr(owner, name, value)
            added.append((owner, name))
    try:
        yield
    finally:
        for owner, name in added:
            delattr(owner, name)


def _import(module: str) -> Any:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    accepts_truncated, text_bytes = ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_CHUNK
    try:
        with _names_of_older_libraries():
            return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"azureml-designer-core 0.0.86 is required, but {module} cannot be imported: {error}. "
            f"Install it without its pins, which no current Python can meet: {INSTALL_COMMAND}"
        ) from error
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_CHUNK = accepts_truncated, text_bytes
        logging.getLogger("studio").setLevel(logging.ERROR)


def import_designer_core() -> None:
    """Import what reading and writing of model directories needs.

    Raises:
        UserError: if designer-core is not installed.
    """
    for module in (_IMAGE_DIRECTORY, _MODEL_DIRECTORY, _STATE_DICT_MODEL):
        _import(module)


def load_image_directory(path: Path) -> Any:
    """Load an ImageDirectory, or a folder of raw images in one of designer-core's layouts, with its helper.

    Args:
        path: the folder. If an ImageDirectory is damaged, the helper guesses another layout, so check it first.

    Returns:
        designer-core's `ImageDirectory`, with `image_list` (list of dict), `schema` (dict) and `dump(folder)`.

    Raises:
        ValueError: if no layout fits or no image is found.
    """
    return _import(_IMAGE_DIRECTORY).ImageDirectory.load(str(path))


def load_model_spec(path: Path) -> dict[str, Any]:
    """Load the specification of a ModelDirectory or UntrainedModelDirectory with designer-core's helper."""
    spec: dict[str, Any] = _import(_MODEL_DIRECTORY).ModelDirectory.load_model_spec(str(path))
    return spec


def dump_untrained_model(folder: Path, network: nn.Module, flavor_extras: dict[str, Any]) -> None:
    """Write an UntrainedModelDirectory with designer-core's helper.

    Args:
        folder: the folder to write; created if it does not exist.
        network: the network; its `state_dict()` is saved unchanged.
        flavor_extras: `module`, `class`, `init_params` and `is_cuda`, which describe how to build the network.
    """
    meta = _import(f"{_MODEL_META}.builtin_model_meta").BuiltinModelMeta(
        flavor_extras=flavor_extras, task_type=_multi_classification()
    )
    _dump(_model_directory(network, meta), network, folder)


def dump_trained_model(
    folder: Path,
    network: nn.Module,
    flavor_extras: dict[str, Any],
    *,
    image_column: str,
    index_to_label: dict[int, str],
    mean: list[float],
    std: list[float],
    local_dependencies: list[str] | None = None,
    is_multilabel: bool = False,
) -> None:
    """Write a ModelDirectory for Score Image Model with designer-core's helper.

    Args:
        folder: the folder to write; created if it does not exist.
        network: the network; its `state_dict()` is saved unchanged.
        flavor_extras: `module`, `class`, `init_params` and `is_cuda`, which describe how to build the network.
        image_column: the name of the image column. Score Image Model normalizes only a column with this name.
        index_to_label: the label of each output: the rows of `index_to_label.csv`.
        mean: the mean of each of the three channels, for pixels in [0, 1].
        std: the standard deviation of each of the three channels, for pixels in [0, 1].
        local_dependencies: folders of code to add to the model as an archive.
        is_multilabel: whether an image may have several labels. The helper knows no such task: the retired Score Image
            Model fails when it reads the type, instead of applying softmax.
    """
    normalizer = _import(f"{_MODEL_META}.pre_processor").ImageNormalizer(mean, std)
    model_input = _import(f"{_MODEL_META}.model_input").ModelInput(name=image_column, pre_processor=normalizer)
    meta = _import(f"{_MODEL_META}.builtin_model_meta").BuiltinModelMeta(
        flavor_extras=flavor_extras,
        model_inputs=[model_input],
        task_type=SimpleNamespace(name=MULTILABEL_TASK_TYPE) if is_multilabel else _multi_classification(),
        label_map=_import(f"{_MODEL_META}.label_map").LabelMap.create_from_dict(index_to_label),
    )
    directory = _model_directory(network, meta, local_dependencies)
    # The designer reads these two fields to register the model from the outputs of the run.
    directory.meta.update_field("registerModel", True, override=True)
    directory.meta.update_field("modelOutputPath", "trained_model_outputs", override=True)
    _dump(directory, network, folder)


def _multi_classification() -> Any:
    return _import(f"{_MODEL_META}.task_type").TaskType.MultiClassification


def _model_directory(network: nn.Module, meta: Any, local_dependencies: list[str] | None = None) -> Any:
    model = _import(_STATE_DICT_MODEL).PytorchStateDictModel(network, meta)
    return _import(_MODEL_DIRECTORY).ModelDirectory.create(model=model, local_dependencies=local_dependencies)


def _dump(directory: Any, network: nn.Module, folder: Path) -> None:
    """Write a model directory.

    Raises:
        OSError: if the weights cannot be written. PyTorch's own RuntimeError does not say that a disk is full.
    """
    try:
        directory.dump(str(folder))
    except RuntimeError as error:
        if "inline_container" not in str(error) and "PytorchStreamWriter" not in str(error):
            raise
        file = folder / "model"
        with file.open("wb") as opened:  # as many bytes, to get the error of the operating system
            for value in network.state_dict().values():
                opened.write(bytes(value.numel() * value.element_size()))
        raise OSError(errno.EIO, first_line(error), str(file)) from error
