"""The check command: train's arguments, everything looked at, nothing written."""

from __future__ import annotations

import io
import json
import shutil
import signal
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
import torchvision

from tests.checking import check
from tests.jobs import train_job
from tests.making import NETWORK, Inputs, initialize, run_module, write_image_directory, write_multilabel_directory
from tests.untrained_models import write_model_with_code
from train_pytorch_model.cli.main import main
from train_pytorch_model.cli.parser import build_parser
from train_pytorch_model.preflight import command, trial
from train_pytorch_model.preflight.trial import Trial


def everything_in(path: Path) -> dict[Path, bytes | None]:
    return {item: item.read_bytes() if item.is_file() else None for item in path.rglob("*")}


def test_it_takes_the_arguments_of_train_and_one_more() -> None:
    commands = next(action for action in build_parser()._actions if action.dest == "command").choices
    assert commands is not None
    train, check = (
        {flag: (action.default, action.choices) for action in commands[name]._actions for flag in action.option_strings}  # type: ignore[index]
        for name in ("train", "check")
    )
    assert set(check) - set(train) == {"--json"}
    assert {flag: check[flag] for flag in train} == train


def test_what_is_found_is_what_is_there(inputs: Inputs, capsys: pytest.CaptureFixture[str]) -> None:
    before = everything_in(inputs.path)
    code, found = check(inputs, capsys, epochs=7, outputs_path=inputs.path / "some" / "outputs")
    assert code == 0
    assert everything_in(inputs.path) == before
    assert (found["ok"], found["problems"], found["warnings"]) == (True, [], [])
    assert found["classes"] == ["cat", "dog", "owl"]
    files = [path.stat().st_size for path in (inputs.train / "image").iterdir()]
    assert found["training"] == {
        "path": str(inputs.train),
        "images": 24,
        "unreadable": 0,
        "width": 32,
        "height": 32,
        "file_bytes": sum(files),
        "decoded_bytes": 24 * 32 * 32 * 3,
        "counts": {"cat": 8, "dog": 8, "owl": 8},
        "geometry": "",
        "without_labels": 0,
    }
    assert found["task"] == "multiclass"
    assert (found["validation"]["images"], found["validation"]["counts"]) == (12, {"cat": 4, "dog": 4, "owl": 4})
    network = torchvision.models.get_model(NETWORK, num_classes=3)
    assert found["model"]["weights"] == sum(parameter.numel() for parameter in network.parameters())
    assert found["model"]["new_weights"] == ["fc.weight", "fc.bias"]
    assert found["chosen"]["image_store"] == "memory"
    assert found["memory"][0]["needed_bytes"] == 36 * 32 * 32 * 3
    estimate = found["estimate"]
    assert estimate["epoch_seconds"] > 0
    assert estimate["total_seconds"] == pytest.approx(estimate["start_seconds"] + 7 * estimate["epoch_seconds"])


def test_a_person_gets_a_page(inputs: Inputs, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *inputs.arguments()[1:]]) == 0
    page = capsys.readouterr().out
    for text in ("24 images of 32x32 pixels", f"{NETWORK}(num_classes=3)", "Training can start.", "per epoch"):
        assert text in " ".join(page.split())
    (bar,) = {line.split()[-1] for line in page.splitlines() if line.split()[:2] in (["cat", "8"], ["owl", "8"])}
    assert bar == 24 * "█"
    assert max(map(len, page.splitlines())) <= 80
    assert main(["check", *inputs.arguments(batch_size=25)[1:]]) == 1
    page = " ".join(capsys.readouterr().out.split())
    assert 'LessThanOrEqualTo (7): Parameter "Batch size"' in page
    assert "Training cannot start." in page


def test_several_labels_an_image_are_told_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = Inputs(tmp_path)
    for seed, path in enumerate((inputs.train, inputs.valid)):
        write_multilabel_directory(path, seed=seed)
    initialize(inputs.untrained, NETWORK, inputs.outputs)
    code, found = check(inputs, capsys)
    assert (code, found["task"], found["warnings"]) == (0, "multilabel", [])
    assert found["training"]["counts"] == {"cat": 12, "dog": 12, "owl": 12}
    assert (found["training"]["images"], found["training"]["without_labels"]) == (24, 3)
    assert main(["check", *inputs.arguments()[1:]]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "Task multilabel: none, one or several labels per image" in page
    assert "24 images of 32x32 pixels, 3 of them without a label" in page
    assert "Images per label label training validation" in page


def test_what_does_not_fit_several_labels_is_a_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = Inputs(tmp_path)
    lists = [*[["cat", "dog"]] * 15, *[["cat"]] * 5, ["cat", "owl"]]
    write_multilabel_directory(inputs.train, lists)
    write_image_directory(inputs.valid, size=32)
    initialize(inputs.untrained, NETWORK, inputs.outputs)
    code, found = check(inputs, capsys)
    assert code == 1
    (problem,) = found["problems"]
    assert "it has one class per image, but the training dataset has a list of labels per image" in problem["message"]
    shutil.rmtree(inputs.valid)
    write_multilabel_directory(inputs.valid)
    code, found = check(inputs, capsys)
    assert code == 0
    _, refused = check(inputs, capsys, metric_for_best_model="balanced_accuracy")
    (problem,) = refused["problems"]
    assert "balanced_accuracy" in problem["message"]
    warnings = " ".join(found["warnings"])
    assert "every image has the label 'cat'" in warnings
    assert "1 of 3 labels has fewer than a tenth of the training images of 'cat' (21): 'owl' (1)" in warnings


def test_of_many_classes_the_largest_and_the_smallest_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = Inputs(tmp_path)
    classes = [f"class {number:02}" for number in range(45)]
    write_image_directory(inputs.train, classes=classes, per_class=1, size=32)
    shutil.copytree(inputs.train, inputs.valid)
    initialize(inputs.untrained, NETWORK, tmp_path / "outputs")
    assert main(["check", *inputs.arguments()[1:]]) == 0
    page = capsys.readouterr().out
    assert "and 15 more" in page
    assert sum(line.startswith("class ") and line.split()[2] == "1" for line in page.splitlines()) == 30
    assert "45 of 45 validation images are identical to training images, byte for byte" in " ".join(page.split())


def test_problems_are_those_that_train_ends_with(inputs: Inputs, capsys: pytest.CaptureFixture[str]) -> None:
    broken = sorted((inputs.valid / "image").iterdir())[2]
    broken.write_bytes(broken.read_bytes()[:200])
    wrong: dict[str, object] = {"batch_size": 25, "epochs": 0, "learning_rate": -1}
    code, found = check(inputs, capsys, **wrong)
    assert (code, found["ok"]) == (1, False)
    assert inputs.fit(**wrong) == 1
    told = str(inputs.error())
    assert len(found["problems"]) == 4
    assert all(problem["message"][:100] in told for problem in found["problems"])
    assert [problem["code"] for problem in found["problems"]] == [4, 5, 18, 7]
    # What can be looked at is.
    assert found["training"]["images"] == 24
    assert found["validation"]["unreadable"] == 1


def test_a_part_that_is_missing_leaves_the_rest(inputs: Inputs, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(inputs.untrained)
    shutil.rmtree(inputs.valid)
    code, found = check(inputs, capsys)
    assert code == 1
    assert [problem["id"] for problem in found["problems"]] == ["InvalidModelDirectory", "InvalidDataset"]
    assert (found["model"], found["validation"], found["estimate"]) == (None, None, None)
    assert found["training"]["counts"] == {"cat": 8, "dog": 8, "owl": 8}
    assert main(["check", *inputs.arguments()[1:]]) == 1
    assert "24 images" in capsys.readouterr().out


def test_a_missing_designer_core_is_one_problem_of_several(
    inputs: Inputs, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "azureml.studio.core.io.model_directory", None)
    code, found = check(inputs, capsys, epochs=0)
    assert (code, [problem["code"] for problem in found["problems"]]) == (1, [4, 2000])
    assert "python -m pip install --no-deps azureml-designer-core==0.0.86" in found["problems"][1]["message"]


def test_images_that_will_be_skipped_are_reported(inputs: Inputs, capsys: pytest.CaptureFixture[str]) -> None:
    broken = sorted((inputs.train / "image").iterdir())[2]
    broken.write_bytes(broken.read_bytes()[:200])
    code, found = check(inputs, capsys, skip_unreadable_images="true")
    assert code == 0
    assert broken.name in found["warnings"][0]
    assert found["training"]["images"] == 23


def test_steps_with_every_part_of_augmentation_are_tried(inputs: Inputs, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = check(inputs, capsys, recipe="large", batch_size=8, image_size=28)
    assert (code, found["ok"]) == (0, True)
    assert found["estimate"]["epoch_seconds"] > 0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"freeze_epochs": 4, "epochs": 3}, "--freeze-epochs 4 is more than the 3 epochs"),
        ({"freeze_epochs": 3, "epochs": 3}, None),
        ({"batch_size": 1, "cutmix_alpha": 1, "image_size": 64}, "with --batch-size 1 nothing is mixed"),
        ({"batch_size": 2, "mixup_alpha": 1}, None),
        ({"horizontal_flip": "off", "test_time_augmentation": "flip"}, "Set it to none if left and right differ"),
    ],
)
def test_parts_of_a_recipe_that_do_not_go_together_are_warned_of(
    inputs: Inputs, capsys: pytest.CaptureFixture[str], values: dict[str, object], words: str | None
) -> None:
    code, found = check(inputs, capsys, **values)
    assert code == 0
    warned = [text for text in found["warnings"] if "--freeze-epochs" in text or "mixed" in text or "mirror" in text]
    assert [words in text for text in warned] == ([True] if words else [])


def test_the_estimate_counts_what_fine_tuning_does_before_and_after_its_epochs(
    inputs: Inputs, capsys: pytest.CaptureFixture[str]
) -> None:
    beyond = []
    for recipe in ("scratch", "finetune"):
        _, found = check(inputs, capsys, epochs=2, recipe=recipe, image_size=32)
        estimate = found["estimate"]
        beyond.append(estimate["total_seconds"] - estimate["start_seconds"] - 2 * estimate["epoch_seconds"])
    assert beyond[0] == pytest.approx(0, abs=1e-6)
    assert beyond[1] > 0.001


def test_a_model_trained_before_keeps_its_head(inputs: Inputs, capsys: pytest.CaptureFixture[str]) -> None:
    assert inputs.fit() == 0
    before = everything_in(inputs.path)
    code, found = check(inputs, capsys, untrained_model_path=inputs.trained, trained_model_path=inputs.path / "more")
    assert (code, found["model"]["new_weights"]) == (0, [])
    assert everything_in(inputs.path) == before


def test_memory_that_does_not_suffice_is_a_problem(
    inputs: Inputs, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: object) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(command, "try_steps", too_large)
    code, found = check(inputs, capsys)
    assert (code, found["problems"][0]["code"]) == (1, 138)
    assert "Lower the batch size (it is 6)" in found["problems"][0]["message"]


def test_memory_is_summed_where_several_things_want_it(
    inputs: Inputs, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = 36 * 32 * 32 * 3
    monkeypatch.setattr(command, "try_steps", lambda *_: Trial(0.1, 0.1, 10_000_000))
    for free, code in ((images + 10_000_000, 0), (images + 9_999_999, 1)):
        monkeypatch.setattr(command, "free_bytes", lambda device, free=free: {"memory": float(free), "disk": 1e12})
        given, found = check(inputs, capsys, image_store="memory")
        assert given == code
        assert [need["free_bytes"] for need in found["memory"]] == [free, free]
    assert found["problems"][0]["code"] == 138
    assert "decoded images 0.1 MiB and network and a batch 9.5 MiB" in found["problems"][0]["message"]


def test_images_decoded_in_every_epoch_take_time_and_no_room(
    inputs: Inputs, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "try_steps", lambda *_: Trial(0.0, 0.0, None))  # whose memory nobody knows
    for place, needs in (("memory", ["decoded images"]), ("none", [])):
        code, found = check(inputs, capsys, image_store=place)
        assert code == 0
        assert [need["what"] for need in found["memory"]] == needs
        assert (found["estimate"]["epoch_seconds"] > 0) == (place == "none")


def test_long_steps_are_tried_fewer_times(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[torch.Tensor] = []

    def num_tried(seconds: float) -> int:
        tried.clear()
        monkeypatch.setattr(trial, "_SECONDS", seconds)
        trial.time_steps(lambda pixels, _: tried.append(pixels), [(torch.ones(1), torch.ones(1))], torch.device("cpu"))
        return len(tried)

    assert num_tried(1000.0) == trial._WARM_UP + trial._TIMED
    assert num_tried(0.0) == trial._WARM_UP + 1


def test_parts_of_a_batch_are_tried_too(inputs: Inputs, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = check(inputs, capsys, microbatch_size="auto")
    assert code == 0
    assert found["estimate"]["epoch_seconds"] > 0


BREAKS_IN_A_STEP = """
import torch
class TinyNet(torch.nn.Module):
    def __init__(self, width=4, num_classes=2):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.Linear(width, num_classes))
    def forward(self, x):
        if self.training and torch.is_grad_enabled() and not x.is_meta:
            raise ValueError("a fault of the network's own")
        return self.layers(x.mean((2, 3)))
"""


def test_a_fault_of_the_network_is_reported_with_its_place(inputs: Inputs, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(inputs.untrained)
    write_model_with_code(inputs.untrained, BREAKS_IN_A_STEP, "breaks_in_a_step")
    flags = inputs.arguments(trust_model_code="true", log_format="json")[1:]
    assert main(["check", *flags]) == 1
    line = next(line for line in map(json.loads, capfd.readouterr().err.splitlines()) if "exception" in line)
    assert "This is a fault of the module or of a library" in line["message"]
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: a fault of the network's own")


def test_a_page_goes_wherever_output_is_sent(inputs: Inputs) -> None:
    with redirect_stdout(io.StringIO()) as page:
        assert main(["check", *inputs.arguments()[1:]]) == 0
    assert "Training can start." in page.getvalue()


def test_the_memory_of_a_trial_is_that_of_the_network(inputs: Inputs, capsys: pytest.CaptureFixture[str]) -> None:
    # 137 million weights of 4 bytes, each with its gradient and its momentum; the process has held more before.
    waste = bytearray(3 * 2**30)
    waste[::4096] = bytes(len(waste) // 4096)
    del waste
    initialize(inputs.path / "vgg", "vgg11", inputs.outputs)
    code, found = check(inputs, capsys, untrained_model_path=inputs.path / "vgg", batch_size=2)
    assert code == 0
    least = 3 * 4 * found["model"]["weights"]
    assert 0.6 * least < found["memory"][1]["needed_bytes"] < 2 * least


def test_it_says_where_a_training_would_begin(inputs: Inputs, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(inputs, capsys)[1]["start"] == "from scratch"
    code, found = check(inputs, capsys, resume="require")
    assert code == 1
    assert "--resume require: there is no usable checkpoint" in found["problems"][0]["message"]
    assert inputs.fit(resume="require") == 1
    assert found["problems"][0]["message"] == str(inputs.error()["Message"]).partition(": ")[2]  # type: ignore[index]
    job = train_job(inputs, epochs=50, patience=50, checkpoint_minutes=0)
    assert job.until(lambda: list(inputs.outputs.glob("checkpoints/*.pt")))
    job.send(signal.SIGKILL)
    job.wait()
    before = everything_in(inputs.path)
    code, found = check(inputs, capsys, epochs=50, patience=50, resume="require")
    assert code == 0
    assert found["start"].startswith("resumes from the checkpoint of epoch ")
    assert "batch size" in check(inputs, capsys, epochs=50, patience=50, batch_size=4)[1]["start"]
    assert everything_in(inputs.path) == before


def test_a_run_of_few_images_resumes_with_the_batch_that_was_chosen(
    inputs: Inputs, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(inputs.train)
    write_image_directory(inputs.train, per_class=3)
    how = {"batch_size": None, "epochs": 50, "patience": 50}
    job = train_job(inputs, **how, checkpoint_minutes=0)
    assert job.until(lambda: list(inputs.outputs.glob("checkpoints/*.pt")))
    job.send(signal.SIGKILL)
    job.wait()
    code, found = check(inputs, capsys, **how, resume="require")
    assert (code, found["problems"]) == (0, [])
    assert found["start"].startswith("resumes from the checkpoint of epoch ")
    code, found = check(inputs, capsys, **{**how, "batch_size": 16})
    assert [problem["id"] for problem in found["problems"]] == ["LessThanOrEqualTo"]


def test_a_folder_that_may_not_be_looked_into_is_a_problem(inputs: Inputs, capsys: pytest.CaptureFixture[str]) -> None:
    (inputs.path / "file").write_text("not a folder")
    code, found = check(inputs, capsys, outputs_path=inputs.path / "file" / "outputs")
    assert code == 1
    assert "--outputs-path" in found["problems"][0]["message"]


def test_labels_that_the_terminal_has_no_letters_for_end_nothing(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path)
    classes = [f"猫 {number}" for number in range(45)]
    write_image_directory(inputs.train, classes=classes, per_class=1)
    shutil.copytree(inputs.train, inputs.valid)
    initialize(inputs.untrained, NETWORK, tmp_path / "outputs")
    finished = run_module("check", *inputs.arguments()[1:], PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert finished.returncode == 0, finished.stderr
    assert "#" in finished.stdout
    assert "and 15 more" in finished.stdout
