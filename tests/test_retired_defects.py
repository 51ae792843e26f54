"""What the retired module got wrong, one test a defect: none of it may happen here.

Each was seen by running the retired module; the docstrings say what it did.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.making import CLASSES, Inputs, initialize, run_module, write_class_folders, write_image_directory
from tests.scripted import script_validation
from train_pytorch_model.cli.main import main
from train_pytorch_model.designer_core import load_model_spec
from train_pytorch_model.models.description import describe


def weights(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(path / "model", weights_only=True)
    return state


def error_id(inputs: Inputs) -> tuple[Any, Any]:
    error = inputs.error()
    assert error is not None
    return error["ErrorId"], error["ErrorCode"]


def break_images(folder: Path, count: int) -> None:
    for path in sorted((folder / "image").iterdir())[:count]:
        path.write_bytes(b"no image")


def test_the_model_written_is_the_best_epochs(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    """It wrote the last epoch's weights, and its "best" never fired."""
    script = {"accuracies": (0.25, 0.75, 0.5, 0.75, 0.75), "losses": (3.0, 2.0, 1.0, 2.5, 2.0)}
    script_validation(monkeypatch, **script)
    assert inputs.fit(epochs=5, patience=5) == 0
    assert [record["is_best"] for record in inputs.metrics()] == [True, True, False, False, False]
    written = weights(inputs.trained)
    # A run that stops right after the same best epoch writes the same weights, and they are not the first epoch's.
    script_validation(monkeypatch, accuracies=(0.25, 0.75, 0.5), losses=(1.0, 2.0, 3.0))
    assert inputs.fit(epochs=5, patience=2) == 0
    assert len(inputs.metrics()) == 3
    assert all(torch.equal(value, weights(inputs.trained)[key]) for key, value in written.items())
    script_validation(monkeypatch, accuracies=(0.75, 0.5), losses=(1.0, 2.0))
    assert inputs.fit(epochs=5, patience=1) == 0
    assert not all(torch.equal(value, weights(inputs.trained)[key]) for key, value in written.items())


def test_early_stopping_compares_with_the_lowest_loss_not_the_last(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It compared with the epoch before, so 1, 5, 4.9, 4.8, 4.7 ran on."""
    script_validation(monkeypatch, losses=(1.0, 5.0, 4.9, 4.8, 4.7))
    assert inputs.fit(epochs=5, patience=2) == 0
    assert [record["valid_loss"] for record in inputs.metrics()] == [1.0, 5.0, 4.9]


def test_a_loss_that_is_no_number_ends_the_run_without_a_model(inputs: Inputs) -> None:
    """It trained five epochs of nan and exited with 0."""
    assert inputs.fit(learning_rate=1e30, patience=1, epochs=5) == 1
    assert not inputs.trained.exists()


def test_the_seed_reproduces_the_run(inputs: Inputs) -> None:
    """It seeded after the network was built: two runs of one command differed by 1.94 in a weight."""
    states = []
    for _ in range(2):
        torch.seed()  # whatever state the process begins with
        assert inputs.fit(random_seed=7) == 0
        states.append(weights(inputs.trained))
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_the_untrained_models_weights_are_the_start(inputs: Inputs) -> None:
    """It built the network anew and never used the weights that it was given."""
    assert inputs.fit(learning_rate=5e-324) == 0
    given, trained = weights(inputs.untrained), weights(inputs.trained)
    assert torch.equal(given["conv5.0.weight"], trained["conv5.0.weight"])


@pytest.mark.parametrize("classes", [("owl",), ("cat", "dog"), (*CLASSES, "cow")], ids=["one", "fewer", "more"])
def test_both_datasets_must_have_the_same_classes(classes: tuple[str, ...], inputs: Inputs) -> None:
    """It let validation classes be fewer, gave them indices of their own, and reported an accuracy of 0."""
    inputs.valid = write_image_directory(inputs.path / "other", classes=classes)
    assert inputs.fit() == 1
    assert error_id(inputs) == ("InvalidDataset", 18)


def test_unreadable_training_images_are_named(inputs: Inputs) -> None:
    """It dropped them from their batch with a line in the log, and died where one was left."""
    break_images(inputs.train, 3)
    assert inputs.fit() == 1
    assert error_id(inputs) == ("InvalidDataset", 18)
    assert "3 of 24 images cannot be read: 'image/0_0.png'" in str(inputs.error())


def test_validation_without_a_readable_image_is_an_error(inputs: Inputs) -> None:
    """It computed the validation loss on a training batch."""
    break_images(inputs.valid, 12)
    assert inputs.fit(skip_unreadable_images="true") == 1
    assert error_id(inputs) == ("InvalidDataset", 18)


def test_training_without_a_readable_image_is_an_error(inputs: Inputs) -> None:
    """It ended in "cannot unpack non-iterable NoneType object"."""
    break_images(inputs.train, 24)
    assert inputs.fit(skip_unreadable_images="true") == 1
    assert error_id(inputs) == ("InvalidDataset", 18)


@pytest.mark.parametrize("warmup_epochs", [2, 3])
def test_warmup_may_be_as_long_as_the_training(warmup_epochs: int, inputs: Inputs) -> None:
    """It trained all epochs, divided by zero, and lost the model."""
    assert inputs.fit(epochs=2, num_warmup_steps=warmup_epochs) == 0
    assert (inputs.trained / "_meta.yaml").is_file()


@pytest.mark.parametrize(
    "flags", [{"epochs": 0}, {"print_freq": 0}, {"batch_size": 0}, {"batch_size": -4}], ids=lambda flags: str(flags)
)
def test_a_parameter_out_of_range_is_named(flags: dict[str, int], inputs: Inputs) -> None:
    """It divided by zero, or let torch complain, as a LibraryException 1000."""
    assert inputs.fit(**flags) == 1
    assert error_id(inputs) == ("GreaterThan", 4)


def test_a_flag_without_a_value_is_wrong_usage(inputs: Inputs) -> None:
    """It became None and ended in a TypeError."""
    with pytest.raises(SystemExit) as raised:
        main([*inputs.arguments(), "--epochs"])
    assert raised.value.code == 2


def test_a_negative_learning_rate_is_refused(inputs: Inputs) -> None:
    """It climbed the loss from 2.1 to 13.1 and exited with 0."""
    assert inputs.fit(learning_rate=-0.01) == 1
    assert error_id(inputs) == ("GreaterThanOrEqualTo", 5)


def test_a_forgotten_output_is_found_at_once(inputs: Inputs) -> None:
    """It was found after training, and the model was lost."""
    with pytest.raises(SystemExit) as raised:
        inputs.fit(trained_model_path=None)
    assert raised.value.code == 2
    assert not (inputs.outputs / "metrics.jsonl").exists()


def test_a_batch_larger_than_the_readable_data_is_an_error(inputs: Inputs) -> None:
    """It counted before it knew which images could be read."""
    break_images(inputs.train, 2)
    assert inputs.fit(batch_size=23, skip_unreadable_images="true") == 1
    assert error_id(inputs) == ("LessThanOrEqualTo", 7)
    assert "value 23 should be less than or equal to train data count value 22." in str(inputs.error())


def test_a_batch_of_one_that_cannot_be_normalized_is_an_error(tmp_path: Path) -> None:
    """It found out while training; and up to a batch less one of the images were never used."""
    inputs = Inputs(tmp_path).make("resnet18")
    for name, flags in (("Batch size", {"batch_size": 1}), ("Microbatch size", {"microbatch_size": 1})):
        assert inputs.fit(**flags) == 1
        assert error_id(inputs) == ("GreaterThanOrEqualTo", 5)
        assert f'Parameter "{name}"' in str(inputs.error())
    assert not (inputs.outputs / "metrics.jsonl").exists()
    assert inputs.fit(batch_size=5) == 0
    assert inputs.fit(batch_size=23) == 0


def test_top5_of_five_classes_or_fewer_is_not_reported(inputs: Inputs) -> None:
    """It reported 1.0 always."""
    assert inputs.fit() == 0
    assert inputs.metrics()[0]["top5_acc"] is None


def test_top5_of_more_classes_is_reported(tmp_path: Path) -> None:
    """The other half of the claim: where it says something, it is there."""
    inputs = Inputs(tmp_path).make(classes=[f"c{number}" for number in range(7)])
    assert inputs.fit() == 0
    assert 0 <= float(str(inputs.metrics()[0]["top5_acc"])) < 1


def test_a_wrong_schema_is_an_invalid_dataset(inputs: Inputs) -> None:
    """It ended in an UnboundLocalError."""
    path = inputs.train / "_schema.json"
    path.write_text(path.read_text().replace("image/png", "image/jpeg"))
    assert inputs.fit() == 1
    assert error_id(inputs) == ("InvalidDataset", 18)


def test_the_environment_is_not_printed(inputs: Inputs) -> None:
    """Every run printed all environment variables before anything else, and locals in its tracebacks."""
    (inputs.untrained / "model").write_bytes(b"")
    finished = run_module(*inputs.arguments(), A_SECRET="do-not-show-this")
    assert finished.returncode == 1
    assert "do-not-show-this" not in finished.stdout + finished.stderr
    assert "Traceback" not in finished.stdout + finished.stderr


@pytest.mark.parametrize("classes", [("1", "2"), ("007", "1e3"), ("True", "False")], ids=str)
def test_labels_stay_text(classes: tuple[str, ...], tmp_path: Path) -> None:
    """Score read such labels as numbers or booleans, or stopped at two columns of one name."""
    inputs = Inputs(tmp_path).make(classes=classes)
    assert inputs.fit() == 0
    lines = (inputs.trained / "index_to_label.csv").read_text().splitlines()
    assert lines[1 : len(classes) + 1] == [f"{index},{label}" for index, label in enumerate(sorted(classes))]
    assert not lines[-1].split(",", 1)[1][1:-1].replace(" ", "").isdigit()


def test_gaps_in_category_ids_make_no_outputs(inputs: Inputs) -> None:
    """They became classes called "Others" or their number, of which Score could find two of one name."""
    for folder in (inputs.train, inputs.valid):
        path = folder / "_schema.json"
        schema = json.loads(path.read_text())
        schema["columnAttributes"][2]["properties"]["categories"][2]["id"] = 9
        path.write_text(json.dumps(schema))
    assert inputs.fit() == 0
    assert load_model_spec(inputs.trained)["flavor_extras"]["init_params"] == {"num_classes": 3}


def test_coco_annotations_that_are_no_classes_are_named(inputs: Inputs) -> None:
    """It loaded them and ended in a TypeError of cross_entropy."""
    coco = inputs.path / "coco"
    write_class_folders(coco, ["images"], per_class=1)
    annotations = [{"id": 1, "image_id": 1, "category_id": 1}]
    document = {"images": [{"id": 1, "file_name": "images/0.png"}], "annotations": annotations, "categories": []}
    (coco / "coco.json").write_text(json.dumps(document))
    inputs.train = coco
    assert inputs.fit() == 1
    assert error_id(inputs) == ("InvalidDataset", 18)


def test_networks_built_by_a_function_load_again(inputs: Inputs) -> None:
    """It wrote their class with the function's arguments, which nothing could build."""
    shutil.rmtree(inputs.untrained)
    initialize(inputs.untrained, "mnasnet0_5", inputs.outputs)
    assert inputs.fit() == 0
    extras = load_model_spec(inputs.trained)["flavor_extras"]
    network = describe(extras["module"], extras["class"], extras["init_params"]).build()
    network.load_state_dict(weights(inputs.trained))


def test_images_that_differ_in_size_are_brought_to_one(inputs: Inputs) -> None:
    """It found out in the middle of an epoch that a batch could not be stacked."""
    Image.new("RGB", (8, 8)).save(inputs.valid / "image" / "0_0.png")
    assert inputs.fit() == 0
    geometry = json.loads((inputs.trained / "image_geometry.json").read_text())
    assert (geometry["size"], geometry["resize"]) == ([224, 224], "crop")
