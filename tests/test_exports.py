"""A trained model in the forms that others take: MLflow and ONNX."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from tests.endpoints import as_json, check, image_files
from tests.making import Inputs, error_text, run_here
from train_pytorch_model.models.description import NetworkDescription
from train_pytorch_model.serving import exports

CLASSES = ("007", "<b>", "owl")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    inputs = Inputs(tmp_path_factory.mktemp("served")).make("resnet18", classes=CLASSES, size=48)
    assert inputs.fit(epochs=1, export="onnx") == 0
    return inputs


@pytest.fixture(scope="module")
def scored(trained: Inputs) -> pd.DataFrame:
    """What Score says of the validation images."""
    ports = {"trained_model": trained.trained, "dataset": trained.valid, "scored_dataset": trained.path / "scored"}
    assert run_here("score-image-model", **ports, outputs_path=trained.outputs) == 0
    return pd.read_parquet(trained.path / "scored" / "_data.parquet")


def test_onnxruntime_says_the_same_of_plain_pixels(trained: Inputs, scored: pd.DataFrame) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(trained.trained / "model.onnx"), providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["labels"]) == sorted(CLASSES)
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in image_files(trained)])
    (given,) = session.run(None, {"images": pixels.transpose(0, 3, 1, 2)})
    expected = scored[[name for name in scored if name.startswith("Scored Prob")]].to_numpy()
    assert np.abs(given - expected).max() < 1e-4


def test_of_a_network_that_gives_a_tuple_onnx_has_the_first_part(tmp_path: Path) -> None:
    import onnxruntime

    class Pair(nn.Module):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return images.mean((2, 3)), images

    what = {"labels": ["a", "b", "c"], "mean": [0.5] * 3, "std": [0.5] * 3, "image_size": (4, 4)}
    exports.export("onnx", tmp_path, Pair(), NetworkDescription("network", "Pair"), **what)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 4), dtype=np.uint8)
    (given,) = session.run(None, {"images": pixels})
    logits = torch.from_numpy((pixels / 255 - 0.5) / 0.5).mean((2, 3))
    assert given == pytest.approx(logits.softmax(1).numpy(), abs=1e-6)


def test_mlflow_loads_the_model_away_from_this_project(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path).make("squeezenet1_1", size=64)
    assert inputs.fit(epochs=1, export="mlflow") == 0
    ports = {"trained_model": inputs.trained, "dataset": inputs.valid, "scored_dataset": tmp_path / "scored"}
    assert run_here("score-image-model", **ports, outputs_path=inputs.outputs) == 0
    expected = pd.read_parquet(tmp_path / "scored" / "_data.parquet")
    images = [entry["image"] for entry in as_json(image_files(inputs))]
    (tmp_path / "images.json").write_text(json.dumps(images))
    code = (
        "import sys; sys.meta_path = [f for f in sys.meta_path if '__editable__' not in str(f)]\n"
        "sys.path = [p for p in sys.path if not p.endswith('/src')]\n"
        "import json, mlflow, pandas\n"
        "model = mlflow.pyfunc.load_model(sys.argv[1])\n"
        "answer = model.predict(pandas.DataFrame({'image': json.load(open(sys.argv[2]))}))\n"
        "print(answer.to_json(orient='split'))\n"
    )
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, inputs.trained / "mlflow_model", tmp_path / "images.json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "MLFLOW_TRACKING_URI": ""},
    )
    assert finished.returncode == 0, finished.stderr
    given = json.loads(finished.stdout.splitlines()[-1])
    check({"columns": given["columns"], "result": given["data"]}, expected)


def test_an_export_without_its_library_is_reported_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = Inputs(tmp_path).make()
    monkeypatch.setattr(exports, "find_spec", lambda name: None if name == "onnx" else name)
    assert inputs.fit(export="onnx") == 1
    assert "--export onnx needs the package 'onnx'" in error_text(inputs.outputs)
    assert not (inputs.outputs / "metrics.jsonl").exists()


def test_an_export_that_fails_does_not_lose_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = Inputs(tmp_path).make()

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(exports, "_export_onnx", fail)
    assert inputs.fit(export="onnx") == 1
    assert "cannot be exported to onnx: no such operator" in error_text(inputs.outputs)
    assert not inputs.trained.exists()
    assert (inputs.outputs / "checkpoints" / "best" / "model").is_file()


def test_a_disk_that_is_full_is_no_fault_of_the_format(tmp_path: Path) -> None:
    description = NetworkDescription("torchvision.models", "squeezenet1_1", {"num_classes": 2})
    (tmp_path / "model.onnx").symlink_to("/dev/full")
    what = {"labels": ["a", "b"], "mean": [0.5] * 3, "std": [0.5] * 3, "image_size": (32, 32)}
    with pytest.raises(OSError, match="No space left on device"):
        exports.export("onnx", tmp_path, description.build(), description, **what)


@pytest.mark.parametrize(
    "fault",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        shutil.Error([("a", "b", "[Errno 28] No space left on device: 'b'")]),
        RuntimeError("[enforce fail at inline_container.cc:668] . file write failed: No space left on device"),
    ],
    ids=["an exception", "a quota", "shutil", "C++"],
)
def test_a_full_disk_that_an_exporter_wraps_is_named(
    fault: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = Inputs(tmp_path).make()

    def fail(*_: object, **__: object) -> None:
        try:
            raise fault
        except Exception as error:
            if isinstance(error, shutil.Error):
                raise
            raise ValueError("the model could not be saved") from error

    monkeypatch.setattr(exports, "_export_mlflow", fail)
    assert inputs.fit(export="mlflow") == 1
    message = error_text(inputs.outputs)
    assert "The disk is full" in message
    assert "Omit --export" not in message
    assert not inputs.trained.exists()
