"""Scaling of time and memory with the number of images, and the memory of a list of a million images."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

from PIL import Image

from benchmarks.datasets import make_photos
from benchmarks.processes import own_anonymous_bytes, run_watched
from benchmarks.results import kind, table, write_section
from train_pytorch_model.cli.main import main
from train_pytorch_model.designer_core import load_image_directory
from train_pytorch_model.ports.labelled_images import read_labelled_images

_BASE = 500
_SIZE = 64
_NUM_ROWS = 1_000_000


def _train(images: Path, store: str, work_path: Path) -> list[str]:
    trained = work_path / "growth_trained"
    shutil.rmtree(trained, ignore_errors=True)
    outputs = work_path / "growth_outputs"
    usage = run_watched(
        [
            *(sys.executable, "-m", "train_pytorch_model", "train", "--report", "off"),
            *("--untrained-model-path", work_path / "growth_model"),
            *("--train-data-path", images / "train_data", "--valid-data-path", images / "valid_data"),
            *("--trained-model-path", trained, "--outputs-path", outputs, "--epochs", 1, "--image-store", store),
        ]
    )
    timing = json.loads((outputs / "timings.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    return [f"{usage.seconds:.1f}", f"{timing['train_seconds']:.1f}", f"{usage.anonymous_bytes / 2**20:,.0f}"]


def hold_rows(path: Path) -> None:
    """Read a dataset as training does, and print its memory."""
    load_image_directory(path.parent / "few_data")  # the imports do not count
    before = own_anonymous_bytes()
    started = time.perf_counter()
    images = read_labelled_images(path, "Training dataset")
    seconds = time.perf_counter() - started
    print(json.dumps({"rows": len(images), "seconds": seconds, "held": own_anonymous_bytes() - before}))


def _many_rows(work_path: Path) -> str:
    few = make_photos(work_path / "few", 10, 10, size=32)
    shutil.copytree(few / "train_data", work_path / "few_data", dirs_exist_ok=True)
    path = work_path / "many_data"
    shutil.copytree(few / "train_data", path, dirs_exist_ok=True)
    Image.new("RGB", (32, 32)).save(path / "image" / "0_0.jpg")
    with (path / "images.lst").open("w", encoding="utf-8") as file:
        for index in range(_NUM_ROWS):
            info = {"file_name": f"image/{index % 10}_{index}.jpg"}
            file.write(json.dumps({"image_info": info, "category": f"class{index % 10}", "id": index}) + "\n")
    code = f"from pathlib import Path; from benchmarks.growth import hold_rows; hold_rows(Path({str(path)!r}))"
    held = json.loads(run_watched([sys.executable, "-c", code]).output.strip().splitlines()[-1])
    return (
        f"Reading a list of {held['rows']:,} rows takes {held['seconds']:.1f} s. The list uses "
        f"{held['held'] / 2**20:.0f} MiB of anonymous memory afterwards."
    )


def measure(work_path: Path) -> None:
    """Run the benchmark and write its section."""
    arguments = [
        "initialize-model",
        "--model-name",
        "resnet18",
        "--untrained-model-path",
        str(work_path / "growth_model"),
    ]
    if main([*arguments, "--outputs-path", str(work_path / "growth_outputs")]):
        raise RuntimeError("the untrained model could not be written")
    stores = ("disk", "memory") if kind() == "cpu" else ("disk", "memory", "device")
    rows = []
    for factor in (1, 4, 16):
        images = make_photos(work_path / f"growth{factor}", _BASE * factor, 100, size=_SIZE)
        for store in stores:
            rows.append([f"{factor}x ({_BASE * factor:,})", store, *_train(images, store, work_path)])
            print(rows[-1], flush=True)
    head = ["images", "store", "seconds (job)", "seconds (epoch)", "RssAnon (peak, MiB)"]
    text = (
        f"One epoch of resnet18 with batch size 16 on JPEGs of {_SIZE}x{_SIZE}, and 100 validation images.\n\n"
        f"{table(head, rows)}\n\n{_many_rows(work_path)}"
    )
    write_section("growth", text)
