"""The report that a training writes at its end, through the command a pipeline runs."""

from __future__ import annotations

import base64
import csv
import io
import math
import re
import shutil
import signal
import time
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.jobs import results, train_job
from tests.making import Inputs
from tests.scripted import script_validation
from tests.small_training import make_images
from train_pytorch_model.evaluation.records import EpochRecord, EpochTiming
from train_pytorch_model.job import report as training_report
from train_pytorch_model.job.history import History
from train_pytorch_model.parameters import TrainingParameters
from train_pytorch_model.training.early_stopping import EarlyStopping
from train_pytorch_model.training.predictions import predict

pytestmark = pytest.mark.usefixtures("unhurried_reports")


def page_of(inputs: Inputs) -> str:
    return unescape((inputs.outputs / "report" / "report.html").read_text(encoding="utf-8"))


def pixels_of(file: Path | io.BytesIO) -> np.ndarray:
    return np.asarray(Image.open(file), dtype=float)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_report_says_what_was_trained_on_what_and_how_well(inputs: Inputs) -> None:
    assert inputs.fit(report="full", epochs=3, learning_rate=0.0123) == 0
    page = page_of(inputs)
    metrics = inputs.metrics()
    best = [record for record in metrics if record["is_best"]][-1]
    assert f"{100 * float(str(best['top1_acc'])):.1f} %" in page
    assert f"The model of epoch {best['epoch']} was saved" in page
    assert "Completed all 3 epochs." in page
    for definition in TrainingParameters.definitions().values():
        assert definition.title in page
    for text in (
        "shufflenet_v2_x0_5",
        "24 of 32x32 pixels",
        "12 of 32x32 pixels",
        "0.0123",
        str(inputs.train),
        "float32",
    ):
        assert text in page
    curves = rows_of(inputs.outputs / "report" / "learning_curves.csv")
    assert [float(row["valid_loss"]) for row in curves] == [record["valid_loss"] for record in metrics]
    recalls = rows_of(inputs.outputs / "report" / "per_class.csv")
    # All classes have as many validation images.
    assert sum(float(row["recall"]) for row in recalls) / 3 == pytest.approx(best["top1_acc"])
    assert page.count("data:image/jpeg") - page.count("Heat map of") == 9 + round(
        12 * (1 - float(str(best["top1_acc"])))
    )


@pytest.mark.parametrize("variable", ["MLFLOW_RUN_ID", None])
def test_a_report_shows_no_images_in_a_job(
    variable: str | None, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable:
        monkeypatch.setenv(variable, "a-job")
    assert inputs.fit(report=None) == 0
    assert ("data:image/jpeg" in page_of(inputs)) is (variable is None)
    assert inputs.fit(report="basic") == 0
    assert "data:image/jpeg" not in page_of(inputs)


def test_no_report_of_an_earlier_run_stays_and_nothing_else_goes(inputs: Inputs) -> None:
    assert inputs.fit(report="basic") == 0
    own = inputs.outputs / "report" / "thesis.txt"
    own.write_text("of somebody")
    assert inputs.fit(report="off") == 0
    assert list((inputs.outputs / "report").iterdir()) == [own]
    own.unlink()
    assert inputs.fit(report="basic") == 0
    assert inputs.fit(report="off") == 0
    assert not (inputs.outputs / "report").exists()


@pytest.mark.parametrize("flag", ["trained_model_path", "checkpoint_path"])
def test_the_reports_folder_is_for_it_alone(flag: str, inputs: Inputs) -> None:
    place = inputs.outputs / "report" / "model"
    assert inputs.fit(**{flag: place}) == 1
    assert "is the folder of the report" in str(inputs.error())


def test_of_a_network_that_gives_a_tuple_the_first_part_counts() -> None:
    class Pair(nn.Module):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, None]:
            return images.mean(dim=(2, 3)), None

    images = make_images(5)
    device = torch.device("cpu")
    given = predict(Pair(), images, torch.arange(5), 2, device, torch.contiguous_format)
    pixels = (images.pixels.double() / 255 - 0.5) / 0.5
    assert given == pytest.approx(pixels.mean(dim=(2, 3)).softmax(1).numpy(), abs=1e-6)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, made_inputs: Inputs) -> tuple[bytes, bytes]:
    """What the runs below come to. In a process like theirs: another number of threads would give other bits."""
    inputs = made_inputs.copied(tmp_path_factory.mktemp("undisturbed"))
    assert train_job(inputs).wait() == [0]
    return results(inputs)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_run_disturbed_in_its_report_has_its_model(
    number: signal.Signals, inputs: Inputs, undisturbed: tuple[bytes, bytes]
) -> None:
    job = train_job(inputs, report="basic")
    assert job.until(lambda: (inputs.trained / "_meta.yaml").exists())
    time.sleep(0.1)  # and the report is being written
    job.send(number)
    code = job.wait()[0]
    assert results(inputs) == undisturbed
    if number != signal.SIGKILL:
        assert code == 0, job.log()
        assert inputs.error() is None
        assert not list(inputs.outputs.glob("checkpoints/*"))
    assert train_job(inputs, report="basic").wait() == [0]
    assert results(inputs) == undisturbed
    assert "Completed " in page_of(inputs)


def test_a_report_that_cannot_be_written_ends_nothing(inputs: Inputs, capfd: pytest.CaptureFixture[str]) -> None:
    inputs.outputs.mkdir()
    (inputs.outputs / "report").write_text("a file of somebody's")
    assert inputs.fit(report="basic") == 0
    assert "The report could not be written: FileExistsError" in capfd.readouterr().err
    assert (inputs.trained / "model").is_file()
    assert inputs.error() is None


def test_a_report_says_why_a_training_stopped_early(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    script_validation(monkeypatch, losses=(2.0, 1.0, 1.5))
    assert inputs.fit(report="basic", epochs=30, patience=1) == 0
    assert "Stopped early after epoch 3: no new lowest validation loss since epoch 2" in page_of(inputs)


def test_a_report_warns_of_the_data(inputs: Inputs) -> None:
    train, valid = (sorted((path / "image").iterdir()) for path in (inputs.train, inputs.valid))
    shutil.copy(train[0], valid[0])
    train[1].write_bytes(train[1].read_bytes()[:200])
    assert inputs.fit(report="full", skip_unreadable_images="true") == 0
    page = page_of(inputs)
    assert re.search(
        rf"1 of 12 validation images are identical to training images, byte for byte: '[^']*{valid[0].name}'", page
    )
    assert re.search(rf"1 of 24 images cannot be read and are skipped: '[^']*{train[1].name}'", page)
    assert "23 of 32x32 pixels, 0.1 MiB decoded, 1 skipped" in page
    # Thumbnails are of the images that their captions name, though one before them is left out.
    samples = page[page.index("samples-title") :]
    shown = re.findall(r'src="data:image/jpeg;base64,([^"]+)".*?class="file">([^<]+)</bdi>', samples, re.DOTALL)
    pixels = {f"image/{path.name}": pixels_of(path) for path in train if path != train[1]}
    assert len(shown) == 9
    for jpeg, name in shown:
        seen = pixels_of(io.BytesIO(base64.b64decode(jpeg)))
        assert min(pixels, key=lambda other: np.abs(pixels[other] - seen).mean()) == name


def test_a_report_shows_the_pixels_that_the_network_sees(inputs: Inputs) -> None:
    assert inputs.fit(report="full", image_size=28, auto_augment="crop", epochs=2) == 0
    page = page_of(inputs)
    assert "Samples and mistakes show what the network sees without augmentation: images of 28×28 pixels." in page
    assert "24 of 28x28 pixels (stored with a margin for crops: 32x32)" in page
    assert "12 of 28x28 pixels, " in page
    sheet = page[page.index('id="augmented"') : page.index('id="training"')]
    rows = re.findall(r'class="file">([^<]+)</bdi></th>(.*?)</tr>', sheet, re.DOTALL)
    assert len(rows) == 3
    for name, cells in rows:
        plain, *views = [
            pixels_of(io.BytesIO(base64.b64decode(jpeg))) for jpeg in re.findall(r"base64,([^\"]+)", cells)
        ]
        whole = pixels_of(inputs.train / name)
        cuts = {(y, x): np.abs(plain - whole[y : y + 28, x : x + 28]).mean() for y in range(5) for x in range(5)}
        assert min(cuts, key=lambda place: cuts[place]) == (2, 2)
        assert len(views) == 2
        assert all(view.shape == (28, 28, 3) and np.abs(view - plain).mean() > 15 for view in views)
    assert "have this size already" not in page
    assert inputs.fit(report="full") == 0
    page = page_of(inputs)
    assert 'id="augmented"' not in page
    assert "what the network sees" not in page


def test_a_report_says_that_samples_of_the_size_are_enlarged_for_random_crops(inputs: Inputs) -> None:
    file = next(inputs.train.rglob("*.png"))
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(file)
    assert inputs.fit(report="full", image_size=32, auto_augment="crop") == 0
    page = page_of(inputs)
    assert "24 of 32x32 pixels (stored with a margin for crops: 36x36)" in page
    assert "Samples that have this size already are enlarged and cropped, as all training images are;" in page


def test_a_report_shows_augmented_images_of_trained_epochs_only(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EarlyStopping, "is_over", property(lambda stopping: stopping.lowest_loss < math.inf))
    assert inputs.fit(report="full", recipe="scratch", image_size=32, epochs=4) == 0
    page = page_of(inputs)
    assert "Stopped early after epoch 1" in page
    assert '<th scope="col">Epoch 1</th>' in page
    assert '<th scope="col">Epoch 2</th>' not in page


def test_images_are_drawn_where_all_would_take_too_long(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_report, "_MIN_SECONDS", 1e-9)
    monkeypatch.setattr(training_report, "_FRACTION_OF_RUN", 0)
    assert inputs.fit(report="basic") == 0
    assert "on 1 validation image of 3 classes, a random sample of all 12" in page_of(inputs)


def test_epochs_of_the_run_before_are_in_the_history() -> None:
    history = History()
    pairs = [
        (EpochRecord(epoch, 0.1, 1.0, 0.5, 1.0, 0.5, None, is_best=epoch == 1), EpochTiming(epoch, 1.0, 1.0, 10.0))
        for epoch in (1, 2, 3)
    ]
    history.training_resumed(pairs[:2])
    history.epoch_done(*pairs[2])
    assert list(zip(history.records, history.timings)) == pairs
