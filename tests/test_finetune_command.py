"""Fine-tuning with the real command: what it writes, and that the rest of the pipeline takes it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.making import Inputs, flags_of
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
