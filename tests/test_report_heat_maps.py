"""Heat maps in the report of a training run."""

from __future__ import annotations

import re
import sys
from html import unescape

import pytest

from tests.making import Inputs, write_multilabel_directory
from train_pytorch_model.job import report as training_report

pytest.importorskip("captum")
pytestmark = pytest.mark.usefixtures("unhurried_reports")


def page_of(inputs: Inputs) -> str:
    return unescape((inputs.outputs / "report" / "report.html").read_text(encoding="utf-8"))


def test_a_full_report_has_heat_maps_beside_mistakes_and_samples(inputs: Inputs) -> None:
    assert inputs.fit(report="full", epochs=1, learning_rate=1e-6) == 0
    page = page_of(inputs)
    mistakes = re.findall(
        r'alt="Image [^"]*: of class (\w+), predicted as (\w+)">\s*<img [^>]*alt="Heat map of (\w+) in', page
    )
    assert mistakes
    assert all(predicted == shown != true for true, predicted, shown in mistakes)
    samples = re.findall(r'alt="Image [^"]*, a sample of class (\w+)">\s*<img [^>]*alt="Heat map of (\w+) in', page)
    assert len(samples) == 9
    assert all(label == shown for label, shown in samples)
    assert "where the network sees the class that it predicted" in page
    assert "are left out" not in page


def test_a_basic_report_has_none(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    assert inputs.fit(report="basic", epochs=1) == 0
    assert "eat map" not in page_of(inputs)
    assert "heated" not in page_of(inputs)


def test_a_full_report_without_captum_says_so(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    assert inputs.fit(report="full", epochs=1) == 0
    page = page_of(inputs)
    assert "Heat maps are left out: heat maps need the package captum, which is not installed; the extra" in page
    assert "Heat map of" not in page


def test_heat_maps_that_take_too_long_are_left_out(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_report, "_HEAT_FRACTION", 1e-9)
    assert inputs.fit(report="full", epochs=1) == 0
    page = page_of(inputs)
    assert "Heat map of" not in page  # even the first one would take too long
    assert re.search(r"\d+ heat maps are left out, because the time of the report was over", page)


def test_a_report_of_several_labels_has_heat_maps_of_labels(inputs: Inputs) -> None:
    for path in (inputs.train, inputs.valid):
        import shutil

        shutil.rmtree(path)
        write_multilabel_directory(path)
    assert inputs.fit(report="full", epochs=1, learning_rate=1e-6) == 0
    page = page_of(inputs)
    found = re.findall(
        r'alt="Image [^"]*: (\w+) was (?:wrongly found|missed)">\s*<img [^>]*alt="Heat map of (\w+) in', page
    )
    assert found
    assert all(label == shown for label, shown in found)
