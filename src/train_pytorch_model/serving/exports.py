"""Exports a trained model to MLflow or ONNX, in addition to its own files."""

from __future__ import annotations

import errno
import json
import os
import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from train_pytorch_model.data.file_systems import is_disk_full, temporary_folder
from train_pytorch_model.errors import UserError, first_line
from train_pytorch_model.models.network import logits_of
from train_pytorch_model.serving.files import MODEL_SOURCES, SERVING_FILES, requirements

if TYPE_CHECKING:
    from train_pytorch_model.data.image_geometry import Geometry
    from train_pytorch_model.data.model_task import Task
    from train_pytorch_model.models.description import NetworkDescription

MLFLOW_FOLDER = "mlflow_model"
ONNX_FILE = "model.onnx"
_HERE = Path(__file__).parent


def check_formats(format_names: tuple[str, ...]) -> None:
    """Check, before any work, that the libraries of the formats are installed.

    Args:
        format_names: "mlflow" or "onnx" or both.

    Raises:
        UserError: if one is not installed.
    """
    missing = [name for name in format_names if find_spec(name) is None]
    if missing:
        raise UserError(
            f"--export {missing[0]} needs the package {missing[0]!r}, which is not installed. "
            "Install it, or omit the flag."
        )


def export(format_name: str, folder: Path, network: nn.Module, description: NetworkDescription, **what: Any) -> None:
    """Export a model into its own folder.

    Args:
        format_name: "mlflow" or "onnx".
        folder: the complete ModelDirectory.
        network: the trained network, on the CPU.
        description: the description that the network was built from.
        what: `labels` in the order of the outputs, `mean` and `std` of each channel, `image_size` in pixels,
            `geometry`, None if the network sees images as they are, and the `task`, None if it is `multiclass`.

    Raises:
        UserError: if the network cannot be expressed in the format.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about deprecations and type hints within the exporters
            if format_name == "mlflow":
                _export_mlflow(folder, description)
            else:
                _export_onnx(folder / ONNX_FILE, network, **what)
    except OSError as error:
        full = _disk_full_in(error)
        if full is None or full is error:
            raise  # the writer of the folder reports errors of the disk
        raise full from error
    except Exception as error:  # the exceptions of exporters are not documented
        if full := _disk_full_in(error):
            raise full from error
        raise UserError(
            f"The model cannot be exported to {format_name}: {first_line(error)}. Omit --export {format_name}."
        ) from error


def _disk_full_in(error: BaseException) -> OSError | None:
    """Return the error of a full disk that an exporter has wrapped in an exception of its own, if there is one."""
    text = os.strerror(errno.ENOSPC)
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and is_disk_full(inner):
            return inner
        if text in str(inner):  # of code in C++, which has no OSError
            return OSError(errno.ENOSPC, text)
        inner = inner.__cause__ or inner.__context__
    return None


class _FromPixels(nn.Module):
    """A network from pixels to probabilities, including the normalisation."""

    def __init__(
        self, network: nn.Module, mean: list[float], std: list[float], *, is_multilabel: bool, averages_mirrored: bool
    ) -> None:
        super().__init__()
        self.network = network
        self.is_multilabel = is_multilabel
        self.averages_mirrored = averages_mirrored
        self.mean, self.std = (nn.Buffer(torch.tensor(values).view(3, 1, 1)) for values in (mean, std))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute probabilities, float32 of shape (B, labels), from uint8 pixels of shape (B, 3, height, width)."""
        given = (images.float() / 255 - self.mean) / self.std
        probabilities = self._probabilities(given)
        return (probabilities + self._probabilities(given.flip(3))) / 2 if self.averages_mirrored else probabilities

    def _probabilities(self, given: torch.Tensor) -> torch.Tensor:
        logits = logits_of(self.network(given))
        return logits.sigmoid() if self.is_multilabel else logits.softmax(1)


def _export_onnx(
    path: Path,
    network: nn.Module,
    *,
    labels: list[str],
    mean: list[float],
    std: list[float],
    image_size: tuple[int, int],
    geometry: Geometry | None = None,
    task: Task | None = None,
) -> None:
    import onnx  # an optional dependency that is slow to import

    averages_mirrored = geometry is not None and geometry.averages_mirrored
    model = _FromPixels(network, mean, std, is_multilabel=task is not None, averages_mirrored=averages_mirrored).eval()
    example = torch.zeros(2, 3, *image_size, dtype=torch.uint8)
    torch.onnx.export(
        model,
        (example,),
        str(path),
        input_names=["images"],
        output_names=["probabilities"],
        dynamic_axes={"images": {0: "batch"}, "probabilities": {0: "batch"}},
        dynamo=False,
    )
    document = onnx.load(str(path))
    properties: dict[str, Any] = {"labels": labels}
    if task is not None:
        properties.update(task.to_dict())
    if geometry is not None and not geometry.keeps_images:
        # The pixels must have this geometry. The normalization is part of the network.
        properties.update(image_geometry=geometry.to_dict(), mean=mean, std=std)
    for key, value in properties.items():
        entry = document.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value)
    onnx.checker.check_model(document)
    onnx.save(document, str(path))


def _export_mlflow(folder: Path, description: NetworkDescription) -> None:
    import mlflow.pyfunc  # an optional dependency that is slow to import
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, Schema

    with temporary_folder("mlflow-") as work:
        data = work / "model"
        shutil.copytree(folder, data, ignore=shutil.ignore_patterns(*SERVING_FILES, MLFLOW_FOLDER, ONNX_FILE))
        code = [str(shutil.copy(source, work)) for source in (*MODEL_SOURCES, _HERE / "mlflow_loader.py")]
        mlflow.pyfunc.save_model(
            path=str(folder / MLFLOW_FOLDER),
            loader_module="mlflow_loader",
            data_path=str(data),
            code_paths=code,
            pip_requirements=["mlflow", "pandas", *requirements(description)],
            signature=ModelSignature(inputs=Schema([ColSpec("string", "image")])),
        )
