"""The report in a browser and the display in a terminal, of real runs."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests import environments
from tests.making import ROOT, Inputs, initialize, write_image_directory

pytestmark = pytest.mark.thorough


def run_report(path: Path, classes: list[str]) -> Inputs:
    """A training with a full report."""
    inputs = Inputs(path)
    write_image_directory(inputs.train, classes=classes, per_class=3)
    write_image_directory(inputs.valid, classes=classes, per_class=2, seed=1)
    initialize(inputs.untrained, "shufflenet_v2_x0_5", inputs.outputs)
    assert inputs.fit(report="full", epochs=2) == 0
    return inputs


@pytest.fixture(scope="module", params=[3, 80], ids=["3 classes", "80 classes"])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a browser finds."""
    chromium = environments.require_program("chromium")
    path = tmp_path_factory.mktemp("report")
    classes = [f"{'<b>' if number == 1 else ''}class {number:03}" for number in range(request.param)]
    report = run_report(path, classes).outputs / "report" / "report.html"
    finished = subprocess.run(
        [str(environments.browser()), str(ROOT / "tests" / "browse_report.py"), chromium, str(report), str(path)],
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    found: dict[str, Any] = json.loads(finished.stdout)
    assert list(found) == ["phone light", "phone dark", "desktop light", "desktop dark"]
    found["classes"] = classes
    return found


def views(seen: dict[str, Any]) -> list[dict[str, Any]]:
    return [view for name, view in seen.items() if name != "classes"]


def test_a_report_loads_nothing_from_outside_and_complains_of_nothing(seen: dict[str, Any]) -> None:
    for view in views(seen):
        assert len(view["requests"]) == 1
        assert view["requests"][0].startswith("file://")
        assert (view["messages"], view["broken_images"]) == ([], 0)
        assert view["images"] > 4


def test_a_report_fits_a_phone_and_a_desk(seen: dict[str, Any]) -> None:
    assert [view["overflow"] for view in views(seen)] == [0, 0, 0, 0]


def test_a_report_is_light_or_dark_as_the_reader_has_it(seen: dict[str, Any]) -> None:
    for size in ("phone", "desktop"):
        light, dark = (
            sum(map(int, re.findall(r"\d+", seen[f"{size} {scheme}"]["background"])[:3]))
            for scheme in ("light", "dark")
        )
        assert light > 600
        assert dark < 150


def test_the_table_of_classes_sorts(seen: dict[str, Any]) -> None:
    for view in views(seen):
        columns = view["sorted"]
        names = columns["Class ascending"]
        assert sorted(names) == sorted(seen["classes"])
        # As people sort: what is no letter counts less.
        assert [name for name in names if "<" not in name] == sorted(
            name for name in seen["classes"] if "<" not in name
        )
        assert columns["Class descending"] == names[::-1]
        recalls = [float(text) for text in columns["Recall ascending"]]
        assert recalls == sorted(recalls)
        assert [float(text) for text in columns["Recall descending"]] == recalls[::-1]
        assert set(columns["Training images descending"]) == {"3"}


def test_a_report_is_readable_for_everybody_by_the_rules_of_axe(seen: dict[str, Any]) -> None:
    for view in views(seen):
        assert view["violations"] == []
        assert {"color-contrast", "image-alt", "html-has-lang", "th-has-data-cells"} <= set(view["checked"])


def captured(name: str) -> list[str]:
    screen = subprocess.run(["tmux", "capture-pane", "-p", "-t", name], capture_output=True, text=True, check=True)
    return [line.rstrip() for line in screen.stdout.splitlines() if line.strip()]


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_shows_one_calm_display(width: int, inputs: Inputs) -> None:
    environments.require_program("tmux")
    how = {"epochs": 40, "patience": 40, "batch_size": 4, "print_frequency": 1}
    command = [sys.executable, "-m", "train_pytorch_model", *inputs.arguments(**how)]
    session = f"training-{width}"
    subprocess.run(
        [
            "tmux",
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-s",
            session,
            "-x",
            str(width),
            "-y",
            "30",
            f"OMP_NUM_THREADS=1 {shlex.join(command)}; echo the code is $?; sleep 600",
        ],
        check=True,
        cwd=inputs.path,
        env=dict(os.environ),  # and not what readline, which pytest loads, adds to it: COLUMNS
    )
    try:
        live: list[list[str]] = []
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            screen = captured(session)
            if any(line.startswith("the code is") for line in screen):
                break
            if screen and screen[-1].startswith(("best: ", "patience ")):
                live.append(screen)
            time.sleep(0.2)
    finally:
        subprocess.run(["tmux", "kill-session", "-t", session], check=True)
    assert screen[-1] == "the code is 0"
    # What was live has gone, and nothing of it is left between the lines.
    assert not any("━" in line for line in screen)
    assert all(re.match(r"\d\d:\d\d:\d\d |the code", line) for line in screen if "Epoch" in line)
    with_numbers = [each for each in live if len(each) > 4 and each[-2].startswith("loss ")]
    assert len(with_numbers) > 3
    for each in with_numbers:
        epochs, batches, numbers, best = each[-4:]
        assert re.fullmatch(r"Epochs +━.* \d+/40 +(\d:\d\d:\d\d|-:--:--) left", epochs)
        assert re.fullmatch(r"(Training|Validation) +━.* \d+/\d+ +(\d:\d\d:\d\d|-:--:--) left", batches)
        assert len(epochs) == len(batches) == width
        assert re.fullmatch(r"loss [\d.e+]+  accuracy [\d.]+  [\d,]+ images/s  lr [\d.e-]+", numbers)
        assert re.fullmatch(r"(best: epoch \d+, accuracy [\d.]+, loss [\d.e+]+  )?patience \d+ of 40 epochs", best)
        # One display: its bars are there once.
        assert sum(line.startswith("Epochs ") for line in each) == 1
