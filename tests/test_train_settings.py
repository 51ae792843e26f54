"""The settings beyond the designer's five, through the command a pipeline runs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss

from tests.image_directories import edit_items
from tests.jobs import train_job
from tests.making import Inputs, initialize, run_here, write_image_directory
from tests.untrained_models import CODE, write_model_with_code
from train_pytorch_model.data import placement


def weights(inputs: Inputs) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(inputs.trained / "model", weights_only=True)
    return state


def test_every_image_store_trains_to_the_same_bits(inputs: Inputs, capfd: pytest.CaptureFixture[str]) -> None:
    given = []
    for store in ("auto", "device", "memory", "disk", "none"):
        assert inputs.fit(image_store=store, epochs=2) == 0
        place = {"auto": "memory", "device": "memory"}.get(store, store)  # on a CPU, the device's memory is the host's
        assert f"Image store {place}" in capfd.readouterr().err
        given.append((weights(inputs), (inputs.outputs / "metrics.jsonl").read_bytes()))
    for other, metrics in given[1:]:
        assert metrics == given[0][1]
        assert all(torch.equal(value, other[key]) for key, value in given[0][0].items())


def test_images_that_do_not_fit_are_reported_before_training(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "available_memory_bytes", lambda: 1000.0)
    assert inputs.fit(image_store="memory") == 1
    assert "--image-store memory needs" in str(inputs.error())
    assert not inputs.trained.exists()
    assert inputs.fit(image_store="auto") == 0


@pytest.mark.parametrize("store", ["memory", "disk", "none"])
def test_all_processes_skip_the_same_unreadable_images(store: str, inputs: Inputs) -> None:
    broken = sorted((inputs.train / "image").iterdir())[3]
    broken.write_bytes(broken.read_bytes()[:200])
    assert inputs.fit(image_store=store) == 1
    assert broken.name in str(inputs.error())
    assert inputs.fit(image_store=store, skip_unreadable_images="true") == 0
    with_damage = weights(inputs)
    items = (inputs.train / "images.lst").read_text().splitlines()
    kept = [line for line in items if broken.name not in line]
    (inputs.train / "images.lst").write_text("\n".join(kept) + "\n")
    assert inputs.fit(image_store="memory") == 0
    assert all(torch.equal(value, with_damage[key]) for key, value in weights(inputs).items())


def test_what_is_trained_with_is_logged(inputs: Inputs, capfd: pytest.CaptureFixture[str]) -> None:
    initialize(inputs.path / "resnet", "resnet18", inputs.outputs)
    inputs.untrained = inputs.path / "resnet"
    assert inputs.fit(precision="bfloat16") == 0
    printed = capfd.readouterr().err
    assert re.search(r"Training resnet18 on 24 images of 32x32 in 3 classes, .* in bfloat16", printed)
    assert re.search(r"Recipe classic: --epochs 1 --batch-size 6 --learning-rate 0.001 .* --optimizer sgd ", printed)
    # 36 images of 3,072 bytes.
    assert "Image store memory: 0.1 MiB of decoded images (memory " in printed


def test_images_for_which_gradients_are_wrong_in_bfloat16_are_trained_on_in_float32(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    inputs = Inputs(tmp_path).make("resnet18", size=16)
    assert inputs.fit(precision="bfloat16") == 0
    assert "wrong gradients in bfloat16 on a CPU. Training in float32." in capfd.readouterr().err
    given = weights(inputs)
    assert inputs.fit(precision="float32", resume="never") == 0
    assert all(torch.equal(value, given[key]) for key, value in weights(inputs).items())


@pytest.mark.parametrize(("recipe", "usual"), [("classic", 16), ("finetune", 16), ("large", 128)])
def test_a_batch_that_nobody_asked_for_holds_at_most_all_images(
    recipe: str, usual: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    inputs = Inputs(tmp_path).make(per_class=3)
    how = {"recipe": recipe, "image_size": 32, "precision": "float32"}
    assert inputs.fit(batch_size=None, **how) == 0
    logged = f"The batch size is 9, the number of training images, and not the {usual} of the recipe {recipe}."
    assert logged in capfd.readouterr().err
    given = weights(inputs)
    rate = inputs.metrics()[-1]["learning_rate"]
    assert inputs.fit(batch_size=9, resume="never", **how) == 0
    assert logged not in capfd.readouterr().err
    assert inputs.metrics()[-1]["learning_rate"] == rate
    assert all(torch.equal(value, given[key]) for key, value in weights(inputs).items())
    assert inputs.fit(batch_size=usual, resume="never", **how) == 1
    assert f'"Batch size" value {usual} should be less than or equal to train data count value 9' in str(inputs.error())


def test_images_that_are_skipped_do_not_count_in_the_batch(inputs: Inputs, capfd: pytest.CaptureFixture[str]) -> None:
    for broken in sorted((inputs.train / "image").iterdir())[::2]:
        broken.write_bytes(broken.read_bytes()[:200])
    assert inputs.fit(batch_size=None, skip_unreadable_images="true") == 0
    assert "The batch size is 12, the number of training images" in capfd.readouterr().err


def test_one_image_is_not_enough_for_a_network_that_normalizes_over_the_batch(inputs: Inputs) -> None:
    shutil.rmtree(inputs.train)
    write_image_directory(inputs.train, per_class=1)
    edit_items(inputs.train, lambda items: items.__delitem__(slice(1, None)))
    for batch_size in (None, 1):
        assert inputs.fit(batch_size=batch_size) == 1
        assert "InvalidDataset" in str(inputs.error())
        assert "more than 1 value per channel" in str(inputs.error())
    assert inputs.fit(batch_size=None, image_size=64) == 0


@pytest.mark.parametrize("flag", ["batch_size", "microbatch_size"])
def test_single_images_are_enough_where_statistics_of_batches_are_frozen(flag: str, inputs: Inputs) -> None:
    assert inputs.fit(**{flag: 1}) == 1
    assert "normalizes over the batch" in str(inputs.error())
    assert inputs.fit(**{flag: 1}, recipe="finetune", image_size=32) == 0
    assert inputs.fit(**{flag: 1}, layers_to_freeze=9) == 0


WITH_AUXILIARY_HEAD = f"""{CODE}
class WithAuxiliaryHead(TinyNet):
    def __init__(self, width=4, num_classes=2):
        super().__init__(width, num_classes)
        self.auxiliary = nn.Linear(3 * 64 * 64, num_classes)
    def forward(self, x):
        logits = super().forward(x)
        return (logits, self.auxiliary(x.flatten(1))) if self.training else logits
TinyNet = WithAuxiliaryHead
"""


def test_a_size_is_checked_without_an_auxiliary_head_that_the_recipe_does_not_run(inputs: Inputs) -> None:
    shutil.rmtree(inputs.untrained)
    write_model_with_code(inputs.untrained, WITH_AUXILIARY_HEAD, "with_auxiliary_head")
    how = {"trust_model_code": "true", "image_size": 32, "resume": "never"}
    assert inputs.fit(recipe="finetune", **how) == 0
    assert inputs.fit(recipe="classic", **how) == 1
    assert "does not accept images of 32x32" in str(inputs.error())


def test_adamw_needs_a_momentum_below_1(inputs: Inputs) -> None:
    assert inputs.fit(optimizer="adamw", momentum=1) == 1
    assert "--momentum 1: AdamW needs less than 1" in str(inputs.error())
    assert not inputs.trained.exists()


def test_gradients_are_not_clipped_to_0(inputs: Inputs) -> None:
    assert inputs.fit(clip_grad_norm="off") == 0
    expected = weights(inputs)
    assert inputs.fit(clip_grad_norm="0.0") == 0
    assert all(torch.equal(value, expected[key]) for key, value in weights(inputs).items())


def test_the_metric_that_decides_is_logged(inputs: Inputs, capfd: pytest.CaptureFixture[str]) -> None:
    assert inputs.fit(recipe="finetune", metric_for_best_model="macro_f1") == 0
    logged = capfd.readouterr().err
    records = inputs.metrics()
    assert [record["epoch"] for record in records] == [0, 1]
    for record in records:
        line = next(line for line in logged.splitlines() if f"valid_loss {record['valid_loss']:.6f}" in line)
        assert f", balanced acc {record['balanced_accuracy']:.5f}, macro f1 {record['macro_f1']:.5f}" in line
    best = max((record for record in records if record["is_best"]), key=lambda record: record["epoch"])
    assert f" (macro f1 of validation {best['macro_f1']:.5f}) to " in logged
    assert "top-1 validation accuracy" not in logged


@pytest.mark.parametrize(("metric", "words"), [("accuracy", "top-1 validation accuracy"), ("loss", "validation loss")])
def test_the_last_line_names_the_metric_that_decides(
    metric: str, words: str, inputs: Inputs, capfd: pytest.CaptureFixture[str]
) -> None:
    assert inputs.fit(metric_for_best_model=metric) == 0
    (record,) = inputs.metrics()
    value = record[{"accuracy": "top1_acc", "loss": "valid_loss"}[metric]]
    assert f"Saved the trained model of epoch 1 ({words} {value:.5f}) to " in capfd.readouterr().err


def test_float16_trains_with_scaled_gradients(inputs: Inputs) -> None:
    assert inputs.fit(precision="float16", epochs=3, learning_rate=0.01) == 0
    half = [record["train_loss"] for record in inputs.metrics()]
    assert inputs.fit(precision="float32", epochs=3, learning_rate=0.01) == 0
    full = [record["train_loss"] for record in inputs.metrics()]
    assert half[0] == pytest.approx(full[0], rel=0.1)
    assert half[0] != full[0]


@pytest.mark.parametrize(("flag", "value"), [("image_store", "ram"), ("precision", "float64"), ("cuda_graph", "max")])
def test_a_value_that_is_none_of_the_choices_is_wrong_usage(
    flag: str, value: str, inputs: Inputs, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        inputs.fit(**{flag: value})
    assert raised.value.code == 2
    assert f"but got '{value}'" in capsys.readouterr().err


def test_cuda_graph_on_a_cpu_warns_and_training_continues(inputs: Inputs, capfd: pytest.CaptureFixture[str]) -> None:
    assert inputs.fit(cuda_graph="on") == 0
    assert "--cuda-graph on: requires a GPU" in capfd.readouterr().err


@pytest.mark.parametrize("count", [1, 2])
def test_with_another_validation_precision_the_best_epoch_has_the_figures_of_score(count: int, inputs: Inputs) -> None:
    flags = {"epochs": 3, "batch_size": 6 // count, "precision": "float32", "report": "basic"}
    full = train_job(inputs, count, **flags)
    assert full.wait() == [0] * count, full.log()
    expected = inputs.metrics()
    half = train_job(inputs, count, **flags, validation_precision="bfloat16")
    assert half.wait() == [0] * count, half.log()
    found = inputs.metrics()
    best = max(number for number, record in enumerate(found) if record["is_best"])
    assert [record["train_loss"] for record in found] == [record["train_loss"] for record in expected]
    assert [one["valid_loss"] == other["valid_loss"] for one, other in zip(found, expected)] == [
        number == best for number in range(3)
    ]
    ports = {"trained_model": inputs.trained, "dataset": inputs.valid, "scored_dataset": inputs.path / "scored"}
    assert run_here("score-image-model", **ports, outputs_path=inputs.path / "scoring") == 0
    scored = pd.read_parquet(inputs.path / "scored" / "_data.parquet")
    top1_acc, loss = accuracy_score(scored["category"], scored["Scored Labels"]), found[best]["valid_loss"]
    assert found[best]["top1_acc"] == top1_acc
    if count == 1:  # with two, batches are so small that probabilities are 0, whose logarithm is not known
        columns = [name for name in scored if name.startswith("Scored Prob")]
        probabilities = scored[columns].to_numpy()
        labels = [name.partition("_")[2] for name in columns]
        expected_loss = log_loss(scored["category"], probabilities / probabilities.sum(1, keepdims=True), labels=labels)
        assert loss == pytest.approx(expected_loss, rel=1e-6)
    log = half.log()
    assert "Epochs are validated in bfloat16." in log
    assert (
        f"Epoch {best + 1}, the best, validated again in float32: valid_loss {loss:.6f}, top1 acc {top1_acc:.5f}" in log
    )
    assert f"(top-1 validation accuracy {top1_acc:.5f})" in log
    assert f"{loss:.4f}" in (inputs.outputs / "report" / "report.html").read_text(encoding="utf-8")
