"""The tutorial, run as a reader runs it."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.making import ROOT


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the notebook's own libraries
def test_the_tutorial_runs_from_a_zip_of_photos_to_pictures_of_how_good_the_model_is(tmp_path: Path) -> None:
    shutil.copy(ROOT / "samples" / "tutorial.ipynb", tmp_path)
    notebook = nbformat.read(tmp_path / "tutorial.ipynb", as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    shown = [output["data"]["text/plain"] for output in outputs if "text/plain" in output.get("data", {})]
    metrics = ast.literal_eval(next(text for text in shown if text.startswith("{'accuracy'")))
    assert metrics["accuracy"] > 0.9
    run = tmp_path / "tutorial_run"
    report = json.loads((run / "evaluation" / "metrics.json").read_text())
    assert metrics["accuracy"] == pytest.approx(report["accuracy"], abs=1e-4)
    scored = len((run / "scored" / "_data.csv").read_text().splitlines()) - 1
    assert report["num_images"] == scored == len((run / "test" / "images.lst").read_text().splitlines()) == 60
