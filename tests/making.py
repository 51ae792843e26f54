"""Makes what tests train on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tests.processes import needs_a_start, run_forked
from train_pytorch_model.cli.main import main
from train_pytorch_model.designer_core import load_image_directory
from train_pytorch_model.ports.image_directory import ImageDirectoryWriter, make_schema
from train_pytorch_model.ports.labelled_images import LabelledImages

ROOT = Path(__file__).parent.parent
# Commands of the modules around Train PyTorch Model, in the order of a pipeline.
MODULES = (
    "convert-to-image-directory",
    "split-image-directory",
    "init-image-transformation",
    "apply-image-transformation",
    "initialize-model",
    "score-image-model",
    "evaluate-model",
    "cross-validate",
)
CLASSES = ("cat", "dog", "owl")
# Small, quick, and with batch normalisation like the networks people use.
NETWORK = "shufflenet_v2_x0_5"


def write_class_folders(
    path: Path, classes: Iterable[str] = CLASSES, per_class: int = 8, size: int = 32, seed: int = 0
) -> Path:
    """One folder a class of noisy PNGs, each class around a colour of its own, so that they can be learnt."""
    random = np.random.default_rng(seed)
    for number, name in enumerate(classes):
        (path / name).mkdir(parents=True, exist_ok=True)
        colour = np.random.default_rng(number).integers(0, 256, 3)
        for index in range(per_class):
            pixels = np.clip(colour + random.normal(0, 30, (size, size, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(path / name / f"{index}.png")
    return path


def write_image_directory(path: Path, **how: object) -> Path:
    """The same as an ImageDirectory, written by designer-core itself."""
    folders = write_class_folders(path.with_name(path.name + "_folders"), **how)  # type: ignore[arg-type]
    load_image_directory(folders).dump(str(path))
    return path


def write_multilabel_directory(
    path: Path,
    lists: Sequence[object] | None = None,
    categories: Sequence[str] = CLASSES,
    size: int = 32,
    seed: int = 0,
) -> Path:
    """An ImageDirectory of lists of labels; without `lists`, each set of the first three labels thrice.

    Each label has a part of the picture of its own, which is bright where an image has the label.
    """
    if lists is None:
        lists = [[name for bit, name in enumerate(categories[:3]) if number >> bit & 1] for number in range(8)] * 3
    random = np.random.default_rng(seed)
    (path / "image").mkdir(parents=True)
    with ImageDirectoryWriter(path, make_schema(categories, multilabel=True)) as writer:
        for number, labels in enumerate(lists):
            bright = [200 if isinstance(labels, list) and name in labels else 50 for name in categories]
            columns = np.resize(np.repeat(bright, -(-size // len(bright))), (size, 1))
            pixels = np.clip(columns + random.normal(0, 20, (size, size, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(path / "image" / f"{number}.png")
            writer.add({"image_info": {"file_name": f"image/{number}.png"}, "category": labels, "id": number})
    return path


class Inputs:
    """The three inputs and the two outputs of one training."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.untrained = path / "untrained"
        self.train = path / "train"
        self.valid = path / "valid"
        self.trained = path / "trained"
        self.outputs = path / "outputs"

    def make(self, network: str = NETWORK, **how: object) -> Inputs:
        """Write an untrained model and two datasets."""
        write_image_directory(self.train, **how)
        write_image_directory(self.valid, **{"per_class": 4, "seed": 1, **how})
        initialize(self.untrained, network, self.outputs)
        return self

    def copied(self, path: Path) -> Inputs:
        """Copy the three inputs to a folder."""
        for name in ("untrained", "train", "valid"):
            shutil.copytree(self.path / name, path / name)
        return Inputs(path)

    def arguments(self, **flags: object) -> list[str]:
        """The command line; a flag given as None is left out."""
        given: dict[str, object] = {
            "untrained_model_path": self.untrained,
            "train_data_path": self.train,
            "valid_data_path": self.valid,
            "trained_model_path": self.trained,
            "outputs_path": self.outputs,
            "epochs": 1,
            "batch_size": 6,
            "report": "off",  # it takes longer than these trainings
            **flags,
        }
        return ["train", *flags_of(given)]

    def fit(self, **flags: object) -> int:
        """Train in this process; give the exit code."""
        return main(self.arguments(**flags))

    def metrics(self) -> list[dict[str, object]]:
        """The lines of metrics.jsonl."""
        return read_json_lines(self.outputs / "metrics.jsonl")

    def error(self) -> dict[str, object] | None:
        """What error_info.json says."""
        return error_of(self.outputs)


def paths_of(images: LabelledImages) -> list[Path]:
    """The files of a dataset."""
    return [images.path_of(index) for index in range(len(images))]


def flags_of(given: dict[str, object]) -> list[str]:
    """Names and values as a command line has them; what is None is left out."""
    pairs = [(f"--{name.replace('_', '-')}", str(value)) for name, value in given.items() if value is not None]
    return [text for pair in pairs for text in pair]


def run_here(command: str, **flags: object) -> int:
    """Run a command of the project in this process; give the exit code."""
    return main([command, *flags_of(flags)])


def error_of(outputs: Path) -> dict[str, object] | None:
    """What error_info.json says of a run."""
    path = outputs / "module_statistics" / "error_info.json"
    report: dict[str, object] | None = json.loads(path.read_text(encoding="utf-8"))["Exception"]
    return report


def error_code(outputs: Path) -> tuple[object, object]:
    """Name and number of the error that a run ended with."""
    error = error_of(outputs)
    assert error is not None
    return error["ErrorId"], error["ErrorCode"]


def error_text(outputs: Path) -> str:
    """What the error says that a run ended with."""
    error = error_of(outputs)
    assert error is not None
    return str(error["Message"])


def initialize(path: Path, network: str, outputs: Path, **flags: object) -> None:
    """Write an untrained model with the project's own command."""
    given = {"model_name": network, "untrained_model_path": path, "outputs_path": outputs, **flags}
    assert run_here("initialize-model", **given) == 0


def read_json_lines(path: Path) -> list[dict[str, object]]:
    """The objects of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run_module(
    *arguments: object,
    python: Path | str = sys.executable,
    cwd: Path | None = None,
    first: str = "",
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run `python -m train_pytorch_model` in a process of its own, as a pipeline does.

    Args:
        *arguments: of the command.
        python: another Python than that of the tests.
        cwd: the working directory.
        first: Python code that a forked process runs before the command.
        **environment: variables; those that are read only when Python starts make it start afresh instead of forking.
    """
    if python == sys.executable and not needs_a_start(environment):
        words = ["train_pytorch_model", *map(str, arguments)]
        return run_forked(words, {**os.environ, **environment}, cwd or Path.cwd(), first)
    return subprocess.run(
        [str(python), "-m", "train_pytorch_model", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
    )


def run_retired_tool(python: Path, module: str, *arguments: object) -> str:
    """Run a module of the retired packages to its end; give what it printed."""
    # With a seed, because it draws weights without one.
    program = (
        "import runpy, sys, torch; torch.manual_seed(0); name = sys.argv.pop(1);"
        " runpy.run_module(name, run_name='__main__', alter_sys=True)"
    )
    command = [str(python), "-c", program, f"azureml.designer.modules.{module}", *map(str, arguments)]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-3000:]
    return finished.stdout + finished.stderr


def run_in_snapshot(code: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command (`python -m train_pytorch_model …`) where only the snapshot `code` can hold the package."""
    run = (
        "import sys, runpy; sys.meta_path = [f for f in sys.meta_path if '__editable__' not in str(f)]\n"
        "sys.path = [p for p in sys.path if not p.endswith('/src')]; sys.argv = sys.argv[2:]\n"
        "import train_pytorch_model; print(train_pytorch_model.__file__)\n"
        "runpy.run_module('train_pytorch_model', run_name='__main__')"
    )
    finished = subprocess.run([sys.executable, "-c", run, *words[1:]], cwd=code, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == str(code / "train_pytorch_model" / "__init__.py")
    return finished
