"""What initialize-model records of weights agrees with the libraries, and training reads it."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision.transforms.functional import normalize, pil_to_tensor

from tests.making import Inputs, error_text, initialize, run_here
from tests.untrained_models import RETIRED, Wrapper, read, write
from train_pytorch_model.data.batches import normalised, per_channel
from train_pytorch_model.data.image_geometry import Geometry, pixels_of
from train_pytorch_model.errors import InvalidModelDirectoryError
from train_pytorch_model.job.normalisation import normalisation_of
from train_pytorch_model.models.description import describe, torchvision_builders
from train_pytorch_model.models.libraries import Timm, Torchvision
from train_pytorch_model.models.weight_records import RECORD_FILE, WeightsRecord
from train_pytorch_model.ports.labelled_images import read_labelled_images
from train_pytorch_model.ports.untrained_model import UntrainedModel

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def initialized(tmp_path: Path, name: str, **flags: object) -> WeightsRecord | None:
    paths = {"untrained_model_path": tmp_path / "untrained", "outputs_path": tmp_path / "outputs"}
    assert run_here("initialize-model", model_name=name, **paths, **flags) == 0
    return read(tmp_path / "untrained").pretrained


def saved(tmp_path: Path, name: str = "squeezenet1_1", file_name: str = "mine.pth") -> Path:
    torch.manual_seed(0)
    torch.save(torchvision.models.get_model(name).state_dict(), tmp_path / file_name)
    return tmp_path / file_name


def test_random_weights_have_no_record_not_even_that_of_an_earlier_output(tmp_path: Path) -> None:
    assert initialized(tmp_path, "squeezenet1_1", weights=saved(tmp_path)) is not None
    assert initialized(tmp_path, "squeezenet1_1") is None
    assert not (tmp_path / "untrained" / RECORD_FILE).exists()


@pytest.mark.parametrize("name", torchvision_builders())
def test_the_record_of_every_network_gives_the_input_that_its_transforms_give(name: str) -> None:
    record = Torchvision().record(name, "")
    entries = list(torchvision.models.get_model_weights(name))
    entry = next(entry for entry in entries if record.source == f"torchvision {entry}")
    size = (record.image_size[1], record.image_size[0])
    for color in ((0, 128, 255), (255, 0, 64)):  # an image of one color stays what it is when it is resized
        image = Image.new("RGB", size, color)
        expected = entry.transforms()(image)
        assert expected.shape[1:] == record.image_size
        if name in ("googlenet", "inception_v3"):  # as their own transform_input does
            expected = torch.stack(
                [expected[i] * (std / 0.5) + (mean - 0.5) / 0.5 for i, (mean, std) in enumerate(zip(*IMAGENET))]
            )
        ours = normalize(pil_to_tensor(image) / 255, list(record.mean), list(record.std))
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)
    resized = entry.transforms().resize_size[0]
    assert round(record.image_size[0] / record.crop_fraction) == resized
    assert record.interpolation == entry.transforms().interpolation.value


def test_the_record_of_timms_networks_gives_timms_own_transform() -> None:
    from timm.data import create_transform, resolve_data_config
    from timm.models import create_model

    for name in ("resnet18", "vit_tiny_patch16_224", "tf_efficientnet_lite0", "inception_v3"):
        record = Timm().record(name, "")
        config = resolve_data_config({}, model=create_model(name))
        assert (record.mean, record.std) == (tuple(config["mean"]), tuple(config["std"]))
        assert ((3, *record.image_size), record.crop_fraction) == (tuple(config["input_size"]), config["crop_pct"])
        assert record.interpolation == config["interpolation"]
        assert create_transform(**config) is not None


def test_networks_that_timm_evaluates_on_stretched_images_see_the_same_here() -> None:
    from timm.data import create_transform, resolve_data_config
    from timm.models import get_pretrained_cfg

    name = "coat_lite_medium_384"
    record = Timm().record(name, "")
    assert record.resize == "stretch"
    assert WeightsRecord.from_json(record.to_json()) == record
    config = resolve_data_config({}, pretrained_cfg=get_pretrained_cfg(name).to_dict())
    transform = create_transform(**config)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 200, 3)).astype(np.uint8))
    pixels = image
    for step in transform.transforms[:-2]:  # without the conversion to a tensor and the normalization
        pixels = step(pixels)
    geometry = Geometry(record.image_size, record.resize, interpolation=record.interpolation)
    assert np.array_equal(pixels_of(image, geometry), np.asarray(pixels))


@pytest.mark.parametrize(("name", "is_said"), [("volo_d4_448", True), ("dm_nfnet_f0", True), ("resnet18", False)])
def test_an_evaluation_of_timm_that_is_not_reproduced_is_said(
    name: str, is_said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    record = Timm().record(name, "")
    assert (record.resize, record.crop_fraction <= 1) == ("crop", True)
    assert ("not reproduced here: they are cropped" in caplog.text) is is_said


def test_a_record_without_a_way_to_resize_crops() -> None:
    values = Timm().record("resnet18", "").to_dict()
    assert WeightsRecord.from_dict({key: values[key] for key in values if key != "resize"}).resize == "crop"
    with pytest.raises(ValueError, match="resize"):
        WeightsRecord.from_dict({**values, "resize": "none"})


def test_every_network_of_timm_has_a_record_that_is_read_again() -> None:
    for row in Timm().rows():
        record = Timm().record(row.name[len("timm/") :], "0" * 64)
        assert WeightsRecord.from_json(record.to_json()) == record, row.name


def test_a_file_counts_as_the_networks_best_weights(tmp_path: Path) -> None:
    file = saved(tmp_path)
    record = initialized(tmp_path, "squeezenet1_1", weights=file)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert record == WeightsRecord("mine.pth", sha256, *IMAGENET, (224, 224), 224 / 256, "bilinear")


def test_a_file_may_have_any_name(tmp_path: Path) -> None:
    file = saved(tmp_path)
    record = initialized(
        tmp_path, "squeezenet1_1", weights=file.rename(os.fsdecode(bytes(tmp_path) + b"/a\nb\xff.pth"))
    )
    assert record is not None
    assert record.source == "a?b?.pth"


@pytest.mark.parametrize(
    ("file_name", "sha256", "fraction"),
    [
        ("resnet50-11ad3fa6.pth", "0" * 64, 224 / 232),
        ("resnet50-0676ba61.pth", "0" * 64, 224 / 256),
        ("renamed.pth", "0676ba61" + "0" * 56, 224 / 256),
        ("mine.pth", "0" * 64, 224 / 232),
    ],
)
def test_a_published_file_is_known_by_its_name_or_its_hash(file_name: str, sha256: str, fraction: float) -> None:
    record = Torchvision().record("resnet50", sha256, file_name)
    assert (record.crop_fraction, record.source) == (fraction, file_name)


def test_a_published_file_of_timm_is_known_too() -> None:
    assert Timm().record("resnet18", "").crop_fraction == 0.95
    record = Timm().record("resnet18", "0" * 64, "resnet18-f37072fd.pth")  # torchvision's, which timm publishes too
    assert (record.crop_fraction, record.interpolation) == (0.875, "bilinear")


@pytest.mark.parametrize(
    ("flags", "normalisation"),
    [
        ({"weights_mean": "0.1307", "weights_std": "0.3081"}, ((0.1307,) * 3, (0.3081,) * 3)),
        ({"weights_mean": "0.5,0.4,0.3"}, ((0.5, 0.4, 0.3), IMAGENET[1])),
        ({"weights_mean": "0", "weights_std": "1"}, ((0.0,) * 3, (1.0,) * 3)),
        ({"weights_std": "[0.3, 0.2, 0.1]"}, (IMAGENET[0], (0.3, 0.2, 0.1))),
    ],
)
def test_flags_say_what_weights_were_made_for(flags: dict[str, str], normalisation: Any, tmp_path: Path) -> None:
    record = initialized(tmp_path, "squeezenet1_1", weights=saved(tmp_path), **flags)
    assert record is not None
    assert (record.mean, record.std) == normalisation


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"weights": "mine.pth", "weights_mean": "0.5,0.5"}, "--weights-mean is '0.5,0.5', but must be one number or"),
        ({"weights": "mine.pth", "weights_std": "0"}, "--weights-std is '0'"),
        ({"weights": "mine.pth", "weights_std": "nan"}, "--weights-std is 'nan'"),
        ({"weights": "mine.pth", "weights_mean": ""}, "--weights-mean is ''"),
        ({"weights": "mine.pth", "weights_mean": "123.7,116.3,103.5"}, "Divide values for pixels up to 255 by 255"),
        ({"weights_mean": "0.5"}, "describe pretrained weights. Add --weights"),
    ],
)
def test_an_impossible_normalisation_is_a_named_error(
    flags: dict[str, str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(tmp_path)
    paths = {"untrained_model_path": tmp_path / "untrained", "outputs_path": tmp_path / "outputs"}
    assert run_here("initialize-model", model_name="squeezenet1_1", **paths, **flags) == 1
    assert words in error_text(tmp_path / "outputs")
    assert not (tmp_path / "untrained").exists()


def test_default_weights_are_named_as_the_library_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    file = saved(tmp_path / "hub" / "checkpoints", file_name="squeezenet1_1-b8a52dc0.pth")
    record = initialized(tmp_path, "squeezenet1_1", weights="default")
    assert record is not None
    assert record.source == "torchvision SqueezeNet1_1_Weights.IMAGENET1K_V1"
    assert record.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize(("pretrained", "expected"), [(True, IMAGENET), (1, IMAGENET), (False, None), (None, None)])
def test_an_untrained_model_of_the_retired_module_says_whether_it_is_pretrained(
    pretrained: object, expected: object, tmp_path: Path
) -> None:
    init_params = {"model_name": "resnet18", "zero_init_residual": False, "pretrained": pretrained}
    path = write(tmp_path, Wrapper(torchvision.models.resnet18()), f"{RETIRED}.resnet", "ResNet", init_params)
    record = read(path).pretrained
    assert (record and (record.mean, record.std)) == expected
    if record:
        assert (record.image_size, record.crop_fraction, record.interpolation) == ((224, 224), 0.875, "bilinear")
        assert record.sha256 == hashlib.sha256((path / "model").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        {"std": [0.2, 0.0, 0.2]},
        {"mean": [0.5]},
        {"mean": [float("nan")] * 3},
        {"mean": [10**400] * 3},
        {"image_size": [224.5, 224]},
        {"image_size": [0, 224]},
        {"image_size": [60_000, 60_000]},
        {"crop_fraction": 1.5},
        {"crop_fraction": 1e-300},
        {"interpolation": "nearest"},
        {"source": "a\nb"},
        {"sha256": None},
    ],
)
def test_a_damaged_record_is_a_named_error(change: dict[str, object], tmp_path: Path) -> None:
    initialized(tmp_path, "squeezenet1_1", weights=saved(tmp_path))
    file = tmp_path / "untrained" / RECORD_FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(InvalidModelDirectoryError, match=f"{RECORD_FILE} is damaged: '{next(iter(change))}'"):
        read(tmp_path / "untrained")


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_record_that_is_no_mapping_is_a_named_error(content: bytes, tmp_path: Path) -> None:
    initialized(tmp_path, "squeezenet1_1", weights=saved(tmp_path))
    (tmp_path / "untrained" / RECORD_FILE).write_bytes(content)
    with pytest.raises(InvalidModelDirectoryError, match=f"{RECORD_FILE} is damaged"):
        read(tmp_path / "untrained")


def model_with(tmp_path: Path, **changes: Any) -> UntrainedModel:
    model = UntrainedModel(tmp_path, describe("torchvision.models", "resnet18", {}), {}, None)
    return replace(model, **changes)


RECORD = WeightsRecord("mine.pth", "", (0.4, 0.5, 0.6), (0.1, 0.2, 0.3), (224, 224), 0.875, "bilinear")
OWN = {"image": ([0.3] * 3, [0.2] * 3)}


@pytest.mark.parametrize(
    ("changes", "recipe", "expected"),
    [
        ({}, "finetune", HALF),
        ({}, "classic", HALF),
        ({"pretrained": RECORD}, "finetune", (RECORD.mean, RECORD.std)),
        ({"pretrained": RECORD}, "classic", HALF),
        ({"normalisations": OWN}, "finetune", ((0.3,) * 3, (0.2,) * 3)),
        ({"normalisations": OWN, "pretrained": RECORD}, "scratch", ((0.3,) * 3, (0.2,) * 3)),
        ({"normalisations": {"other": ([0.1] * 3, [1.0] * 3), **OWN}}, "finetune", ((0.3,) * 3, (0.2,) * 3)),
        ({"normalisations": OWN}, "classic", HALF),
    ],
)
def test_training_normalises_as_the_weights_were_made_for(
    changes: dict[str, Any], recipe: str, expected: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert normalisation_of(model_with(tmp_path, **changes), recipe, "image") == expected
    warns = recipe == "classic" and "normalisations" in changes
    assert ("trained with another normalization (mean [0.3, 0.3, 0.3]" in caplog.text) == warns


@pytest.mark.parametrize(("mean", "std"), [HALF, IMAGENET, ((0.5, 0.5, 0.4), (0.5,) * 3), ((0.3,) * 3, (0.7,) * 3)])
def test_pixels_are_normalised_as_torchvision_does(mean: Any, std: Any) -> None:
    pixels = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    device = pixels.device
    ours = normalised(pixels, torch.channels_last, per_channel(mean, device), per_channel(std, device))
    assert torch.equal(ours, normalize(pixels / 255, list(mean), list(std)))


def test_the_report_and_validation_see_what_the_trained_model_says(tmp_path: Path) -> None:
    """The loss that validation reports is that of the written model with its own ImageNormalizer."""
    inputs = Inputs(tmp_path).make("resnet18", size=32)
    initialize(inputs.untrained, "resnet18", inputs.outputs, weights=saved(tmp_path, "resnet18"), weights_std="0.1")
    assert inputs.fit(epochs=1, recipe="finetune", image_size=32) == 0
    trained = read(inputs.trained)
    ((mean, std),) = trained.normalisations.values()
    assert (tuple(mean), tuple(std)) == (IMAGENET[0], (0.1,) * 3)
    network = trained.description.build().eval()
    network.load_state_dict(trained.state)
    images = read_labelled_images(inputs.valid, "Validation dataset")
    pixels = torch.stack(
        [pil_to_tensor(Image.open(images.path_of(number)).convert("RGB")) for number in range(len(images))]
    )
    with torch.no_grad():
        logits = network(normalize(pixels / 255, mean, std))
    loss = torch.nn.functional.cross_entropy(logits, torch.as_tensor(images.labels)).item()
    records = [json.loads(line) for line in (inputs.outputs / "metrics.jsonl").read_text().splitlines()]
    assert min(abs(record["valid_loss"] - loss) for record in records) < 1e-4
    # A second training from the trained model goes on with the same normalization.
    inputs.untrained, inputs.trained = inputs.trained, tmp_path / "again"
    assert inputs.fit(epochs=1, recipe="finetune", image_size=32) == 0
    assert read(inputs.trained).normalisations == trained.normalisations
