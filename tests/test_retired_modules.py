"""Against the real retired modules, in an environment of their own: they take ours, we take theirs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import resnet18

from tests import environments
from tests.making import CLASSES, Inputs, initialize, run_retired_tool, write_class_folders
from train_pytorch_model.data.batches import normalised, per_channel
from train_pytorch_model.data.image_geometry import Geometry
from train_pytorch_model.data.image_store import decode_all
from train_pytorch_model.designer_core import load_image_directory
from train_pytorch_model.models.description import describe
from train_pytorch_model.ports.labelled_images import read_labelled_images
from train_pytorch_model.ports.untrained_model import read_untrained_model

pytestmark = pytest.mark.environment

READ_TABLE = (
    "import json, sys, pandas as pd\n"
    "table = pd.read_parquet(sys.argv[1])\n"
    "print(json.dumps({name: table[name].tolist() for name in table.columns}))"
)


def run_retired(module: str, *arguments: object) -> str:
    return run_retired_tool(environments.retired(), f"dl.pytorch.{module}", *arguments)


def score(model: Path, data: Path, target: Path) -> dict[str, list[object]]:
    arguments = ("--trained-model", model, "--dataset", data, "--scored-dataset", target)
    run_retired("score.score_image_model.module_invoker", *arguments)
    table = subprocess.run(
        [str(environments.retired()), "-c", READ_TABLE, str(target / "_data.parquet")], capture_output=True, check=True
    )
    columns: dict[str, list[object]] = json.loads(table.stdout)
    return columns


def our_probabilities(model: Path, data: Path) -> torch.Tensor:
    trained = read_untrained_model(model, trust_code=False)
    network = trained.description.build().eval()
    network.load_state_dict(trained.state)
    images = read_labelled_images(data, "Validation dataset")
    store, unreadable = decode_all(images.path_of, images.labels, Geometry((64, 64)))
    assert not unreadable
    ((pixels, _),) = store.batches([torch.arange(len(store))], torch.device("cpu"))
    ((mean, std),) = trained.normalisations.values()
    mean_and_std = (per_channel(tuple(values), pixels.device) for values in (mean, std))
    with torch.no_grad():
        return network(normalised(pixels, torch.contiguous_format, *mean_and_std)).softmax(1)


@pytest.mark.parametrize(
    ("network", "classes"),
    [
        pytest.param("resnet18", CLASSES, marks=pytest.mark.thorough),
        pytest.param("densenet121", CLASSES, marks=pytest.mark.thorough),
        ("resnet18", ("007", "01", "10", "1e3")),
        pytest.param("resnet18", ("False", "True"), marks=pytest.mark.thorough),
        pytest.param("googlenet", ("a,b", "ünï", "two words"), marks=pytest.mark.thorough),
    ],
)
def test_score_image_model_scores_ours_as_we_do(network: str, classes: tuple[str, ...], tmp_path: Path) -> None:
    inputs = Inputs(tmp_path).make(network, classes=classes, size=64)
    assert inputs.fit(epochs=2, learning_rate=0.01) == 0
    table = score(inputs.trained, inputs.valid, tmp_path / "scored")
    names = [f"Scored Probabilities_{name}" for name in sorted(classes)]
    assert list(table) == ["category", "id", *names, "Scored Labels"]
    ours = our_probabilities(inputs.trained, inputs.valid)
    theirs = torch.tensor([table[name] for name in names], dtype=torch.float64).T
    assert (ours - theirs).abs().max().item() <= 1e-6
    # As text, so that truth and label compare without conversion.
    assert table["Scored Labels"] == [sorted(classes)[index] for index in ours.argmax(1)]
    assert set(table["category"]) == set(classes)


def test_score_image_model_normalises_as_the_pretrained_weights_were_made_for(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path).make("resnet18", size=64)
    torch.manual_seed(0)
    torch.save(resnet18().state_dict(), tmp_path / "mine.pth")
    flags = {"weights": tmp_path / "mine.pth", "weights_mean": "0.485,0.456,0.406", "weights_std": "0.2"}
    initialize(inputs.untrained, "resnet18", inputs.outputs, **flags)
    assert inputs.fit(epochs=1, learning_rate=0.01, recipe="finetune", image_size=64) == 0
    trained = read_untrained_model(inputs.trained, trust_code=False)
    assert trained.normalisations == {"image": ([0.485, 0.456, 0.406], [0.2, 0.2, 0.2])}
    table = score(inputs.trained, inputs.valid, tmp_path / "scored")
    theirs = torch.tensor([table[f"Scored Probabilities_{name}"] for name in CLASSES], dtype=torch.float64).T
    assert (our_probabilities(inputs.trained, inputs.valid) - theirs).abs().max().item() <= 1e-6
    validated = [line for line in inputs.metrics() if line["is_best"]][-1]
    chosen = theirs.argmax(1).numpy() == np.array([CLASSES.index(str(label)) for label in table["category"]])
    assert validated["top1_acc"] == pytest.approx(chosen.mean())


def test_score_image_model_says_the_calibrated_probabilities(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path).make("resnet18", size=64)
    write_class_folders(tmp_path / "noisy", per_class=40, size=64, seed=1)
    for number, path in enumerate(sorted((tmp_path / "noisy" / "cat").iterdir())[:15]):
        path.rename(tmp_path / "noisy" / "owl" / f"moved_{number}.png")
    inputs.valid = tmp_path / "valid_noisy"
    load_image_directory(tmp_path / "noisy").dump(str(inputs.valid))
    assert inputs.fit(epochs=4, learning_rate=0.02, recipe="scratch", label_smoothing=0, model_ema="off") == 0
    best = [line for line in inputs.metrics() if line["is_best"]][-1]
    assert best["calibrated_valid_loss"] != best["valid_loss"]
    table = score(inputs.trained, inputs.valid, tmp_path / "scored")
    theirs = [table[f"Scored Probabilities_{label}"][row] for row, label in enumerate(table["category"])]
    assert -np.log(np.array(theirs, dtype=float)).mean() == pytest.approx(best["calibrated_valid_loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        pytest.param("resnet", "resnet18", id="ResNet"),
        pytest.param("densenet", "densenet121", id="DenseNet", marks=pytest.mark.thorough),
    ],
)
def test_we_train_what_the_retired_initialisers_write(module: str, name: str, inputs: Inputs, tmp_path: Path) -> None:
    inputs.untrained = tmp_path / "retired_untrained"
    run_retired(
        f"initialize_models.vision.classification.{module}",
        *("--untrained-model-path", inputs.untrained, "--model-name", name, "--pretrained", "False"),
    )
    assert inputs.fit(learning_rate=5e-324) == 0
    given = torch.load(inputs.untrained / "model", weights_only=True)
    trained = torch.load(inputs.trained / "model", weights_only=True)
    first = "conv1.weight" if module == "resnet" else "features.conv0.weight"
    assert torch.equal(trained[first], given[f"model.{first}"])


def test_we_train_on_from_what_the_retired_train_module_wrote(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path).make("resnet18", size=64)
    retired_untrained, retired_trained = tmp_path / "retired_untrained", tmp_path / "retired_trained"
    run_retired(
        "initialize_models.vision.classification.resnet",
        *("--untrained-model-path", retired_untrained, "--model-name", "resnet18", "--pretrained", "False"),
    )
    run_retired(
        "train.train_pytorch_model",
        *("--untrained-model-path", retired_untrained, "--train-data-path", inputs.train),
        *("--valid-data-path", inputs.valid, "--trained-model-path", retired_trained),
        *("--epochs", 1, "--batch-size", 6),
    )
    inputs.untrained = retired_trained
    assert inputs.fit(learning_rate=5e-324) == 0
    theirs = torch.load(retired_trained / "model", weights_only=True)
    ours = torch.load(inputs.trained / "model", weights_only=True)
    assert torch.equal(ours["fc.weight"], theirs["model.fc.weight"])
    table = score(inputs.trained, inputs.valid, tmp_path / "scored")
    assert "Scored Probabilities_cat" in table


def test_a_raw_folder_trains_to_a_model_that_scores_a_raw_folder(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path).make("resnet18", size=64)
    inputs.train = write_class_folders(tmp_path / "raw_train", size=64)
    inputs.valid = write_class_folders(tmp_path / "raw_valid", size=64, per_class=4, seed=1)
    assert inputs.fit() == 0
    table = score(inputs.trained, inputs.valid, tmp_path / "scored")
    ours = our_probabilities(inputs.trained, inputs.valid)
    assert table["Scored Labels"] == [CLASSES[index] for index in ours.argmax(1)]


def test_every_torchvision_network_that_we_write_is_a_function_call_that_the_retired_environment_knows() -> None:
    code = "import torchvision, json; print(json.dumps(torchvision.models.list_models(module=torchvision.models)))"
    known = subprocess.run([str(environments.retired()), "-c", code], capture_output=True, check=True).stdout
    for name in json.loads(known):
        assert describe("torchvision.models", name, {}).name == name
