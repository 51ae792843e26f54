"""All that scores a trained model with a geometry sees the same pixels, and gives the same probabilities."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tests import environments, odd_images
from tests.making import (
    CLASSES,
    NETWORK,
    ROOT,
    Inputs,
    error_text,
    initialize,
    run_here,
    run_retired_tool,
    write_class_folders,
)
from tests.odd_images import saved
from tests.serving_sources import served_images, served_model
from train_pytorch_model.data.decoding import decode
from train_pytorch_model.data.image_geometry import Geometry
from train_pytorch_model.models.description import describe
from train_pytorch_model.modules import image_scorer
from train_pytorch_model.ports.labelled_images import read_labelled_images
from train_pytorch_model.ports.trained_model import write_trained_model

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The head of the network is scaled up, and with it the rounding of its input.
TOLERANCE = 1e-5
GEOMETRY = Geometry.crop((64, 64), 0.875, orients=True, scales_values=True)


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Large shapes and some noise, as in a photo."""
    random = np.random.default_rng(seed)
    shapes = Image.fromarray(random.integers(0, 256, (5, 7, 3)).astype(np.uint8)).resize((width, height))
    noise = random.normal(0, 20, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(shapes) + noise, 0, 255).astype(np.uint8))


def turned(orientation: int, width: int = 150, height: int = 90) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(photo(width, height, orientation), "jpeg", exif=exif)


def odd_files() -> dict[str, bytes]:
    """Files of every kind that becomes pixels in its own way."""
    files = {
        **{f"turned_{orientation}.jpg": turned(orientation) for orientation in (3, 6, 7)},
        "turned_and_large.jpg": turned(8, 1600, 1100),
        "large.jpg": saved(photo(1601, 1203), "jpeg"),
        "large_progressive.jpg": saved(photo(1300, 900), "jpeg", progressive=True),
        "large_grey.jpg": saved(photo(1000, 1400).convert("L"), "jpeg"),
        "cmyk.jpg": saved(photo(201, 97).convert("CMYK"), "jpeg"),
        "large_cmyk.jpg": saved(photo(1200, 1000).convert("CMYK"), "jpeg"),
        "grey_16.png": odd_images.grey_of_16_bits("png"),
        "colours_16.png": odd_images.colours_of_16_bits(),
        "palette.png": odd_images.transparent_palette(),
        "transparent.png": saved(photo(80, 130).convert("RGBA"), "png"),
        "float.tiff": odd_images.float_tiff(),
        "float_above_1.tiff": odd_images.float_tiff_of(0, 0.25, 0.5, 1.0000002),
        "as_the_network.png": saved(photo(64, 64), "png"),
        "turned_as_the_network.jpg": turned(6, 64, 64),
        "odd.png": saved(photo(301, 17), "png"),
        "tall.png": saved(photo(3, 500), "png"),
        "pixel.png": saved(photo(1, 1), "png"),
        "animated.gif": odd_images.animated("gif"),
    }
    return {f"{number:02}_{name}": files[name] for number, name in enumerate(files)}


def normalised_by_hand(pixels: np.ndarray) -> torch.Tensor:
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def write(folder: Path, geometry: Geometry, **how: Any) -> Path:
    """A trained model whose probabilities depend much on the pixels."""
    train = read_labelled_images(write_class_folders(folder.with_name("data"), per_class=1), "Training dataset")
    description = describe("torchvision.models", "resnet18", {"num_classes": 3})
    torch.manual_seed(0)
    network = description.build().eval()
    examples = np.stack([photo(64, 64, seed) for seed in range(12)])
    with torch.no_grad():
        logits = network(normalised_by_hand(examples))
        network.fc.weight /= logits.std(0).mean()
        network.fc.bias -= logits.mean(0)
        network.fc.bias /= logits.std(0).mean()
    folder.mkdir()
    values: dict[str, Any] = {"is_cuda": False, "include_samples": False, "mean": MEAN, "std": STD, **how}
    write_trained_model(folder, network, description, train, (64, 64), geometry=geometry, **values)
    return folder


def score(model: Path, data: Path, target: Path, **flags: object) -> int:
    ports = {"trained_model": model, "dataset": data, "scored_dataset": target}
    return run_here("score-image-model", **ports, outputs_path=target.with_name("outputs"), **flags)


def probabilities(path: Path) -> np.ndarray:
    table = pd.read_parquet(path / "_data.parquet")
    found: np.ndarray = table[[name for name in table if name.startswith("Scored Prob")]].to_numpy()
    return found


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for name, content in odd_files().items():
        (tmp_path / "photos" / name).write_bytes(content)
    return tmp_path / "photos"


def plain_probabilities(model: Path, pixels: list[np.ndarray]) -> np.ndarray:
    """Those of torchvision's network with torch alone."""
    network = describe("torchvision.models", "resnet18", {"num_classes": 3}).build().eval()
    network.load_state_dict(torch.load(model / "model", weights_only=True))
    with torch.no_grad():
        logits = network(normalised_by_hand(np.stack(pixels)))
    return logits.softmax(1).double().numpy()


PREDICT = """
import sys; sys.meta_path = [f for f in sys.meta_path if '__editable__' not in str(f)]
sys.path = [p for p in sys.path if not p.endswith('/src')]
import json, mlflow, numpy, pandas
from pathlib import Path
model = mlflow.pyfunc.load_model(sys.argv[1])
from served_model import ServedModel
seen, compute = [], ServedModel.probabilities
def record(self, images):
    seen.extend(image.numpy() for image in images)
    return compute(self, images)
ServedModel.probabilities = record
files = [path.read_bytes() for path in sorted(Path(sys.argv[2]).iterdir())]
answer = model.predict(pandas.DataFrame({'image': files}))
numpy.savez(sys.argv[3], pixels=numpy.stack(seen), rows=answer.iloc[:, :3].to_numpy(float))
"""


def predict_with_mlflow(model: Path, photos: Path, target: Path) -> tuple[np.ndarray, np.ndarray]:
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PREDICT, model / "mlflow_model", photos, target],
        capture_output=True,
        text=True,
        cwd=target.parent,
        env={**os.environ, "MLFLOW_TRACKING_URI": ""},
    )
    assert finished.returncode == 0, finished.stderr
    with np.load(target) as found:
        return found["pixels"], found["rows"]


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # in `decode`; commands turn it off
@pytest.mark.parametrize(
    "geometry",
    [
        pytest.param(GEOMETRY, id="crop"),
        pytest.param(Geometry((48, 80), "pad", orients=True, scales_values=True), id="pad"),
        pytest.param(Geometry((48, 80), "stretch", interpolation="bicubic"), id="stretch, and no orientation"),
        pytest.param(replace(GEOMETRY, averages_mirrored=True), id="mirrored"),
    ],
)
def test_every_way_to_score_sees_the_same_pixels(
    geometry: Geometry, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    formats = ("mlflow", "onnx") if geometry.cover else ("onnx",)
    model = write(tmp_path / "model", geometry, export_formats=formats)
    files = sorted(photos.iterdir())
    pixels = [decode(file, geometry) for file in files]  # those of training's validation
    assert {image.shape for image in pixels} == {(*geometry.size, 3)}
    expected = plain_probabilities(model, pixels)
    if geometry.averages_mirrored:
        mirrored = plain_probabilities(model, [image[:, ::-1] for image in pixels])
        assert np.abs(expected - mirrored).max() > 0.01
        expected = (expected + mirrored) / 2
    assert np.ptp(expected, axis=0).max() > 0.1  # so that wrong pixels would show

    seen: list[np.ndarray] = []
    normalised = image_scorer.normalised

    def record(batch: torch.Tensor, *how: Any) -> torch.Tensor:
        seen.extend(batch.permute(0, 2, 3, 1).numpy())
        return normalised(batch, *how)

    monkeypatch.setattr(image_scorer, "normalised", record)
    assert score(model, photos, tmp_path / "scored") == 0
    assert all(map(np.array_equal, seen, pixels))
    assert np.abs(probabilities(tmp_path / "scored") - expected).max() < TOLERANCE

    served = served_model.ServedModel(model)
    seen.clear()

    def compute(images: list[torch.Tensor]) -> list[list[float]]:
        seen.extend(image.numpy() for image in images)
        rows: list[list[float]] = served.probabilities(images)
        return rows

    answer = served.answer((served_images.decode(file.read_bytes(), served.geometry) for file in files), compute)
    assert all(map(np.array_equal, seen, pixels))
    assert np.abs(np.array([row[:3] for row in answer["result"]]) - expected).max() < TOLERANCE
    opened = (Image.open(io.BytesIO(file.read_bytes())) for file in files)  # by a caller, who does not decode them
    assert answer["result"] == served.answer(opened)["result"]

    import onnxruntime

    session = onnxruntime.InferenceSession(str(model / "model.onnx"), providers=["CPUExecutionProvider"])
    properties = session.get_modelmeta().custom_metadata_map
    assert Geometry.from_dict(json.loads(properties["image_geometry"])) == geometry
    assert (json.loads(properties["mean"]), json.loads(properties["std"])) == (list(MEAN), list(STD))
    (given,) = session.run(None, {"images": np.stack(pixels).transpose(0, 3, 1, 2)})
    assert np.abs(given - expected).max() < 1e-4

    if "mlflow" in formats:
        seen_by_mlflow, rows = predict_with_mlflow(model, photos, tmp_path / "mlflow.npz")
        assert np.array_equal(seen_by_mlflow, np.stack(pixels))
        assert np.abs(rows - expected).max() < TOLERANCE


@pytest.mark.parametrize(
    "flags",
    [
        {"recipe": "finetune", "image_size": "48x64"},
        {"recipe": "finetune", "image_size": "48x64", "test_time_augmentation": "flip"},
        {"recipe": "classic", "test_time_augmentation": "flip"},
    ],
    ids=lambda flags: " ".join(flags.values()),
)
def test_scoring_the_validation_images_gives_the_loss_that_training_measured(
    flags: dict[str, Any], tmp_path: Path
) -> None:
    inputs = Inputs(tmp_path)
    initialize(inputs.untrained, NETWORK, inputs.outputs)
    random = np.random.default_rng(0)
    for number in range(24):
        folder = tmp_path / ("train" if number % 3 else "valid") / CLASSES[number // 8]
        folder.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = number % 8 + 1
        width, height = (int(side) for side in random.integers(40, 600, 2))
        if flags["recipe"] == "classic":
            width, height = 60, 50  # as they are
        photo(width, height, number).save(folder / f"{number}.jpg", exif=exif)
    assert inputs.fit(**flags, precision="float32", epochs=2) == 0
    written = json.loads((inputs.trained / "image_geometry.json").read_text())
    assert written["size"] == ([48, 64] if "image_size" in flags else [50, 60])
    assert written.get("averages_mirrored", False) is ("test_time_augmentation" in flags)
    assert score(inputs.trained, inputs.valid, tmp_path / "scored") == 0
    table = pd.read_parquet(tmp_path / "scored" / "_data.parquet")
    of_truth = [row[f"Scored Probabilities_{row['category']}"] for row in table.to_dict("records")]
    (best,) = [line for line in inputs.metrics() if line["is_best"]][-1:]
    assert -np.log(of_truth).mean() == pytest.approx(best["valid_loss"], abs=1e-5)
    served = served_model.ServedModel(inputs.trained)
    files = sorted(inputs.valid.rglob("*.jpg"))
    answer = served.answer(served_images.decode(file.read_bytes(), served.geometry) for file in files)
    of_served = [row[CLASSES.index(file.parent.name)] for file, row in zip(files, answer["result"])]
    assert -np.log(of_served).mean() == pytest.approx(best["valid_loss"], abs=1e-5)


def test_the_lines_of_the_documentation_score_a_photo_with_onnx(tmp_path: Path) -> None:
    model = write(tmp_path / "trained", GEOMETRY, export_formats=("onnx",))
    (tmp_path / "photo.jpg").write_bytes(turned(6, 1600, 1100))
    (lines,) = re.findall(r"```python\n(.*?onnxruntime.*?)```", (ROOT / "docs" / "outputs.md").read_text(), re.DOTALL)
    finished = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    expected = plain_probabilities(model, [decode(tmp_path / "photo.jpg", GEOMETRY)])[0]
    assert finished.stdout.split()[0] == ("cat", "dog", "owl")[expected.argmax()]
    assert float(finished.stdout.split()[1]) == pytest.approx(expected.max(), abs=1e-3)


@pytest.mark.environment
def test_the_retired_score_is_right_on_images_that_were_brought_to_the_size(tmp_path: Path) -> None:
    model = write(tmp_path / "model", GEOMETRY)
    (tmp_path / "photos").mkdir()
    for number, (width, height) in enumerate([(200, 150), (90, 163), (640, 480), (64, 64), (80, 80)]):
        photo(width, height, number).save(tmp_path / "photos" / f"{number}.{'jpg' if number % 2 else 'png'}")
    convert = {"input_path": tmp_path / "photos", "output_path": tmp_path / "images"}
    assert run_here("convert-to-image-directory", **convert, outputs_path=tmp_path / "outputs") == 0
    sizes = {"resize": "true", "size": 73, "center_crop": "true", "crop_size": 64}  # 73 = 64 / 0.875
    init = {"output_path": tmp_path / "transformation", "outputs_path": tmp_path / "outputs", **sizes}
    assert run_here("init-image-transformation", **init) == 0
    apply = {
        "mode": "For inference",
        "input_image_transform_path": tmp_path / "transformation",
        "input_image_dir_path": tmp_path / "images",
        "output_path": tmp_path / "sized",
    }
    assert run_here("apply-image-transformation", **apply, outputs_path=tmp_path / "outputs") == 0
    run_retired_tool(
        environments.retired(),
        "dl.pytorch.score.score_image_model.module_invoker",
        *("--trained-model", model, "--dataset", tmp_path / "sized", "--scored-dataset", tmp_path / "theirs"),
    )
    theirs = probabilities(tmp_path / "theirs")
    assert score(model, tmp_path / "sized", tmp_path / "ours_of_sized") == 0
    assert np.abs(probabilities(tmp_path / "ours_of_sized") - theirs).max() < TOLERANCE
    assert score(model, tmp_path / "images", tmp_path / "ours") == 0
    ours = probabilities(tmp_path / "ours")
    # An image that has the size already is not resized by us. The transformation resizes it, as every image.
    resized = [0, 1, 2, 4]
    assert np.abs(ours - theirs)[resized].max() < TOLERANCE
    assert np.ptp(ours, axis=0).max() > 0.2  # so that wrong pixels would show


def test_unreadable_photos_are_named_or_get_rows_with_an_error(photos: Path, tmp_path: Path) -> None:
    model = write(tmp_path / "model", GEOMETRY)
    (photos / "04_large.jpg").write_bytes((photos / "04_large.jpg").read_bytes()[:20000])
    (photos / "18_pixel.png").write_bytes(b"no image")
    assert score(model, photos, tmp_path / "scored") == 1
    assert not (tmp_path / "scored").exists()
    assert score(model, photos, tmp_path / "scored", skip_unreadable_images=True) == 0
    unreadable = np.isnan(probabilities(tmp_path / "scored")).any(axis=1)
    assert np.flatnonzero(unreadable).tolist() == [4, 18]


def test_photos_none_of_which_can_be_read_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.png").write_bytes(b"no image")
    model = write(tmp_path / "model", GEOMETRY)
    assert score(model, tmp_path / "photos", tmp_path / "scored", skip_unreadable_images=True) == 1
    assert "1 of 1 images cannot be read" in error_text(tmp_path / "outputs")


def test_a_damaged_geometry_ends_scoring_with_a_named_error(tmp_path: Path) -> None:
    model = write(tmp_path / "model", GEOMETRY)
    text = (model / "image_geometry.json").read_text()
    (model / "image_geometry.json").write_text(text[: len(text) // 2])
    assert score(model, tmp_path / "data", tmp_path / "scored") == 1
    error = json.loads((tmp_path / "outputs" / "module_statistics" / "error_info.json").read_text())["Exception"]
    assert error["ErrorId"] == "InvalidModelDirectory"
    assert "image_geometry.json" in error["Message"]
    assert not (tmp_path / "scored").exists()
    with pytest.raises(ValueError, match=r"image_geometry\.json is damaged"):
        served_model.ServedModel(model)


@pytest.mark.parametrize("megapixels", [50, 200])
def test_a_photo_of_a_phone_is_served_and_scored(megapixels: int, tmp_path: Path) -> None:
    width = int((megapixels * 1e6 * 4 / 3) ** 0.5)
    data = saved(Image.new("L", (width, width * 3 // 4), 200), "jpeg", quality=50)
    pixels = np.asarray(served_images.decode(data, GEOMETRY))
    assert pixels.shape == (64, 64, 3)
    assert (pixels == 200).all()
    with pytest.raises(served_images.BadImageError, match="too large"):
        served_images.decode(data)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").write_bytes(data)
    assert score(write(tmp_path / "model", GEOMETRY), tmp_path / "photos", tmp_path / "scored") == 0


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(odd_images.claiming(20_000, 20_000), id="beyond the limit of Pillow"),
        pytest.param(odd_images.bilevel(10_000, 10_000), id="a small file of many pixels"),
        pytest.param(
            saved(photo(1600, 1200), "jpeg")[:30_000], id="a truncated JPEG that is decoded at a reduced scale"
        ),
    ],
)
def test_bombs_and_truncated_images_are_refused(data: bytes) -> None:
    with pytest.raises(served_images.BadImageError):
        served_images.decode(data, GEOMETRY)


# A progressive one takes 6 bytes for a pixel, however small the result is.
@pytest.mark.parametrize(("progressive", "side"), [(False, b"\xff\xdc"), (True, b"\x3e\x80")])
def test_a_jpeg_that_claims_too_many_pixels_is_refused(progressive: bool, side: bytes) -> None:
    file = io.BytesIO()
    Image.new("L", (64, 64)).save(file, "jpeg", progressive=progressive)
    header = file.getvalue()
    frame = header.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    data = header[: frame + 5] + side + side + header[frame + 9 :]
    with pytest.raises(served_images.BadImageError, match="too large"):
        served_images.decode(data, GEOMETRY)
