"""The real commands on a GPU, each in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas
import pytest
import torch

from tests.making import ROOT, flags_of, read_json_lines, write_image_directory
from tests.served_models import write_model

pytestmark = pytest.mark.gpu

RESUME = 75  # the exit code of a run that saved a checkpoint and can be continued


def _command(name: str, **flags: object) -> list[str]:
    return [sys.executable, "-m", "train_pytorch_model", name, *flags_of(flags)]


def _run(name: str, **flags: object) -> str:
    """Run a command to its end; return what it printed and logged."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])}
    finished = subprocess.run(_command(name, **flags), capture_output=True, text=True, env=environment)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout + finished.stderr


@pytest.fixture(name="path")
def _path(device: torch.device, tmp_path: Path) -> Path:
    """A folder with images of four classes, of which a network learns some."""
    try:
        found = importlib.util.find_spec("azureml.studio.core")
    except ModuleNotFoundError:
        found = None
    if found is None:
        pytest.skip("azureml-designer-core is not installed")
    for part, per_class, seed in (("train", 40, 0), ("valid", 13, 1)):
        write_image_directory(tmp_path / part, classes="abcd", per_class=per_class, size=96, seed=seed)
    return tmp_path


def _flags(path: Path, name: str, **more: object) -> dict[str, object]:
    return {
        "untrained_model_path": path / "untrained",
        "train_data_path": path / "train",
        "valid_data_path": path / "valid",
        "trained_model_path": path / name,
        "outputs_path": path / f"{name}_outputs",
        "epochs": 3,
        "batch_size": 8,
        "learning_rate": 0.01,
        **more,
    }


def _score(path: Path, model: Path, **flags: object) -> pandas.DataFrame:
    """Score the validation images; return the table."""
    places = {"dataset": path / "valid", "scored_dataset": path / "scored", "outputs_path": path / "outputs"}
    _run("score-image-model", trained_model=model, **places, **flags)
    return pandas.read_parquet(path / "scored" / "_data.parquet")


def _accuracy(scored: pandas.DataFrame) -> float:
    return float((scored["category"] == scored["Scored Labels"]).mean())


def _initialize(path: Path, network: str) -> None:
    _run("initialize-model", model_name=network, untrained_model_path=path / "untrained", outputs_path=path / "outputs")


def test_a_pipeline_trains_on_the_gpu_and_score_finds_the_logged_accuracy(path: Path, device: torch.device) -> None:
    _initialize(path, "resnet18")
    checked = _run("check", **_flags(path, "trained"))
    assert torch.cuda.get_device_name(device) in checked
    log = _run("train", **_flags(path, "trained"))
    assert "as a CUDA graph" in log
    assert "cuda:0 in bfloat16" in log or "cuda:0 in float16" in log
    assert (path / "trained_outputs" / "report" / "report.html").is_file()
    best = max(row["top1_acc"] for row in read_json_lines(path / "trained_outputs" / "metrics.jsonl"))  # type: ignore[type-var]
    assert _accuracy(_score(path, path / "trained")) == pytest.approx(best)


def test_fine_tuning_begins_with_a_fitted_head_and_score_finds_the_logged_accuracy(path: Path) -> None:
    _initialize(path, "resnet18")
    recipe = {"recipe": "finetune", "epochs": 2, "learning_rate": None, "image_size": 64}
    log = _run("train", **_flags(path, "trained", report="off", **recipe))
    assert "Fitted the head on the features" in log
    assert "as a CUDA graph" in log
    rows = read_json_lines(path / "trained_outputs" / "metrics.jsonl")
    assert [row["epoch"] for row in rows][:2] == [0, 1]
    (best,) = [row["top1_acc"] for row in rows if row["is_best"]][-1:]
    assert _accuracy(_score(path, path / "trained")) == pytest.approx(best)


def test_heads_fitted_alone_are_cross_validated_and_score_their_own_folds(path: Path) -> None:
    _initialize(path, "resnet18")
    _run(
        "cross-validate",
        untrained_model_path=path / "untrained",
        data_path=path / "train",
        cross_validation_path=path / "cross_validation",
        scored_dataset=path / "scored",
        outputs_path=path / "outputs",
        folds=2,
        head_only="true",
        recipe="finetune",
        batch_size=8,
    )
    found = json.loads((path / "cross_validation" / "cross_validation.json").read_text())
    assert [fold["best_epoch"] for fold in found["folds"]] == [0, 0]
    for fold in found["folds"]:
        assert fold["metrics"]["log_loss"] == pytest.approx(fold["metrics"]["valid_loss"], abs=1e-4)
    accuracy = _accuracy(pandas.read_parquet(path / "scored" / "_data.parquet"))
    assert accuracy == pytest.approx(found["metrics"]["accuracy"]["mean"])  # both folds have 80 images


def test_score_explains_its_least_certain_images(path: Path) -> None:
    pytest.importorskip("captum")
    model = write_model(path / "model", "torchvision.models", "resnet18", num_classes=2)
    _score(path, model, explanations=path / "explanations", max_explanations=3)
    index = pandas.read_csv(path / "explanations" / "explanations.csv")
    assert len(index) == 3
    assert all((path / "explanations" / name).is_file() for name in index["heat_map"])


def test_a_run_that_is_stopped_resumes_to_the_same_weights(path: Path) -> None:
    """With a CUDA graph and dropout; SIGTERM arrives in the middle of an epoch."""
    _initialize(path, "squeezenet1_1")
    plain, stopped = (_flags(path, name, report="off", epochs=150, patience=150) for name in ("plain", "stopped"))
    _run("train", **plain)
    process = subprocess.Popen(_command("train", **stopped), stderr=subprocess.DEVNULL)
    metrics = path / "stopped_outputs" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text().count("\n") > 10):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == RESUME
    assert 10 < len(read_json_lines(metrics)) < 150
    assert "esum" in _run("train", **stopped)
    assert read_json_lines(metrics) == read_json_lines(path / "plain_outputs" / "metrics.jsonl")
    one, other = (torch.load(path / name / "model") for name in ("plain", "stopped"))
    assert all(torch.equal(other[key], value) for key, value in one.items())


def test_two_processes_on_one_gpu_are_refused(path: Path) -> None:
    _initialize(path, "resnet18")
    command = _command("train", **_flags(path, "trained"))
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *command[1:]]
    finished = subprocess.run(words, capture_output=True, text=True)
    assert finished.returncode != 0
    assert "use the same GPU" in finished.stderr
    assert not (path / "trained").exists()
