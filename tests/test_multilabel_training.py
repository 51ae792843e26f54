"""Training on several labels per image with the real command."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, f1_score, log_loss

from tests.making import CLASSES, Inputs, error_text, initialize, run_here, write_image_directory
from tests.making import write_multilabel_directory as write
from train_pytorch_model.job import output
from train_pytorch_model.job.plan import positive_weights

# An image of this dataset never has the last label, and always has the one before.
LABELS = (*CLASSES, "always", "never")


def lists(count: int, seed: int) -> list[list[str]]:
    random = np.random.default_rng(seed)
    return [
        [name for name, often in zip(LABELS, (0.5, 0.3, 0.4, 1.0, 0.0)) if random.random() < often]
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    inputs = Inputs(tmp_path_factory.mktemp("several"))
    write(inputs.train, lists(48, 0), LABELS)
    write(inputs.valid, lists(40, 1), LABELS, seed=1)
    initialize(inputs.untrained, "shufflenet_v2_x0_5", inputs.outputs)
    return inputs


@pytest.fixture
def inputs(made: Inputs, tmp_path: Path) -> Inputs:
    return made.copied(tmp_path)


def thresholds(inputs: Inputs) -> dict[str, float]:
    found: dict[str, float] = json.loads((inputs.trained / "task.json").read_text())["thresholds"]
    return found


def scores(inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities that Score Image Model finds for the validation images, and whether they have each label."""
    scored = inputs.path / "scored"
    flags = {"trained_model": inputs.trained, "dataset": inputs.valid, "scored_dataset": scored}
    assert run_here("score-image-model", **flags, outputs_path=inputs.path / "scoring") == 0
    table = pd.read_parquet(scored / "_data.parquet")
    probabilities = table[[f"Scored Probabilities_{name}" for name in LABELS]].to_numpy()
    return probabilities, np.array([[name in json.loads(text) for name in LABELS] for text in table["category"]])


@pytest.mark.parametrize("recipe", ["classic", "finetune", "scratch"])
def test_score_finds_the_metrics_of_the_best_line(
    recipe: str, inputs: Inputs, capfd: pytest.CaptureFixture[str]
) -> None:
    assert inputs.fit(recipe=recipe, epochs=2, batch_size=8, learning_rate=0.01) == 0
    printed = capfd.readouterr().err
    lines: list[dict[str, Any]] = inputs.metrics()
    assert len(lines) == 2 + (recipe == "finetune")
    best = max(lines, key=lambda line: (line["average_precision"], -line["valid_loss"]))
    assert best["epoch"] == [line["epoch"] for line in lines if line["is_best"]][-1]
    probabilities, truth = scores(inputs)
    means = {"y_true": truth[:, :4], "average": "macro"}  # no validation image has the last label
    assert best["average_precision"] == pytest.approx(average_precision_score(y_score=probabilities[:, :4], **means))
    assert best["macro_f1"] == pytest.approx(f1_score(y_pred=probabilities[:, :4] >= 0.5, **means))
    assert best["micro_f1"] == pytest.approx(f1_score(truth, probabilities >= 0.5, average="micro"))
    assert best["top1_acc"] == ((probabilities >= 0.5) == truth).all(1).mean()
    losses = [log_loss(truth[:, label], probabilities[:, label], labels=[False, True]) for label in range(5)]
    assert best["valid_loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert (best["top5_acc"], "balanced_accuracy" in best) == (None, False)
    assert f"(average precision of validation {best['average_precision']:.5f})" in printed
    assert "with 5 labels" in printed
    assert f"Validation dataset {inputs.valid} has no image of 'never'" in printed
    assert "means over the labels that validation images have: without 'never'" in printed


def test_the_thresholds_are_the_best_ones_for_the_scores(inputs: Inputs) -> None:
    assert inputs.fit(recipe="scratch", epochs=3, batch_size=8, learning_rate=0.01) == 0
    probabilities, truth = scores(inputs)
    found = thresholds(inputs)
    assert list(found) == list(LABELS)
    assert found["always"] == found["never"] == 0.5
    for label in range(3):
        reached = f1_score(truth[:, label], probabilities[:, label] >= found[LABELS[label]])
        tried = [f1_score(truth[:, label], probabilities[:, label] >= value) for value in probabilities[:, label]]
        assert reached == pytest.approx(max(tried))


def test_class_weights_raise_the_probabilities_of_rare_labels(inputs: Inputs) -> None:
    means = []
    for kind in ("none", "sqrt", "balanced"):
        assert inputs.fit(recipe="classic", class_weights=kind, epochs=1, batch_size=8, learning_rate=0.005) == 0
        means.append(scores(inputs)[0][:, 1].mean())
    assert means[0] < means[1] < means[2]


def test_positive_weights_count_images_without_the_label_for_each_with_it() -> None:
    counts = np.array([10, 80, 50, 100, 0])
    assert positive_weights("none", counts, 100) is None
    assert positive_weights("balanced", counts, 100) == pytest.approx((9, 0.25, 1, 1, 1))
    assert positive_weights("sqrt", counts, 100) == pytest.approx((3, 0.5, 1, 1, 1))


def test_a_run_that_resumes_writes_the_same_model(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = {"epochs": 2, "batch_size": 8, "learning_rate": 0.01, "checkpoint_minutes": 0}
    assert inputs.fit(**flags) == 0
    expected = (inputs.trained / "model").read_bytes(), inputs.metrics(), thresholds(inputs)

    def fail(*arguments: Any, **named: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(output, "write_trained_model", fail)
        assert inputs.fit(**flags) == 1
    assert inputs.fit(**flags, resume="require") == 0
    assert ((inputs.trained / "model").read_bytes(), inputs.metrics(), thresholds(inputs)) == expected


def test_the_head_is_kept_for_the_same_labels_and_drawn_anew_for_another_task(
    inputs: Inputs, capfd: pytest.CaptureFixture[str]
) -> None:
    write(inputs.path / "train3", seed=0)
    write(inputs.path / "valid3", seed=1)
    for name in ("train", "valid"):
        write_image_directory(inputs.path / f"{name}1")
    several = {"train_data_path": inputs.path / "train3", "valid_data_path": inputs.path / "valid3"}
    single = {"train_data_path": inputs.path / "train1", "valid_data_path": inputs.path / "valid1"}
    fitted = []
    for number, data in enumerate((several, several, single, single, several)):
        if number:
            inputs.untrained = inputs.trained.rename(inputs.path / f"model{number}")
        capfd.readouterr()
        assert inputs.fit(**data, recipe="finetune", image_size=32) == 0
        fitted.append("Fitted the head" in capfd.readouterr().err)
    assert fitted == [True, False, True, False, True]


@pytest.mark.parametrize("metric", ["accuracy", "micro_f1", "macro_f1", "loss"])
def test_other_metrics_of_several_labels_decide_too(metric: str, inputs: Inputs) -> None:
    assert inputs.fit(epochs=3, batch_size=8, learning_rate=0.05, metric_for_best_model=metric) == 0
    lines: list[dict[str, Any]] = inputs.metrics()
    name = {"accuracy": "top1_acc"}.get(metric, metric)
    values = [(-line["valid_loss"] if metric == "loss" else line[name], -line["valid_loss"]) for line in lines]
    assert [line["is_best"] for line in lines] == [
        value > max([(-1e9, 0), *values[:i]]) for i, value in enumerate(values)
    ]


def test_a_metric_of_the_other_task_is_named(inputs: Inputs) -> None:
    assert inputs.fit(metric_for_best_model="balanced_accuracy") == 1
    assert "balanced_accuracy is not defined for the several labels per image" in error_text(inputs.outputs)
    for name in ("train", "valid"):
        write_image_directory(inputs.path / f"{name}1")
    data = {"train_data_path": inputs.path / "train1", "valid_data_path": inputs.path / "valid1"}
    for metric in ("average_precision", "micro_f1"):
        assert inputs.fit(**data, metric_for_best_model=metric) == 1
        assert f"{metric} needs several labels per image" in error_text(inputs.outputs)


def test_a_network_whose_logits_are_never_negative_is_refused(inputs: Inputs, tmp_path: Path) -> None:
    initialize(tmp_path / "squeezenet", "squeezenet1_1", inputs.outputs)
    inputs.untrained = tmp_path / "squeezenet"
    assert inputs.fit(image_size=64) == 1
    assert "squeezenet1_1 ends with a ReLU" in error_text(inputs.outputs)
    assert not inputs.trained.exists()
