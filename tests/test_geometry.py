"""Which size the images of a training get, and how."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from tests.making import Inputs, error_text
from train_pytorch_model.console.progress import ProgressDisplay
from train_pytorch_model.data.decoding import decode as decode_file
from train_pytorch_model.data.image_geometry import Geometry
from train_pytorch_model.errors import UserError
from train_pytorch_model.job import geometry as job_geometry
from train_pytorch_model.job.datasets import Scanned, decode, scan
from train_pytorch_model.job.geometry import what_is_done, with_geometry
from train_pytorch_model.models.description import describe
from train_pytorch_model.models.weight_records import IMAGENET_MEAN, IMAGENET_STD, WeightsRecord
from train_pytorch_model.parameters.recipes import ResolvedParameters
from train_pytorch_model.ports.labelled_images import read_labelled_images
from train_pytorch_model.ports.untrained_model import UntrainedModel

Sizes = list[tuple[int, int]]
RECORD = WeightsRecord("library", "0" * 64, IMAGENET_MEAN, IMAGENET_STD, (48, 48), 0.8, "bicubic")
OWN = Geometry.crop((40, 40), 0.5, orients=True, scales_values=True)
CPU = torch.device("cpu")


def parameters(recipe: str = "classic", **others: Any) -> ResolvedParameters:
    augments = "none" if recipe == "classic" else "crop"
    return ResolvedParameters(**{"recipe": recipe, "auto_augment": augments, "image_size": "auto", **others})


def untrained(labels: tuple[str, ...] | None = None, **how: Any) -> UntrainedModel:
    return UntrainedModel(Path("model"), describe("torchvision.models", "resnet18", {}), {}, labels, **how)


def dataset(path: Path, sizes: Sizes, port: str = "Training dataset") -> Scanned:
    """Noise of these sizes, one class each for even and odd numbers."""
    random = np.random.default_rng(len(sizes))
    for number, (height, width) in enumerate(sizes):
        file = path / f"class{number % 2}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(file)
    return scan(read_labelled_images(path, port))


def chosen(
    tmp_path: Path, given: ResolvedParameters, model: UntrainedModel, train: Sizes, valid: Sizes
) -> tuple[Scanned, Scanned]:
    datasets = dataset(tmp_path / "train", train), dataset(tmp_path / "valid", valid, "Validation dataset")
    placed = with_geometry(given, model, datasets)
    assert placed[0] is not None
    assert placed[1] is not None
    return placed[0], placed[1]


@pytest.mark.parametrize("model", [untrained(), untrained(pretrained=RECORD), untrained(geometry=OWN)])
def test_classic_takes_datasets_of_one_size_as_they_are(
    model: UntrainedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    train, valid = chosen(tmp_path, parameters(), model, [(30, 20)] * 4, [(50, 60)] * 3)
    assert (train.geometry, valid.geometry) == (Geometry((30, 20)), Geometry((50, 60)))
    assert not train.has_margin
    assert caplog.records == []


@pytest.mark.parametrize(
    ("recipe", "model", "expected"),
    [
        ("classic", untrained(), Geometry.crop((224, 224), 0.875)),
        ("classic", untrained(pretrained=RECORD), Geometry.crop((48, 48), 0.8, interpolation="bicubic")),
        ("classic", untrained(geometry=OWN), replace(OWN, orients=False, scales_values=False)),
        ("finetune", untrained(geometry=OWN), OWN),
        ("finetune", untrained(geometry=OWN, pretrained=RECORD), OWN),
        ("scratch", untrained(), Geometry.crop((224, 224), 0.875, orients=True, scales_values=True)),
        (
            "finetune",
            untrained(pretrained=RECORD),
            Geometry.crop((48, 48), 0.8, interpolation="bicubic", orients=True, scales_values=True),
        ),
    ],
)
def test_other_sizes_become_what_the_weights_were_made_for(
    recipe: str, model: UntrainedModel, expected: Geometry, tmp_path: Path
) -> None:
    train, valid = chosen(tmp_path, parameters(recipe), model, [(30, 20), (40, 40), (99, 300)], [(50, 60)] * 2)
    assert train.geometry == valid.geometry == expected
    assert train.has_margin == (recipe != "classic")
    assert not valid.has_margin
    assert (train.size == valid.size) == (recipe == "classic")
    assert len(train.kept) == 3


@pytest.mark.parametrize(("recipe", "size"), [("scratch", (28, 28)), ("finetune", (28, 28)), ("classic", (224, 224))])
def test_random_weights_take_the_size_of_the_training_images_but_with_classic(
    tmp_path: Path, recipe: str, size: tuple[int, int]
) -> None:
    train, valid = chosen(tmp_path, parameters(recipe), untrained(), [(28, 28)] * 3, [(28, 28), (40, 30)])
    assert train.geometry is not None
    assert train.geometry.size == size
    assert valid.geometry == train.geometry


@pytest.mark.parametrize("recipe", ["classic", "finetune"])
@pytest.mark.parametrize(("value", "size"), [(36, (36, 36)), ("36x24", (36, 24))])
@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
def test_a_given_size_is_used_by_every_recipe(
    recipe: str, value: int | str, size: tuple[int, int], resize: str, tmp_path: Path
) -> None:
    given = parameters(recipe, image_size=value, resize=resize)
    train, _ = chosen(tmp_path, given, untrained(pretrained=RECORD), [(30, 20)] * 2, [(30, 20)])
    assert train.geometry is not None
    assert (train.geometry.size, train.geometry.resize) == (size, resize)
    assert train.geometry.interpolation == "bicubic"
    assert train.geometry.cover == ((size[0] / 0.8, size[1] / 0.8) if resize == "crop" else None)


def test_a_trained_model_goes_on_with_its_geometry_unless_another_is_asked_for(tmp_path: Path) -> None:
    model = untrained(geometry=replace(OWN, resize="pad", cover=None))
    sizes: Sizes = [(30, 20), (50, 20)]
    assert chosen(tmp_path / "a", parameters("finetune"), model, sizes, sizes)[0].geometry == model.geometry
    other = chosen(tmp_path / "b", parameters("finetune", resize="stretch"), model, sizes, sizes)[0].geometry
    assert model.geometry is not None
    assert other == replace(model.geometry, resize="stretch")
    cropped = chosen(tmp_path / "c", parameters("finetune", resize="crop"), model, sizes, sizes)[0].geometry
    assert cropped == Geometry.crop((40, 40), 0.875, orients=True, scales_values=True)


def test_a_trained_model_without_a_geometry_goes_on_with_the_size_of_its_images(tmp_path: Path) -> None:
    model = untrained(labels=("class0", "class1"))
    train, valid = chosen(tmp_path / "a", parameters("finetune"), model, [(40, 30)] * 3, [(40, 30)] * 2)
    assert train.geometry == valid.geometry == Geometry.crop((40, 30), 0.875, orients=True, scales_values=True)
    assert train.size == valid.size == (40, 30)
    other, _ = chosen(tmp_path / "b", parameters("finetune"), model, [(40, 30), (30, 30)], [(40, 30)])
    assert other.geometry is not None
    assert other.geometry.size == (224, 224)


def test_no_margin_is_stored_where_nothing_is_resized_or_cropped_at_random(tmp_path: Path) -> None:
    same: Sizes = [(48, 48)] * 2
    train, valid = chosen(tmp_path / "a", parameters("finetune"), untrained(pretrained=RECORD), same, [(40, 50)])
    assert (train.size, valid.size) == ((48, 48), (48, 48))
    flipped = parameters("finetune", auto_augment="flip")
    train, _ = chosen(tmp_path / "b", flipped, untrained(pretrained=RECORD), [(40, 50)], same)
    assert train.size == (48, 48)


def test_orientations_count_only_where_they_are_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, size in (("class0", (48, 30)), ("class1", (30, 48))):
        (tmp_path / name).mkdir()
        Image.new("RGB", size).save(tmp_path / name / "0.jpg", **({"exif": exif} if size == (48, 30) else {}))
    scanned = scan(read_labelled_images(tmp_path, "Training dataset"))
    assert scanned.sizes.tolist() == [[30, 48], [48, 30]]
    assert scanned.oriented_sizes.tolist() == [[48, 30], [48, 30]]
    given = parameters("scratch", image_size="48x30")
    train, _ = with_geometry(given, untrained(), (scanned, None))
    assert train is not None
    assert what_is_done(train) == ""


@pytest.mark.parametrize(
    ("resize", "sizes", "expected"),
    [
        (
            "crop",
            [(32, 64), (40, 40)],
            "images of 2 sizes, from 40x40 to 64x32, are resized to cover 40x40, and the 32x32 in the centre are used. "
            "On average 52 % of an image is cut off at its borders.",
        ),
        (
            "crop",
            [(40, 40)],
            "images of 40x40 are resized to cover 40x40, and the 32x32 in the centre are used. On average 36 % of an "
            "image is cut off at its borders.",
        ),
        (
            "pad",
            [(16, 32)],
            "images of 32x16 are resized to fit into 32x32, and 50 % of the pixels around them are black.",
        ),
        ("stretch", [(16, 32)], "images of 32x16 are resized to 32x32, whatever their aspect ratio."),
        ("crop", [(32, 32)], ""),
    ],
)
def test_what_is_cut_off_is_said(resize: str, sizes: Sizes, expected: str, tmp_path: Path) -> None:
    model = untrained(pretrained=replace(RECORD, image_size=(32, 32)))
    train, _ = chosen(tmp_path, parameters("finetune", resize=resize), model, sizes, [(32, 32)])
    assert what_is_done(train) == expected


@pytest.mark.parametrize(
    ("auto_augment", "of_training"),
    [
        ("crop", "36 % of an image is cut off at its borders. This includes images of 48x48, which validation and "),
        ("flip", "9 % of an image is cut off at its borders."),
    ],
)
def test_images_that_have_the_size_are_cut_where_random_crops_enlarge_them(
    auto_augment: str, of_training: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    sizes: Sizes = [(48, 48)] * 3 + [(60, 60)]
    given = parameters("finetune", auto_augment=auto_augment)
    train, valid = chosen(tmp_path, given, untrained(pretrained=RECORD), sizes, sizes)
    assert (train.size, valid.size) == ((60, 60) if auto_augment == "crop" else (48, 48), (48, 48))
    assert f"On average {of_training}" in what_is_done(train)
    assert what_is_done(valid).endswith("On average 9 % of an image is cut off at its borders.")
    assert what_is_done(train) in caplog.text


def test_the_log_says_how_the_designer_can_score(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    chosen(tmp_path / "a", parameters(), untrained(), [(30, 20), (40, 40)], [(50, 60)])
    assert "Resize 256 and Center crop 224" in caplog.text
    caplog.clear()
    for number, (given, model) in enumerate(
        [(parameters(resize="pad"), untrained()), (parameters(), untrained(pretrained=RECORD))]
    ):
        caplog.clear()
        chosen(tmp_path / str(number), given, model, [(30, 20), (40, 40)], [(50, 60)])
        assert "Score with score-image-model" in caplog.text


def test_the_log_says_what_the_designer_does_not_average(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for number, (recipe, sizes, words) in enumerate(
        [("classic", [(30, 20)], "does not average"), ("scratch", [(30, 20), (40, 40)], "resize images or average")]
    ):
        given = parameters(recipe=recipe, test_time_augmentation="flip")
        chosen(tmp_path / str(number), given, untrained(), sizes, sizes)
        assert f"{words} the probabilities of images and their mirror images. Score with score-" in caplog.text
        assert "Apply an image transformation" not in caplog.text  # which would repair only the size


@pytest.mark.parametrize(
    ("size", "microbatch_size", "is_said"), [(224, "off", False), (8192, "off", True), (8192, 1, False)]
)
def test_a_size_that_needs_more_memory_than_there_is_is_said(
    size: int,
    microbatch_size: int | str,
    is_said: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(job_geometry, "available_memory_bytes", lambda: 64.0 * 2**30)
    data = dataset(tmp_path / "train", [(40, 50)])
    with_geometry(parameters(image_size=size, microbatch_size=microbatch_size), untrained(), (data, None))
    assert ("16 images of 8192x8192" in caplog.text) is is_said
    assert ("take 12.0 GiB" in caplog.text) is is_said


def test_a_side_that_is_too_long_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at most 8192 pixels"):
        chosen(tmp_path, parameters(image_size="9000x10"), untrained(), [(30, 20)], [(30, 20)])


@pytest.mark.parametrize("size", [0, -3])
def test_a_size_below_1_is_an_error(size: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made = Inputs(tmp_path).make("squeezenet1_1")
    assert made.fit(image_size=size, outputs_path=made.outputs) == 1
    assert (
        error_text(made.outputs)
        == f'GreaterThan: Parameter "Image size" has value "{size}" which should be greater than 0.'
    )
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("recipe", ["classic", "finetune"])
def test_every_store_has_the_pixels_of_the_geometry(recipe: str, tmp_path: Path) -> None:
    sizes: Sizes = [(30, 20), (40, 40), (99, 300), (48, 48), (60, 60)]
    display = ProgressDisplay(Console(quiet=True))
    train, valid = chosen(tmp_path, parameters(recipe), untrained(pretrained=RECORD), sizes, sizes[:3])
    for scanned in (train, valid):
        geometry = scanned.stored_geometry
        expected = [decode_file(scanned.images.path_of(index), geometry) for index in range(len(scanned.images))]
        for place in ("memory", "disk", "none"):
            store, after = decode(scanned, place, CPU, display)
            assert store.size == scanned.size
            assert len(after.kept) == len(expected)
            ((pixels, _),) = store.batches([torch.arange(len(expected))], CPU)
            assert np.array_equal(pixels.permute(0, 2, 3, 1).numpy(), np.stack(expected))


def test_a_size_that_the_network_does_not_accept_is_an_error(tmp_path: Path) -> None:
    made = Inputs(tmp_path).make("squeezenet1_1")
    assert made.fit(image_size=8, outputs_path=made.outputs) == 1
    text = error_text(made.outputs)
    assert "does not accept images of 8x8" in text
    assert "Choose another size with --image-size, or another network." in text
    assert not made.trained.exists()
