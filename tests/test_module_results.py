"""Called as functions, the modules return what they wrote."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import ANY

import pytest
from rich.console import Console

from tests.making import CLASSES, Inputs, write_class_folders
from train_pytorch_model.console.progress import ProgressDisplay
from train_pytorch_model.errors import UserError
from train_pytorch_model.modules.apply_image_transformation import apply_image_transformation
from train_pytorch_model.modules.convert_to_image_directory import ConvertedImages, convert_to_image_directory
from train_pytorch_model.modules.evaluate_model import evaluate_model
from train_pytorch_model.modules.init_image_transformation import init_image_transformation
from train_pytorch_model.modules.initialize_model import InitializedModel, initialize_model
from train_pytorch_model.modules.score_image_model import score_image_model
from train_pytorch_model.modules.split_image_directory import SplitImages, split_image_directory
from train_pytorch_model.modules.transform_options import TransformOptions
from train_pytorch_model.tracking import Tracking


@pytest.fixture
def display() -> ProgressDisplay:
    return ProgressDisplay(Console())


@pytest.fixture
def outputs_path(tmp_path: Path) -> Path:
    path = tmp_path / "outputs"
    path.mkdir()
    return path


def test_modules_for_images_return_counts_classes_and_operations(
    tmp_path: Path, outputs_path: Path, display: ProgressDisplay
) -> None:
    folders = write_class_folders(tmp_path / "raw", per_class=4)
    (folders / CLASSES[0] / "broken.png").write_bytes(b"not an image")
    images = tmp_path / "images"
    converted = convert_to_image_directory(folders, images, outputs_path=outputs_path, display=display)
    skipped = {f"{CLASSES[0]}/broken.png": ANY}
    assert converted == ConvertedImages(images, 12, tuple(CLASSES), skipped, task="multiclass")
    copy = tmp_path / "copy"
    copied = convert_to_image_directory(images, copy, outputs_path=outputs_path, display=display)
    assert copied == ConvertedImages(copy, 12, tuple(CLASSES), labels_from=("images.lst",), task="multiclass")
    train, test = tmp_path / "train", tmp_path / "test"
    split = split_image_directory(
        images, train, test, fraction=0.75, random_seed=42, outputs_path=outputs_path, display=display
    )
    assert split == SplitImages(train, test, 9, 3, tuple(CLASSES))
    operations = init_image_transformation(
        TransformOptions(resize=True, size=16, random_horizontal_flip=True), tmp_path / "how", outputs_path=outputs_path
    )
    assert operations == [("Resize", 16), ("RandomHorizontalFlip", {})]
    num_images = apply_image_transformation(
        tmp_path / "how",
        images,
        tmp_path / "transformed",
        mode="For inference",
        random_seed=1,
        outputs_path=outputs_path,
        display=display,
    )
    assert num_images == 12


def test_initialize_model_returns_the_number_of_parameters(tmp_path: Path, outputs_path: Path) -> None:
    path = tmp_path / "untrained"
    assert initialize_model("squeezenet1_1", path, outputs_path=outputs_path) == InitializedModel(
        path, "squeezenet1_1", 1_235_496
    )


def test_score_returns_a_table_and_evaluate_its_metrics(
    inputs: Inputs, tmp_path: Path, outputs_path: Path, display: ProgressDisplay
) -> None:
    assert inputs.fit(epochs=1) == 0
    (inputs.valid / "image" / "0_0.png").write_bytes(b"not an image")
    paths = (inputs.trained, inputs.valid, tmp_path / "scored")
    with pytest.raises(UserError, match="Expected `precision` to be one of float32, auto, bfloat16, float16"):
        score_image_model(*paths, precision="double", outputs_path=outputs_path, display=display)
    scored = score_image_model(*paths, skip_unreadable_images=True, outputs_path=outputs_path, display=display)
    table = scored.to_dataframe()
    assert list(scored.skipped) == ["image/0_0.png"]
    assert scored.num_images == len(table) - 1 == table["Scored Labels"].notna().sum()
    evaluation = tmp_path / "evaluation"
    metrics = evaluate_model(tmp_path / "scored", evaluation, outputs_path=outputs_path, tracking=Tracking())
    assert metrics == json.loads((evaluation / "metrics.json").read_text())
    assert (metrics["num_images"], metrics["num_left_out"]) == (scored.num_images, 1)


def test_an_unknown_mode_is_an_error(tmp_path: Path, outputs_path: Path, display: ProgressDisplay) -> None:
    with pytest.raises(UserError, match="Expected `mode` to be 'For training' or 'For inference', but got 'training'"):
        apply_image_transformation(
            tmp_path / "how",
            tmp_path / "images",
            tmp_path / "transformed",
            mode="training",
            random_seed=1,
            outputs_path=outputs_path,
            display=display,
        )
