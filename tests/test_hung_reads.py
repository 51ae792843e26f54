"""A file whose read never ends ends the run, with its name."""

from __future__ import annotations

import os
import time

import pytest

from tests.making import ROOT, Inputs, error_text, run_module

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


@pytest.mark.parametrize("command", ["train", "check"])
def test_a_read_that_hangs_is_named_and_the_process_ends(command: str, inputs: Inputs) -> None:
    image = sorted((inputs.valid / "image").iterdir())[5]
    (inputs.path / "sitecustomize.py").write_text(HANGING.format(name=f"valid/image/{image.name}"))
    started = time.monotonic()
    finished = run_module(command, *inputs.arguments()[1:], PYTHONPATH=f"{inputs.path}{os.pathsep}{ROOT / 'src'}")
    assert time.monotonic() - started < 120
    assert finished.returncode == 1, finished.stderr
    assert f"{image} has been read for" in finished.stderr
    # What is wrong goes into the log of a training, and onto the page of a check, which is broken into lines.
    told = finished.stderr if command == "train" else "".join(finished.stdout.split())
    assert (f"{image} could not be read in" if command == "train" else f"{image}couldnotbereadin") in told
    assert "Traceback" not in finished.stderr
    if command == "train":
        assert str(image) in error_text(inputs.outputs)


def test_a_pipe_in_place_of_an_image_is_told_of(inputs: Inputs) -> None:
    image = sorted((inputs.train / "image").iterdir())[0]
    image.unlink()
    os.mkfifo(image)
    assert inputs.fit() == 1
    assert f"{image.name}': it is no regular file" in error_text(inputs.outputs)
    assert inputs.fit(skip_unreadable_images="true") == 0
