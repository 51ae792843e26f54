"""A file whose read never ends ends the run, with its name."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.making import Inputs, error_text, flags_of, run_here, run_module, write_class_folders

# A mount that does not answer, for one file; and patience that a test has.
HANGING = """
import threading
from PIL import Image
from train_pytorch_model.data import threads
threads._LONG_SECONDS, threads._ENDLESS_SECONDS = 0.5, 2.0
opened = Image.open
def open_or_hang(path, *more, **how):
    if str(path).endswith({name!r}):
        threading.Event().wait()
    return opened(path, *more, **how)
Image.open = open_or_hang
"""


def run_until_it_hangs(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command that waits for ever for the file whose path ends so."""
    started = time.monotonic()
    finished = run_module(*arguments, first=HANGING.format(name=name))
    assert time.monotonic() - started < 120
    assert finished.returncode == 1, finished.stderr
    assert "Traceback" not in finished.stderr
    return finished


def test_a_read_that_hangs_in_a_thread_of_a_thread_does_not_keep_the_process(tmp_path: Path) -> None:
    """A thread that reads ahead has decoding threads of its own; the wait for it is what finds the hang."""
    code = (
        "import sys, threading, time\n"
        "from pathlib import Path\n"
        "from train_pytorch_model.data import threads\n"
        "threads._LONG_SECONDS, threads._ENDLESS_SECONDS = 0.3, 1.5\n"
        "def hang(number):\n"
        "    with threads.reading(Path('image.png')):\n"
        "        threading.Event().wait()\n"
        "def decode(batch):\n"
        "    time.sleep(0.1)\n"
        "    return list(threads.in_threads(hang, 4, at_once=1, num_threads=2))\n"
        "try:\n"
        "    list(threads.ahead(decode, range(3)))\n"
        "except threads.HungReadError as error:\n"
        "    sys.exit(str(error))\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert finished.returncode == 1
    assert "image.png could not be read in" in finished.stderr


@pytest.mark.parametrize("command", ["train", "check"])
def test_a_read_that_hangs_is_named_and_the_process_ends(command: str, inputs: Inputs) -> None:
    image = sorted((inputs.valid / "image").iterdir())[5]
    finished = run_until_it_hangs(f"valid/image/{image.name}", command, *inputs.arguments()[1:])
    assert f"Reading {image} has taken" in finished.stderr
    # What is wrong goes into the log of a training, and onto the page of a check, which is broken into lines.
    told = finished.stderr if command == "train" else "".join(finished.stdout.split())
    assert (f"{image} could not be read in" if command == "train" else f"{image}couldnotbereadin") in told
    if command == "train":
        assert str(image) in error_text(inputs.outputs)


def test_a_read_that_hangs_is_named_where_others_would_open_the_image(inputs: Inputs) -> None:
    raw = write_class_folders(inputs.path / "raw", per_class=2)
    run_until_it_hangs("raw/dog/1.png", *inputs.arguments(train_data_path=raw))
    assert f"{raw / 'dog' / '1.png'} could not be read in" in error_text(inputs.outputs)
    transformation, changed = inputs.path / "transformation", inputs.path / "changed"
    reports = {"outputs_path": inputs.outputs}
    assert run_here("init-image-transformation", output_path=transformation, **reports) == 0
    image = sorted((inputs.valid / "image").iterdir())[5]
    ports = {"input_image_transform_path": transformation, "input_image_dir_path": inputs.valid}
    flags = flags_of({**ports, "output_path": changed, **reports})
    run_until_it_hangs(f"valid/image/{image.name}", "apply-image-transformation", *flags)
    assert f"{image} could not be read in" in error_text(inputs.outputs)
    assert not changed.exists()


def test_a_pipe_instead_of_an_image_is_reported(inputs: Inputs) -> None:
    image = sorted((inputs.train / "image").iterdir())[0]
    image.unlink()
    os.mkfifo(image)
    assert inputs.fit() == 1
    assert f"{image.name}': it is not a regular file" in error_text(inputs.outputs)
    assert inputs.fit(skip_unreadable_images="true") == 0
