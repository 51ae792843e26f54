from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from tests import environments
from tests.making import (
    error_code,
    error_text,
    flags_of,
    read_json_lines,
    run_here,
    run_retired_tool,
    write_image_directory,
)
from train_pytorch_model.errors import InvalidTransformationDirectoryError
from train_pytorch_model.ports.labelled_images import read_labelled_images
from train_pytorch_model.ports.transformation import read_transformation

TRANSFORM = "computer_vision.transform"


def init(path: Path, **flags: object) -> int:
    return run_here("init-image-transformation", output_path=path, outputs_path=path.parent / "outputs", **flags)


def apply(transformation: Path, images: Path, target: Path, **flags: object) -> int:
    inputs = {"input_image_transform_path": transformation, "input_image_dir_path": images}
    outputs = target.parent / "outputs"
    return run_here("apply-image-transformation", **inputs, output_path=target, outputs_path=outputs, **flags)


def pixels(path: Path) -> list[np.ndarray]:
    names = [item["image_info"]["file_name"] for item in read_json_lines(path / "images.lst")]  # type: ignore[index]
    return [np.asarray(Image.open(path / name).convert("RGB")) for name in names]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_image_directory(tmp_path / "images", per_class=4, size=48)


def test_fixed_operations_give_what_torchvision_gives_and_keep_names_labels_and_order(
    images: Path, tmp_path: Path
) -> None:
    flags = {"resize": True, "size": 40, "center_crop": "true", "crop_size": 32, "pad": "TRUE", "padding": 2}
    assert init(tmp_path / "how", **flags) == 0
    assert apply(tmp_path / "how", images, tmp_path / "changed", mode="For inference") == 0
    reference = transforms.Compose([transforms.Resize(40), transforms.CenterCrop(32), transforms.Pad(2)])
    before = [reference(Image.fromarray(image)) for image in pixels(images)]
    for given, expected in zip(pixels(tmp_path / "changed"), before):
        assert np.array_equal(given, np.asarray(expected))
    assert (tmp_path / "changed" / "images.lst").read_bytes() == (images / "images.lst").read_bytes()
    assert (tmp_path / "changed" / "_schema.json").read_bytes() == (images / "_schema.json").read_bytes()
    assert len(read_labelled_images(tmp_path / "changed", "Training dataset")) == 12


@pytest.mark.parametrize(
    "flags",
    [
        {"color_jitter": True},
        {"random_resized_crop": True, "random_resized_crop_size": 48},
        {"random_horizontal_flip": True},
        {"random_rotation": True, "random_rotation_degrees": 20},
        {"random_affine": True, "random_affine_degrees": 20},
        {"random_grayscale": True},
        {"random_perspective": True},
    ],
    ids=lambda flags: next(iter(flags)),
)
def test_random_operations_happen_follow_the_seed_and_stay_out_of_inference(
    flags: dict[str, object], images: Path, tmp_path: Path
) -> None:
    assert init(tmp_path / "how", **flags) == 0
    runs: dict[str, dict[str, object]] = {
        "first": {},
        "again": {},
        "other": {"random_seed": 2},
        "inference": {"mode": "For inference"},
    }
    given = {}
    for name, more in runs.items():
        assert apply(tmp_path / "how", images, tmp_path / name, **more) == 0
        given[name] = np.stack(pixels(tmp_path / name))
    before = np.stack(pixels(images))
    assert not np.array_equal(given["first"], before)
    assert np.array_equal(given["first"], given["again"])
    assert not np.array_equal(given["first"], given["other"])
    assert np.array_equal(given["inference"], before)


def test_what_is_random_about_an_image_is_its_own(images: Path, tmp_path: Path) -> None:
    for path in (images / "image").iterdir():
        Image.fromarray(np.tile(np.arange(48, dtype=np.uint8)[:, None, None], (1, 48, 3))).save(path)
    assert init(tmp_path / "how", random_rotation=True, random_rotation_degrees=90) == 0
    assert apply(tmp_path / "how", images, tmp_path / "changed") == 0
    assert len({image.tobytes() for image in pixels(tmp_path / "changed")}) == 12


def test_grayscale_is_grey(images: Path, tmp_path: Path) -> None:
    assert init(tmp_path / "how", grayscale=True) == 0
    assert apply(tmp_path / "how", images, tmp_path / "changed", mode="For inference") == 0
    for given, before in zip(pixels(tmp_path / "changed"), pixels(images)):
        assert (given == given[:, :, :1]).all()
        assert not (before == before[:, :, :1]).all()


def test_two_images_of_one_stem_do_not_become_one_file(tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    Image.new("RGB", (8, 8), (255, 0, 0)).save(flat / "1.bmp")
    Image.new("RGB", (8, 8), (0, 0, 255)).save(flat / "1.png")
    assert init(tmp_path / "how") == 0
    assert apply(tmp_path / "how", flat, tmp_path / "changed") == 0
    assert sorted(image[0, 0].tolist() for image in pixels(tmp_path / "changed")) == [[0, 0, 255], [255, 0, 0]]


def test_images_that_cannot_be_changed_are_named_and_nothing_is_written(images: Path, tmp_path: Path) -> None:
    (images / "image" / "1_5.png").write_bytes(b"no image")
    assert init(tmp_path / "how", resize=True) == 0
    assert apply(tmp_path / "how", images, tmp_path / "changed") == 1
    assert error_code(tmp_path / "outputs") == ("InvalidDataset", 18)
    assert "1_5.png" in error_text(tmp_path / "outputs")
    assert not (tmp_path / "changed").exists()


@pytest.mark.parametrize(
    "operations",
    [
        '[["Explode", 3]]',
        '[["Resize", "large"]]',
        '[["Resize", {"colour": 3}]]',
        '{"Resize": 3}',
        "[[",
        '[["ToTensor"]]',
        "[5]",
    ],
)
def test_a_damaged_transformation_is_named(operations: str, images: Path, tmp_path: Path) -> None:
    assert init(tmp_path / "how", resize=True) == 0
    (tmp_path / "how" / "_transforms.json").write_text(operations)
    assert apply(tmp_path / "how", images, tmp_path / "changed") == 1
    assert error_code(tmp_path / "outputs") == ("InvalidTransformationDirectory", 158)


@pytest.mark.parametrize("meta", ["type: ModelDirectory", "type: TransformationDirectory\ntransform_type: Table"])
def test_a_directory_of_no_image_operations_is_no_transformation(meta: str, tmp_path: Path) -> None:
    assert init(tmp_path / "how") == 0
    (tmp_path / "how" / "_meta.yaml").write_text(meta)
    with pytest.raises(InvalidTransformationDirectoryError, match="expected a TransformationDirectory of type Image"):
        read_transformation(tmp_path / "how")


def test_an_operation_that_changes_nothing_warns(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert init(tmp_path / "how", random_rotation=True, pad=True, padding=1) == 0
    said = capfd.readouterr().err
    assert "RandomRotation by 0 changes nothing." in said
    assert "Pad by" not in said


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ({"size": 0}, "GreaterThanOrEqualTo"),
        ({"padding": -1}, "GreaterThanOrEqualTo"),
        ({"random_rotation_degrees": 200}, "NotInRangeValue"),
    ],
)
def test_numbers_out_of_range_are_named(flags: dict[str, object], name: str, tmp_path: Path) -> None:
    assert init(tmp_path / "how", **flags) == 1
    assert error_code(tmp_path / "outputs")[0] == name
    assert not (tmp_path / "how").exists()


@pytest.mark.environment
def test_the_retired_modules_and_ours_take_each_others_transformations(images: Path, tmp_path: Path) -> None:
    flags = {"resize": True, "size": 40, "center_crop": True, "crop_size": 32}
    assert init(tmp_path / "ours", **flags) == 0
    retired = environments.retired()
    run_retired_tool(
        retired,
        f"{TRANSFORM}.init_image_transformation.init_image_transformation",
        *("--output-path", tmp_path / "theirs", *flags_of(flags)),
    )
    for how in ("ours", "theirs"):
        run_retired_tool(
            retired,
            f"{TRANSFORM}.apply_image_transformation.apply_image_transformation",
            *("--mode", "For inference", "--input-image-transform-path", tmp_path / how),
            *("--input-image-dir-path", images, "--output-path", tmp_path / f"by_theirs_{how}"),
        )
        assert apply(tmp_path / how, images, tmp_path / f"by_ours_{how}", mode="For inference") == 0
        for ours, theirs in zip(pixels(tmp_path / f"by_ours_{how}"), pixels(tmp_path / f"by_theirs_{how}")):
            assert np.array_equal(ours, theirs)


def test_the_generator_of_the_caller_is_left_alone(images: Path, tmp_path: Path) -> None:
    assert init(tmp_path / "how", random_horizontal_flip=True) == 0
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assert apply(tmp_path / "how", images, tmp_path / "changed") == 0
    assert torch.equal(torch.rand(3), expected)
