"""The command as a user runs it, from its inputs to what it leaves behind."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.making import ROOT, Inputs, initialize, paths_of, run_module, write_class_folders, write_image_directory
from tests.scripted import script_validation
from tests.untrained_models import write_model_with_code
from train_pytorch_model.designer_core import load_model_spec
from train_pytorch_model.distributed.world import World
from train_pytorch_model.job import output, stores
from train_pytorch_model.job import run as training_run

METRIC_KEYS = [
    "epoch",
    "learning_rate",
    "train_loss",
    "train_error",
    "valid_loss",
    "top1_acc",
    "top5_acc",
    "is_best",
]


def weights(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(path / "model", weights_only=True)
    return state


def same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_a_training_leaves_model_metrics_and_report(inputs: Inputs) -> None:
    assert inputs.fit(epochs=3, learning_rate=0.05) == 0
    metrics = inputs.metrics()
    assert [list(record) for record in metrics] == [METRIC_KEYS] * 3
    assert [record["epoch"] for record in metrics] == [1, 2, 3]
    assert [record["learning_rate"] for record in metrics] == pytest.approx([0.05, 0.0222223, 0.0055556], rel=1e-5)
    assert all(record["top5_acc"] is None for record in metrics)  # three classes
    timings = [json.loads(line) for line in (inputs.outputs / "timings.jsonl").read_text().splitlines()]
    assert [timing["epoch"] for timing in timings] == [1, 2, 3]
    assert all(timing["train_images_per_second"] > 0 for timing in timings)
    assert inputs.error() is None
    assert load_model_spec(inputs.trained)["flavor_extras"]["init_params"] == {"num_classes": 3}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_same_command_in_two_processes_gives_the_same_bits(precision: str, inputs: Inputs) -> None:
    outcomes = []
    for seed in ("7", "7", "8"):
        # Once in Pythons started afresh, each with another order of its sets, and with threads.
        is_fresh = precision == "float32" and seed == "7"
        started = {"PYTHONHASHSEED": str(len(outcomes)), "OMP_NUM_THREADS": "2"} if is_fresh else {}
        finished = run_module(*inputs.arguments(random_seed=seed, epochs=2, precision=precision), **started)
        assert finished.returncode == 0, finished.stderr
        outcomes.append((weights(inputs.trained), (inputs.outputs / "metrics.jsonl").read_bytes()))
    assert same_bits(outcomes[0][0], outcomes[1][0])
    assert outcomes[0][1] == outcomes[1][1]
    assert not same_bits(outcomes[0][0], outcomes[2][0])


def test_an_unseeded_run_says_the_seed_that_repeats_it(inputs: Inputs, capfd: pytest.CaptureFixture[str]) -> None:
    assert inputs.fit(random_seed="none") == 0
    found = re.search(r"Repeat this run with --random-seed (\d+)\.", capfd.readouterr().err)
    assert found is not None
    first = weights(inputs.trained)
    assert inputs.fit(random_seed=found[1]) == 0
    assert same_bits(first, weights(inputs.trained))


def test_training_starts_from_the_given_weights(inputs: Inputs) -> None:
    # A learning rate too small to change anything shows what training began with.
    assert inputs.fit(learning_rate=5e-324) == 0
    given, trained = weights(inputs.untrained), weights(inputs.trained)
    learnt = [key for key in given if not key.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    changed = [key for key in learnt if not torch.equal(given[key], trained[key])]
    assert changed == ["fc.weight", "fc.bias"]


def test_a_trained_model_is_trained_on_from_with_its_head(inputs: Inputs, tmp_path: Path) -> None:
    assert inputs.fit(epochs=2, learning_rate=0.05) == 0
    first = weights(inputs.trained)
    inputs.untrained, inputs.trained = inputs.trained, tmp_path / "again"
    assert inputs.fit(learning_rate=5e-324) == 0
    assert torch.equal(weights(inputs.trained)["fc.weight"], first["fc.weight"])

    shutil.rmtree(inputs.train)
    shutil.rmtree(inputs.valid)
    renamed = ("cow", "dog", "owl")
    inputs.train = write_image_directory(tmp_path / "t", classes=renamed)
    inputs.valid = write_image_directory(tmp_path / "v", classes=renamed)
    assert inputs.fit(learning_rate=5e-324) == 0
    assert not torch.equal(weights(inputs.trained)["fc.weight"], first["fc.weight"])
    assert torch.equal(weights(inputs.trained)["conv1.0.weight"], first["conv1.0.weight"])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_best_epoch_is_written_not_the_last_and_was_validated_in_float32(
    precision: str, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_validation(monkeypatch, accuracies=(0.25, 0.75, 0.5))
    assert inputs.fit(epochs=3, learning_rate=0.05, patience=3, precision=precision) == 0
    metrics: list[dict[str, Any]] = inputs.metrics()
    assert [record["is_best"] for record in metrics] == [True, True, False]
    best = metrics[1]
    # The written weights score what that epoch scored.
    shutil.copytree(inputs.trained, inputs.path / "best")
    inputs.untrained, inputs.trained = inputs.path / "best", inputs.path / "rescored"
    from train_pytorch_model.models.description import describe
    from train_pytorch_model.ports.labelled_images import read_labelled_images

    spec = load_model_spec(inputs.path / "best")["flavor_extras"]
    network = describe(spec["module"], spec["class"], spec["init_params"]).build().eval()
    network.load_state_dict(weights(inputs.path / "best"))
    images = read_labelled_images(inputs.valid, "Validation dataset")
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths_of(images)])
    with torch.no_grad():
        logits = network((torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5)
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(images.labels)).item()
    assert loss == pytest.approx(best["valid_loss"], rel=1e-4)
    assert all(loss != pytest.approx(other["valid_loss"], rel=1e-4) for other in metrics if other is not best)


@pytest.mark.parametrize("found", ["absent", "empty", "earlier model"])
def test_a_run_that_fails_leaves_no_model(found: str, inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    if found == "empty":
        inputs.trained.mkdir()
    if found == "earlier model":
        assert inputs.fit() == 0
    before = sorted(path.name for path in inputs.trained.iterdir()) if inputs.trained.exists() else None

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr(output, "write_trained_model", fail)
    assert inputs.fit() == 1
    after = sorted(path.name for path in inputs.trained.iterdir()) if inputs.trained.exists() else None
    assert after == before
    error = inputs.error()
    assert error is not None
    assert (error["ErrorId"], error["ErrorCode"]) == ("RuntimeError", 1000)


def test_all_faults_are_reported_together(inputs: Inputs, capfd: pytest.CaptureFixture[str]) -> None:
    (inputs.untrained / "model").unlink()
    (inputs.train / "image" / "0_0.png").write_bytes(b"no image")
    (inputs.valid / "image" / "0_0.png").unlink()
    inputs.trained.mkdir()
    (inputs.trained / "notes.txt").write_text("")
    assert inputs.fit(epochs=0, batch_size=99) == 1
    error = inputs.error()
    assert error is not None
    assert (error["ErrorId"], error["ErrorCode"]) == ("GreaterThan", 4)
    message = str(error["Message"])
    for words in (
        'Parameter "Epochs" has value "0"',
        'Parameter "Batch size" value 99 should be less than or equal to train data count value 24.',
        'ModelDirectory "Untrained model" is invalid.',
        'ModelDirectory "Trained model" is invalid.',
        "'image/0_0.png': it is not an image but text",
        "'image/0_0.png': the file is missing",
    ):
        assert words in message
    assert len(message.splitlines()) == 6
    printed = capfd.readouterr()
    assert message in printed.err
    assert "Traceback" not in printed.err + printed.out


def test_images_of_different_sizes_are_named_by_file_and_size(
    inputs: Inputs, capfd: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (40, 20)).save(inputs.train / "image" / "1_9.png")
    assert inputs.fit() == 0
    log = capfd.readouterr().err
    assert "most images are 32x32, but 1 of 24 have another size: 'image/1_9.png'" in log


def test_unreadable_images_can_be_skipped_and_are_listed(inputs: Inputs, capfd: pytest.CaptureFixture[str]) -> None:
    whole = (inputs.train / "image" / "0_0.png").read_bytes()
    (inputs.train / "image" / "0_0.png").unlink()  # the first: the one by which designer-core judges the folder
    (inputs.train / "image" / "0_1.png").write_bytes(whole[: len(whole) // 2])
    (inputs.valid / "image" / "1_4.png").write_bytes(b"")
    assert inputs.fit() == 1
    assert "2 of 24 images cannot be read: 'image/0_0.png': the file is missing; 'image/0_1.png'" in str(inputs.error())
    assert inputs.fit(skip_unreadable_images="true") == 0
    listed = json.loads((inputs.outputs / "unreadable_images.json").read_text())
    assert [entry["file_name"] for entry in listed["Training dataset"]] == ["image/0_0.png", "image/0_1.png"]
    assert [entry["file_name"] for entry in listed["Validation dataset"]] == ["image/1_4.png"]
    assert "2 of 24 images cannot be read and are skipped" in capfd.readouterr().err


@pytest.mark.parametrize("part", ["train", "valid"])
def test_a_dataset_with_no_readable_image_is_an_error_even_when_skipping(part: str, inputs: Inputs) -> None:
    for path in (inputs.path / part / "image").iterdir():
        path.write_bytes(path.read_bytes()[:200])
    assert inputs.fit(skip_unreadable_images="true") == 1
    error = inputs.error()
    assert error is not None
    assert error["ErrorId"] == "InvalidDataset"
    assert "can be read" in str(error["Message"])
    assert not inputs.trained.exists()


def test_a_network_that_does_not_accept_the_images_is_reported_before_training(inputs: Inputs) -> None:
    shutil.rmtree(inputs.untrained)
    initialize(inputs.untrained, "vit_b_32", inputs.outputs)
    assert inputs.fit() == 1
    assert "vit_b_32 does not accept images of 32x32: Wrong image height! Expected 224 but got 32!" in str(
        inputs.error()
    )
    assert not (inputs.outputs / "metrics.jsonl").exists()


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_best_so_far(
    inputs: Inputs, capfd: pytest.CaptureFixture[str]
) -> None:
    best = inputs.outputs / "checkpoints" / "best"
    assert inputs.fit(epochs=5, learning_rate=1e30) == 1
    assert "Lower the learning rate (it is 1e+30). No epoch was completed" in str(inputs.error())
    assert not inputs.trained.exists()
    assert not best.exists()
    # One epoch goes well at the warm-up's 1e-4, the next does not.
    assert inputs.fit(epochs=3, warmup_epochs=1, learning_rate=1e30) == 1
    assert f"The best model so far, of epoch 1, is saved in {best}" in str(inputs.error())
    assert not inputs.trained.exists()
    inputs.untrained = best
    assert inputs.fit() == 0
    assert "Traceback" not in capfd.readouterr().err


def test_a_validation_that_is_never_finite_leaves_nothing_to_keep(inputs: Inputs) -> None:
    # The one step begins well, and takes the weights beyond all numbers.
    assert inputs.fit(epochs=1, batch_size=24, learning_rate=1e30) == 1
    assert "The validation loss was not a finite number in any epoch, so there is no model to save." in str(
        inputs.error()
    )
    assert not inputs.trained.exists()


class Apart(World):
    """One of two processes; the other was given another batch size, or a microbatch size."""

    other: dict[str, int]

    def gather(self, value: Any) -> list[Any]:
        return [value, {**value, **self.other}] if isinstance(value, dict) and "batch size" in value else [value]


@pytest.mark.parametrize("name", ["batch size", "microbatch size"])
def test_processes_with_different_settings_are_reported(
    name: str, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = Apart()
    apart.other = {name: 7}
    monkeypatch.setattr(training_run, "connected", lambda *_: nullcontext(apart))
    assert inputs.fit() == 1
    assert f"The processes have different settings or inputs: {name} differ." in str(inputs.error())


def test_large_datasets_are_not_decoded_when_there_are_other_faults(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for folder in (inputs.train, inputs.valid):
        broken = sorted((folder / "image").iterdir())[2]
        broken.write_bytes(broken.read_bytes()[:200])
    monkeypatch.setattr(stores, "_MAX_IMAGES_DECODED_FOR_FAULTS", 12)
    assert inputs.fit(epochs=0) == 1
    assert f"Training dataset {inputs.train}: 24 images were not decoded" in capfd.readouterr().err
    message = str(inputs.error())
    assert 'Parameter "Epochs"' in message
    assert "1 of 12 images cannot be read" in message
    assert "of 24 images" not in message


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate"), RuntimeError("can't allocate memory")],
    ids=["host", "device", "allocator"],
)
def test_running_out_of_memory_is_reported_with_the_batch_size(
    error: Exception, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(training_run, "fit", fail)
    assert inputs.fit() == 1
    report = inputs.error()
    assert report is not None
    assert (report["ErrorId"], report["ErrorCode"]) == ("ModuleOutOfMemory", 138)
    assert "Lower the batch size (it is 6)" in str(report["Message"])


def test_nothing_of_the_environment_is_printed_or_written(inputs: Inputs) -> None:
    secret = "s3cr3t-0f-th3-env1r0nm3nt"
    for expected, epochs in ((0, 1), (1, 0)):
        finished = run_module(*inputs.arguments(epochs=epochs), SOME_TOKEN=secret)
        assert finished.returncode == expected
        assert secret not in finished.stdout + finished.stderr
        files = [path for folder in (inputs.outputs, inputs.trained) for path in folder.rglob("*") if path.is_file()]
        assert all(secret.encode() not in path.read_bytes() for path in files)


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-"])
def test_a_command_whose_output_is_closed_does_its_work(closed: str, inputs: Inputs) -> None:
    command = shlex.join([sys.executable, "-m", "train_pytorch_model", "check", *inputs.arguments()[1:]])
    finished = subprocess.run(f"{command} {closed}", shell=True, capture_output=True, text=True)
    assert finished.returncode == 0
    assert (f"{inputs.train}" in "".join(finished.stdout.split())) == (closed == "2>&-")


def test_lines_of_progress_are_plain_where_there_is_no_terminal(inputs: Inputs) -> None:
    finished = run_module(*inputs.arguments(print_freq=2))
    assert "Epoch 1/1, iteration 2/4: loss" in finished.stderr
    assert "Epoch 1/1, iteration 3/4: loss" not in finished.stderr
    assert "\x1b" not in finished.stderr + finished.stdout
    assert "\r" not in finished.stderr + finished.stdout


def test_what_will_surprise_about_the_classes_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    inputs = Inputs(tmp_path).make(classes=("cat", "NA"))
    for path in sorted((inputs.valid / "image").glob("0_*")):
        path.unlink()
    list_file = inputs.valid / "images.lst"
    lines = list_file.read_text().splitlines(keepends=True)
    list_file.write_text("".join(line for line in lines if '"NA"' not in line))
    assert inputs.fit() == 0
    printed = capfd.readouterr().err
    assert "reads the label 'NA' as a missing value" in printed
    assert f"Validation dataset {inputs.valid} has no image of 'NA'." in printed


def test_a_model_with_its_own_code_trains_if_trusted_and_contains_the_code(inputs: Inputs, tmp_path: Path) -> None:
    shutil.rmtree(inputs.untrained)
    write_model_with_code(inputs.untrained)
    assert run_module(*inputs.arguments()).returncode == 1
    assert "--trust-model-code" in str(inputs.error())
    for again in ("once", "twice"):
        finished = run_module(*inputs.arguments(trust_model_code="true"))
        assert finished.returncode == 0, finished.stderr
        spec = load_model_spec(inputs.trained)
        assert spec["flavor_extras"]["init_params"] == {"width": 5, "num_classes": 3}
        assert spec["local_dependencies"] == ["local_dependencies/mine"]
        # What was written is enough to train on from.
        inputs.untrained, inputs.trained = inputs.trained, tmp_path / again


def test_help_answers_without_heavy_imports() -> None:
    code = (
        "import sys; from train_pytorch_model.cli.main import main\n"
        "try: main(['train', '--help'])\n"
        "except SystemExit: print(sorted({'torch', 'numpy', 'PIL', 'rich', 'pandas', 'azureml'} & set(sys.modules)))"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.endswith("[]\n")
    assert "--learning-rate" in finished.stdout


def test_raw_folders_train_to_the_same_bits_as_the_image_directory_of_them(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path).make()
    assert inputs.fit() == 0
    from_directories = weights(inputs.trained)
    inputs.train = write_class_folders(tmp_path / "raw_train")
    inputs.valid = write_class_folders(tmp_path / "raw_valid", per_class=4, seed=1)
    assert inputs.fit() == 0
    assert same_bits(from_directories, weights(inputs.trained))


def test_the_package_imports_in_silence() -> None:
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import train_pytorch_model.job.run"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")
