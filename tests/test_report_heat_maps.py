"""Heat maps in the report of a training run."""

from __future__ import annotations

import re
import sys
from html import unescape
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from tests.making import Inputs, write_multilabel_directory
from tests.small_training import CPU, make_images, make_network, make_plan
from train_pytorch_model.distributed.device import torch_settings_restored
from train_pytorch_model.job import report as training_report
from train_pytorch_model.job.heat_maps import ReportHeatMaps

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
    monkeypatch.setattr(training_report, "_MIN_SECONDS", 1e-9)
    monkeypatch.setattr(training_report, "_FRACTION_OF_RUN", 1e-9)
    assert inputs.fit(report="full", epochs=1) == 0
    page = page_of(inputs)
    assert "Heat map of" not in page  # even the first one would take too long
    assert re.search(r"\d+ heat maps are left out, because the time of the report was over", page)


def test_heat_maps_get_the_time_that_is_left(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed: list[float] = []

    class Recorded(ReportHeatMaps):
        def __init__(self, training: Any, seconds: float) -> None:
            allowed.append(seconds)
            super().__init__(training, seconds)

    monkeypatch.setattr("train_pytorch_model.job.heat_maps.ReportHeatMaps", Recorded)
    monkeypatch.setattr(training_report, "_MIN_SECONDS", 1000.0)
    assert inputs.fit(report="full", epochs=1) == 0
    assert 0.8 * 1000 < allowed[0] < 1000
    monkeypatch.setattr(training_report, "_FRACTION_OF_RUN", 0.0)
    monkeypatch.setattr(training_report, "_MIN_SECONDS", 0.01)  # which the search for wrong labels uses up
    assert inputs.fit(report="full", epochs=1) == 0
    assert allowed[1] == pytest.approx(0.2 * 0.01)


def drawn(seconds: float, network: nn.Module) -> tuple[bytes | None, int, str]:
    """A heat map where a pass takes a second, the number of images in the passes for it, and the note."""
    passed: list[int] = []
    network.register_forward_hook(lambda _, given, __: passed.append(len(given[0])))
    plan = SimpleNamespace(
        memory_format=torch.contiguous_format, mean=(0.5,) * 3, std=(0.5,) * 3, averages_mirrored=False
    )
    history = SimpleNamespace(timings=[SimpleNamespace(valid_seconds=10 / 3)])
    prepared = SimpleNamespace(network=network, valid=[None] * 10)
    training: Any = SimpleNamespace(
        plan=plan, history=history, prepared=prepared, device=torch.device("cpu"), world_size=1
    )
    maps = ReportHeatMaps(training, seconds)
    jpeg = maps.jpeg(np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8), 0)
    return jpeg, sum(passed), maps.note


def test_heat_maps_of_tokens_are_averaged_over_fewer_copies_if_there_is_little_time() -> None:
    network = torchvision.models.VisionTransformer(48, 16, 1, 2, 16, 16, num_classes=2)
    nn.init.normal_(network.heads.head.weight)
    found = [drawn(seconds, network) for seconds in (12 * 32, 12 * 16, 4.5, 3.5)]
    assert [jpeg is not None for jpeg, _, _ in found] == [True, True, True, False]
    # Each copy passes four times, and twice for the features of both ends. A few passes find the layer.
    assert [num_images // 6 for _, num_images, _ in found][:3] == [8, 4, 1]
    assert [note for _, _, note in found][:3] == [""] * 3
    assert found[3][2] == "1 heat maps are left out, because the time of the report was over."


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


class Resized(torch.autograd.Function):
    """Changes nothing. Its backward pass has no deterministic kernel, as that of bicubic interpolation on a GPU."""

    @staticmethod
    def forward(context: Any, images: torch.Tensor) -> torch.Tensor:
        return images.clone()

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        if not torch.is_deterministic_algorithms_warn_only_enabled():
            raise RuntimeError("upsample_bicubic2d_backward_out_cuda does not have a deterministic implementation")
        return gradient


class Resizing(nn.Module):
    """Resizes its input, which training does not differentiate, so that it allows no operator like this one."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = make_network()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        resized: torch.Tensor = Resized.apply(images)  # type: ignore[no-untyped-call]
        logits: torch.Tensor = self.layers(resized)
        return logits + 0 * resized.mean()  # no layer is the only way from the image to the logits


def test_a_backward_pass_to_the_pixels_may_have_no_deterministic_kernel() -> None:
    training: Any = SimpleNamespace(
        plan=make_plan(),
        device=CPU,
        prepared=SimpleNamespace(network=Resizing(), valid=make_images(4)),
        world_size=1,
        history=SimpleNamespace(timings=[SimpleNamespace(valid_seconds=0.001)]),
    )
    with torch_settings_restored():
        torch.use_deterministic_algorithms(True)  # as training does where all of its own operators have such kernels
        heat_maps = ReportHeatMaps(training, 1000.0)
        picture = heat_maps.jpeg(np.zeros((12, 12, 3), dtype=np.uint8), 1)
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert (heat_maps.note, picture is None) == ("", False)
