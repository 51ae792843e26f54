"""Calibration: temperature scaling on the validation images, folded into the head of the trained model."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss
from torch import nn
from torch.func import functional_call

from tests.making import (
    CLASSES,
    Inputs,
    flags_of,
    initialize,
    read_json_lines,
    write_class_folders,
    write_multilabel_directory,
)
from tests.small_training import make_network
from train_pytorch_model.cli.main import main
from train_pytorch_model.evaluation.metrics import calibration_error
from train_pytorch_model.models.heads import Head, find_head
from train_pytorch_model.models.libraries import Torchvision
from train_pytorch_model.ports.untrained_model import read_untrained_model
from train_pytorch_model.training.calibration import (
    LARGEST_TEMPERATURE,
    SMALLEST_TEMPERATURE,
    confidence_at,
    cross_fitted_temperatures,
    fit_temperature,
)

PLANTED = 4.0
_HEAD = ("fc.weight", "fc.bias")


def drawn(count: int, num_classes: int, scale: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and labels drawn from their softmax; the logits are then multiplied by `scale`."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, num_classes, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    return logits * scale, labels


@pytest.mark.parametrize("scale", [0.1, 0.9, 1.0, 3.0, 15.0])
@pytest.mark.parametrize(("count", "num_classes"), [(60, 2), (5000, 7)])
def test_the_temperature_is_that_of_a_search(scale: float, count: int, num_classes: int) -> None:
    logits, labels = drawn(count, num_classes, scale)

    def loss(exponent: float) -> float:
        probabilities = (logits.double() / np.exp(exponent)).softmax(1).numpy()
        return float(log_loss(labels.numpy(), probabilities, labels=range(num_classes)))

    bounds = np.log(SMALLEST_TEMPERATURE), np.log(LARGEST_TEMPERATURE)
    searched = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-9})
    assert fit_temperature(logits, labels) == pytest.approx(np.exp(searched.x), rel=1e-4)


def test_the_temperature_has_bounds() -> None:
    logits, labels = drawn(100, 3, 1.0)
    assert fit_temperature(logits, logits.argmax(1)) == SMALLEST_TEMPERATURE
    assert fit_temperature(logits, logits.argmin(1)) == LARGEST_TEMPERATURE
    assert fit_temperature(1000 * logits, labels) == LARGEST_TEMPERATURE


def test_log_loss_and_calibration_error_are_those_of_the_scaled_probabilities() -> None:
    logits, labels = drawn(5000, 4, 3.0)
    found = confidence_at(logits, labels, 3.0)
    probabilities = (logits.double() / 3).softmax(1).numpy()
    assert found.log_loss == pytest.approx(log_loss(labels.numpy(), probabilities))
    assert found.expected_calibration_error == pytest.approx(calibration_error(labels.numpy(), probabilities), abs=1e-4)
    assert found.expected_calibration_error < 0.03 < confidence_at(logits, labels).expected_calibration_error


def test_the_cross_fitted_temperature_of_an_image_does_not_depend_on_it() -> None:
    logits, labels = drawn(100, 3, 3.0)
    given = cross_fitted_temperatures(logits, labels, seed=1)
    assert len(set(given.tolist())) == 5
    changed = logits.clone()
    changed[7] = torch.tensor([50.0, -50.0, 0.0])
    found = cross_fitted_temperatures(changed, labels, seed=1)
    is_of_fold = given == given[7]
    assert torch.equal(found[is_of_fold], given[is_of_fold])
    assert (found[~is_of_fold] != given[~is_of_fold]).all()


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "googlenet", "mobilenet_v3_small", ""])
def test_a_scaled_head_scales_the_logits(name: str) -> None:
    torch.manual_seed(0)
    network: nn.Module = Torchvision().describe(name, {"num_classes": 4}).build() if name else make_network()
    network.eval()
    size = (64, 64) if name else (12, 12)
    head = find_head(network, size)
    assert isinstance(head, Head)
    images = torch.randn(3, 3, *size)
    with torch.no_grad():
        given = network(images)
        scaled = functional_call(network, head.scaled(network.state_dict(), 0.3), images)
    torch.testing.assert_close(scaled, 0.3 * given)


def write_labels_of(model: Path, folder: Path, count: int, *, are_drawn: bool = True) -> None:
    """Write images between the colours of the classes, with labels drawn from a model's probabilities, or the best."""
    random = np.random.default_rng(2)
    colours = np.stack([np.random.default_rng(number).integers(0, 256, 3) for number in range(len(CLASSES))])
    mixed = random.dirichlet(np.full(len(CLASSES), 0.7), count) @ colours
    pixels = np.clip(mixed[:, None, None] + random.normal(0, 30, (count, 32, 32, 3)), 0, 255).astype(np.uint8)
    trained = read_untrained_model(model, trust_code=False)
    network = trained.description.build().eval()
    network.load_state_dict(trained.state)
    with torch.no_grad():
        probabilities = network(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1).double().softmax(1).numpy()
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
    for number, (image, row) in enumerate(zip(pixels, probabilities)):
        label = CLASSES[random.choice(len(CLASSES), p=row / row.sum()) if are_drawn else row.argmax()]
        Image.fromarray(image).save(folder / label / f"{number}.png")


@pytest.fixture(scope="module")
def confident(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """A model whose logits are four times as large as they should be, to be trained on."""
    inputs = Inputs(tmp_path_factory.mktemp("confident"))
    write_class_folders(inputs.train, per_class=20)
    write_class_folders(inputs.valid, per_class=4, seed=1)
    initialize(inputs.untrained, "shufflenet_v2_x0_5", inputs.outputs)
    assert inputs.fit(recipe="classic", epochs=4, learning_rate=0.03) == 0
    first = inputs.trained.rename(inputs.path / "first")
    shutil.rmtree(inputs.valid)
    write_labels_of(first, inputs.valid, 500)
    state = torch.load(first / "model", weights_only=True)
    torch.save({**state, **{key: PLANTED * state[key] for key in _HEAD}}, first / "model")
    inputs.untrained = first
    return inputs


class Trained:
    """A model that was trained on at a learning rate of almost nothing, and what Score says."""

    def __init__(self, inputs: Inputs, path: Path, untrained: Path | None = None, **flags: object) -> None:
        self.path = path
        self.outputs = path / "outputs"
        given = {"trained_model_path": path / "model", "outputs_path": self.outputs, "recipe": "finetune", **flags}
        if untrained is not None:
            given["untrained_model_path"] = untrained
        assert inputs.fit(**{"learning_rate": 5e-324, **given}) == 0
        self.state = torch.load(path / "model" / "model", weights_only=True)
        self.lines = read_json_lines(self.outputs / "metrics.jsonl")
        best = [line for line in self.lines if line["is_best"]][-1]
        self.valid_loss = best["valid_loss"]
        self.calibrated = best.get("calibrated_valid_loss")
        scoring = {"trained_model": path / "model", "dataset": inputs.valid, "scored_dataset": path / "scored"}
        assert main(["score-image-model", *flags_of(scoring), "--outputs-path", str(path / "scoring")]) == 0
        table = pd.read_parquet(path / "scored" / "_data.parquet")
        self.labels = table["Scored Labels"].tolist()
        self.probabilities = table[[f"Scored Probabilities_{name}" for name in CLASSES]].to_numpy()
        self.truth = np.array([CLASSES.index(label) for label in table["category"]])

    @property
    def log_loss(self) -> float:
        return float(-np.log(self.probabilities[np.arange(len(self.truth)), self.truth]).mean())


@pytest.fixture(scope="module")
def plain(confident: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(confident, tmp_path_factory.mktemp("plain"), calibration="off")


@pytest.fixture(scope="module")
def calibrated(confident: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(confident, tmp_path_factory.mktemp("calibrated"))


def test_only_the_head_changes_and_by_one_factor(plain: Trained, calibrated: Trained) -> None:
    for key, value in plain.state.items():
        if key not in _HEAD:
            assert torch.equal(calibrated.state[key], value)
    ratios = torch.cat([(plain.state[key] / calibrated.state[key]).flatten() for key in _HEAD])
    assert ratios.min().item() == pytest.approx(ratios.max().item(), rel=1e-5)
    assert ratios.mean().item() == pytest.approx(PLANTED, rel=0.25)


def test_score_says_the_softmax_of_the_logits_divided_by_the_temperature(plain: Trained, calibrated: Trained) -> None:
    temperature = float((plain.state["fc.bias"].double() / calibrated.state["fc.bias"]).mean())
    # With certain probabilities, logits cannot be recovered from them.
    logits = torch.tensor(calibrated.probabilities).log()
    labels = torch.from_numpy(calibrated.truth)
    assert fit_temperature(logits, labels) == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose((logits * temperature).softmax(1).numpy(), plain.probabilities, atol=1e-5)
    assert calibrated.labels == plain.labels


def test_an_overconfident_network_gets_half_the_calibration_error(plain: Trained, calibrated: Trained) -> None:
    before, after = (calibration_error(each.truth, each.probabilities) for each in (plain, calibrated))
    assert after < before / 2
    assert calibrated.log_loss < plain.log_loss / 2


def test_the_metrics_have_the_loss_of_the_written_model_beside_that_of_the_epoch(
    plain: Trained, calibrated: Trained
) -> None:
    assert plain.calibrated is None
    assert calibrated.valid_loss == pytest.approx(plain.valid_loss)
    assert plain.log_loss == pytest.approx(plain.valid_loss, rel=1e-4)
    assert calibrated.log_loss == pytest.approx(calibrated.calibrated, rel=1e-5)
    kept = [{key: line[key] for key in line if key != "calibrated_valid_loss"} for line in calibrated.lines]
    assert kept == plain.lines
    assert sum("calibrated_valid_loss" in line for line in calibrated.lines) == 1


def test_a_calibrated_model_is_trained_on_as_it_is(confident: Inputs, calibrated: Trained, tmp_path: Path) -> None:
    second = Trained(confident, tmp_path, untrained=calibrated.path / "model")
    assert second.lines[0]["valid_loss"] == pytest.approx(calibrated.calibrated, rel=1e-5)
    np.testing.assert_allclose(second.probabilities, calibrated.probabilities, atol=1e-4)


def test_a_resumed_run_writes_the_same_model(confident: Inputs, calibrated: Trained, tmp_path: Path) -> None:
    # The checkpoints of a finished run are removed, so the run is stopped before the model is written.
    checkpoints = tmp_path / "checkpoints"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train_pytorch_model.job.run.write_model", _stop)
        patch.setattr("train_pytorch_model.job.output.write_model", _stop)
        flags = {"trained_model_path": tmp_path / "model", "outputs_path": tmp_path / "first"}
        assert (
            confident.fit(
                recipe="finetune", learning_rate=5e-324, checkpoint_path=checkpoints, checkpoint_minutes=0, **flags
            )
            == 1
        )
    resumed = Trained(confident, tmp_path / "resumed", checkpoint_path=checkpoints, resume="require")
    for key, value in calibrated.state.items():
        assert torch.equal(resumed.state[key], value)
    assert resumed.calibrated == calibrated.calibrated


def _stop(*_: object) -> None:
    raise OSError("no space")


def test_a_classic_run_is_not_calibrated(confident: Inputs, tmp_path: Path) -> None:
    auto, off = (
        Trained(confident, tmp_path / word, recipe="classic", epochs=1, calibration=word) for word in ("auto", "off")
    )
    for first, second in ((auto.path / "model", off.path / "model"), (auto.outputs, off.outputs)):
        for name in ("model", "metrics.jsonl"):
            if (first / name).exists():
                assert (first / name).read_bytes() == (second / name).read_bytes()
    assert auto.calibrated is None


@pytest.mark.parametrize(
    ("flags", "num_images", "reason"),
    [
        ({}, 49, "there are fewer than 50 validation images"),
        ({}, 200, "the model is right on all validation images"),
        ({"test_time_augmentation": "flip"}, 200, "--test-time-augmentation flip averages probabilities"),
    ],
)
def test_the_log_says_why_probabilities_stay_as_they_are(
    confident: Inputs,
    flags: dict[str, object],
    num_images: int,
    reason: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    write_labels_of(confident.untrained, tmp_path / "valid", num_images, are_drawn=False)
    trained = Trained(confident, tmp_path, valid_data_path=tmp_path / "valid", **flags)
    assert f"The probabilities are not calibrated, because {reason}" in " ".join(capfd.readouterr().err.split())
    assert trained.calibrated == trained.valid_loss


def test_several_labels_are_not_calibrated(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    inputs = Inputs(tmp_path)
    write_multilabel_directory(inputs.train)
    write_multilabel_directory(inputs.valid, seed=1)
    initialize(inputs.untrained, "shufflenet_v2_x0_5", inputs.outputs)
    assert inputs.fit(recipe="finetune") == 0
    assert "not calibrated, because an image may have several labels" in " ".join(capfd.readouterr().err.split())
    assert not any("calibrated_valid_loss" in line for line in inputs.metrics())
