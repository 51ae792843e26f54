"""The one door to azureml-designer-core 0.0.86, the last release with code in it.

Importing that package does five things to its surroundings: it needs two names that newer Pythons and pandas no
longer have, adds a handler to the root logger, lowers its loggers to DEBUG (a line an image), and makes Pillow accept
truncated images and long comments everywhere. Here the names exist while it imports, and the rest is put back.
"""

from __future__ import annotations

import collections
import collections.abc
import importlib
import logging
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import ImageFile, PngImagePlugin

from train_pytorch_model.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

_IMAGE_DIRECTORY = "azureml.studio.core.io.image_directory"
_MODEL_DIRECTORY = "azureml.studio.core.io.model_directory"
_MODEL_META = "azureml.designer.core.model.model_spec.builtin_model_meta"
_STATE_DICT_MODEL = "azureml.designer.core.model.builtin_models.pytorch.state_dict"

MODEL_SPEC_FILE = "model_spec.yaml"
INSTALL_COMMAND = "python -m pip install --no-deps azureml-designer-core==0.0.86"


@contextmanager
def _names_of_older_libraries() -> Iterator[None]:
    """Provide `collections.Iterable` (gone in Python 3.10) and `is_string_like_dtype` (gone in pandas 1.2)."""
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


def load_image_directory(path: Path) -> Any:
    """Load an ImageDirectory, or a raw folder in one of designer-core's layouts, with designer-core's own helper.

    Args:
        path: the folder. The helper falls back to guessing when an ImageDirectory is damaged: check that first.

    Returns:
        designer-core's `ImageDirectory`; it has `image_list` (list of dict), `schema` (dict), `dump(folder)`.

    Raises:
        ValueError: when no layout fits or no image is found.
    """
    return _import(_IMAGE_DIRECTORY).ImageDirectory.load(str(path))


def load_model_spec(path: Path) -> dict[str, Any]:
    """Load the specification of a ModelDirectory or UntrainedModelDirectory with designer-core's own helper."""
    spec: dict[str, Any] = _import(_MODEL_DIRECTORY).ModelDirectory.load_model_spec(str(path))
    return spec


def dump_untrained_model(folder: Path, network: nn.Module, flavor_extras: dict[str, Any]) -> None:
    """Write an UntrainedModelDirectory of `network` into `folder` with designer-core's own helper.

    Args:
        folder: where to write; made when absent.
        network: its `state_dict()` is saved as it is.
        flavor_extras: `module`, `class`, `init_params` and `is_cuda`, which say how to build the network again.
    """
    meta = _import(f"{_MODEL_META}.builtin_model_meta").BuiltinModelMeta(
        flavor_extras=flavor_extras, task_type=_multi_classification()
    )
    _model_directory(network, meta).dump(str(folder))


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
) -> None:
    """Write a ModelDirectory that Score Image Model takes, with designer-core's own helper.

    Args:
        folder: where to write; made when absent.
        network: its `state_dict()` is saved as it is.
        flavor_extras: `module`, `class`, `init_params` and `is_cuda`, which say how to build the network again.
        image_column: name of the image column; Score normalises only a column of exactly this name.
        index_to_label: the label of each output, rows of `index_to_label.csv`.
        mean: of each of the three channels, subtracted from pixels in [0, 1].
        std: of each of the three channels, divided by.
        local_dependencies: folders of code to pack beside the model.
    """
    normalizer = _import(f"{_MODEL_META}.pre_processor").ImageNormalizer(mean, std)
    model_input = _import(f"{_MODEL_META}.model_input").ModelInput(name=image_column, pre_processor=normalizer)
    meta = _import(f"{_MODEL_META}.builtin_model_meta").BuiltinModelMeta(
        flavor_extras=flavor_extras,
        model_inputs=[model_input],
        task_type=_multi_classification(),
        label_map=_import(f"{_MODEL_META}.label_map").LabelMap.create_from_dict(index_to_label),
    )
    directory = _model_directory(network, meta, local_dependencies)
    # The designer reads these two to register the model from the run's outputs.
    directory.meta.update_field("registerModel", True, override=True)
    directory.meta.update_field("modelOutputPath", "trained_model_outputs", override=True)
    directory.dump(str(folder))


def _multi_classification() -> Any:
    return _import(f"{_MODEL_META}.task_type").TaskType.MultiClassification


def _model_directory(network: nn.Module, meta: Any, local_dependencies: list[str] | None = None) -> Any:
    model = _import(_STATE_DICT_MODEL).PytorchStateDictModel(network, meta)
    return _import(_MODEL_DIRECTORY).ModelDirectory.create(model=model, local_dependencies=local_dependencies)
