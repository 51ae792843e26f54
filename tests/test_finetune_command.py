"""Fine-tuning with the real command: what it writes, and that the rest of the pipeline takes it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.image_directories import set_categories
from tests.making import NETWORK, Inputs, flags_of, initialize, write_image_directory, write_multilabel_directory
from train_pytorch_model.cli.main import main
from train_pytorch_model.ports.untrained_model import read_untrained_model


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """A model that was trained classically, and then fine-tuned."""
    inputs = Inputs(tmp_path_factory.mktemp("finetune")).make()
    assert inputs.fit(epochs=2, recipe="classic") == 0
    first = inputs.trained.rename(inputs.path / "first")
    inputs.untrained = first
    assert inputs.fit(epochs=2, batch_size=4, image_size=32) == 0
    return inputs


def lines_of(inputs: Inputs) -> list[dict[str, float]]:
    return inputs.metrics()  # type: ignore[return-value]


def test_a_trained_model_is_epoch_0_as_it_is_and_the_result_is_no_worse(finished: Inputs) -> None:
    lines = lines_of(finished)
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    best = max(lines, key=lambda line: (line["top1_acc"], -line["valid_loss"]))
    assert best["top1_acc"] >= lines[0]["top1_acc"]
    assert [line["epoch"] for line in lines if line["is_best"]][-1] == best["epoch"]


@pytest.mark.parametrize(
    ("network", "kind"),
    [(NETWORK, "designer"), ("squeezenet1_1", "designer"), (NETWORK, "class folders"), (NETWORK, "several labels")],
)
def test_a_trained_model_keeps_its_head_where_the_labels_have_another_order(
    network: str, kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    classes = ("owl", "cat", "dog")
    inputs, again = Inputs(tmp_path), Inputs(tmp_path / "again")
    again.path.mkdir()
    initialize(inputs.untrained, network, inputs.outputs)
    for path, seed in ((inputs.train, 0), (inputs.valid, 1)):
        if kind == "several labels":
            write_multilabel_directory(path, categories=classes, size=64, seed=seed)
        else:
            write_image_directory(path, per_class=4, size=64, seed=seed)
            set_categories([{"id": number, "name": name} for number, name in enumerate(classes)])(path)
    assert inputs.fit(recipe="classic", learning_rate=0.02, epochs=3) == 0
    best = next(line for line in reversed(lines_of(inputs)) if line["is_best"])
    for before, path in ((inputs.train, again.train), (inputs.valid, again.valid)):
        if kind == "class folders":
            before.with_name(f"{before.name}_folders").rename(path)
        else:
            shutil.copytree(before, path)
            set_categories([{"id": number, "name": name} for number, name in enumerate(sorted(classes))])(path)
    again.untrained = inputs.trained
    assert again.fit(recipe="finetune", image_size=64, resize="stretch", epochs=1) == 0
    assert "get the order of the classes of the training dataset" in capfd.readouterr().err
    labels = [read_untrained_model(path, trust_code=False).labels for path in (inputs.trained, again.trained)]
    assert labels == [classes, tuple(sorted(classes))]
    first = lines_of(again)[0]
    assert first["epoch"] == 0
    assert first["valid_loss"] == pytest.approx(best["valid_loss"], abs=1e-6)
    assert first["top1_acc"] == best["top1_acc"]


def test_the_model_contains_the_parameters_that_the_recipe_decided(finished: Inputs) -> None:
    parameters = json.loads((finished.trained / "training_parameters.json").read_text())
    assert (parameters["recipe"], parameters["epochs"], parameters["lr_schedule"]) == ("finetune", 2, "cosine")
    assert parameters["model_ema"] == 0.99
    assert "auto" not in {parameters[name] for name in ("epochs", "optimizer", "auto_augment", "clip_grad_norm")}
    assert not (finished.untrained / "training_parameters.json").exists()  # classic


def test_score_finds_the_accuracy_and_the_loss_of_the_best_line(finished: Inputs) -> None:
    scored = finished.path / "scored"
    flags = {"trained_model": finished.trained, "dataset": finished.valid, "scored_dataset": scored}
    assert main(["score-image-model", *flags_of(flags), "--outputs-path", str(finished.path / "scoring")]) == 0
    table = pd.read_parquet(scored / "_data.parquet")
    best = max(lines_of(finished), key=lambda line: (line["top1_acc"], -line["valid_loss"]))
    assert (table["Scored Labels"] == table["category"]).mean() == pytest.approx(best["top1_acc"])
    probabilities = [row[f"Scored Probabilities_{row['category']}"] for _, row in table.iterrows()]
    assert -np.log(probabilities).mean() == pytest.approx(best["valid_loss"], rel=1e-4)


def test_it_can_be_trained_further(finished: Inputs, tmp_path: Path) -> None:
    model = read_untrained_model(finished.trained, trust_code=False)
    assert model.geometry is not None
    assert model.geometry.size == (32, 32)
