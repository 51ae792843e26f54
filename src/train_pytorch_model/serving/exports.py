"""The trained model in forms that others take, beside its own files: an MLflow model and an ONNX file."""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from train_pytorch_model.errors import UserError, first_line
from train_pytorch_model.serving.files import SERVING_FILES, requirements

if TYPE_CHECKING:
    from train_pytorch_model.models.network import NetworkDescription

MLFLOW_FOLDER = "mlflow_model"
ONNX_FILE = "model.onnx"
_HERE = Path(__file__).parent


def check_formats(format_names: tuple[str, ...]) -> None:
    """Make sure, before any work, that the libraries of the formats are installed.

    Raises:
        UserError: when one is not.
    """
    missing = [name for name in format_names if find_spec(name) is None]
    if missing:
        raise UserError(
            f"--export {missing[0]} needs the package {missing[0]!r}, which is not installed. "
            "Install it, or leave out the flag."
        )


def export(format_name: str, folder: Path, network: nn.Module, description: NetworkDescription, **what: Any) -> None:
    """Write one more form of a model into its folder.

    Args:
        format_name: "mlflow" or "onnx".
        folder: of the model, complete.
        network: the trained one, on the CPU.
        description: of the network.
        what: `labels` in the order of the outputs, `mean` and `std` of each channel, `image_size` in pixels.

    Raises:
        UserError: when the format cannot say what the network does.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of their own future, and of type hints within them
            if format_name == "mlflow":
                _export_mlflow(folder, description)
            else:
                _export_onnx(folder / ONNX_FILE, network, **what)
    except OSError:
        raise  # of the disk, which the folder's writer tells of
    except Exception as error:  # exporters raise whatever they come upon
        raise UserError(
            f"The model cannot be exported to {format_name}: {first_line(error)}. Leave out --export {format_name}."
        ) from error


class _FromPixels(nn.Module):
    """A network from pixels to probabilities, with the normalisation inside."""

    def __init__(self, network: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.network = network
        self.mean, self.std = (nn.Buffer(torch.tensor(values).view(3, 1, 1)) for values in (mean, std))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Probabilities, float32 of shape (B, classes), of uint8 pixels of shape (B, 3, height, width)."""
        logits: torch.Tensor = self.network((images.float() / 255 - self.mean) / self.std)
        return logits.softmax(1)


def _export_onnx(
    path: Path,
    network: nn.Module,
    *,
    labels: list[str],
    mean: list[float],
    std: list[float],
    image_size: tuple[int, int],
) -> None:
    import onnx  # heavy, and only asked for by few

    model = _FromPixels(network, mean, std).eval()
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
    entry = document.metadata_props.add()
    entry.key, entry.value = "labels", json.dumps(labels)
    onnx.checker.check_model(document)
    onnx.save(document, str(path))


def _export_mlflow(folder: Path, description: NetworkDescription) -> None:
    import mlflow.pyfunc  # likewise
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, Schema

    with tempfile.TemporaryDirectory(prefix="mlflow-") as work:
        data = Path(work) / "model"
        shutil.copytree(folder, data, ignore=shutil.ignore_patterns(*SERVING_FILES, MLFLOW_FOLDER, ONNX_FILE))
        code = [str(shutil.copy(_HERE / name, work)) for name in ("served_model.py", "mlflow_loader.py")]
        mlflow.pyfunc.save_model(
            path=str(folder / MLFLOW_FOLDER),
            loader_module="mlflow_loader",
            data_path=str(data),
            code_paths=code,
            pip_requirements=["mlflow", "pandas", *requirements(description)],
            signature=ModelSignature(inputs=Schema([ColSpec("string", "image")])),
        )
