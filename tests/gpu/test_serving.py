"""A served model computes on a GPU as Score Image Model does, and notices that the context of CUDA is broken."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from tests import odd_images
from tests.making import ROOT
from tests.served_models import write_model, write_network
from tests.serving_sources import heat_maps, served_model
from train_pytorch_model.data.batches import normalised

pytestmark = pytest.mark.gpu


def test_probabilities_are_those_of_float32_whatever_the_size_of_the_batch(
    device: torch.device, tmp_path: Path
) -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True  # as before a process sets them
    loaded = served_model.ServedModel(write_model(tmp_path, "torchvision.models", "resnet18", num_classes=2))
    images = [odd_images.noise(number).resize((64, 64)) for number in range(16)]
    network = torchvision.models.resnet18(num_classes=2).double().eval()
    network.load_state_dict(torch.load(tmp_path / "model", weights_only=True))
    pixels = torch.stack([torchvision.transforms.functional.pil_to_tensor(image) for image in images])
    with torch.no_grad():
        expected = network((pixels.double() / 255 - 0.5) / 0.5).softmax(1)
    together = [row[:2] for row in loaded.answer(images)["result"]]
    alone = [loaded.answer([image])["result"][0][:2] for image in images]
    for given in (together, alone):
        torch.testing.assert_close(torch.tensor(given, dtype=torch.float64), expected, rtol=0, atol=1e-5)


def test_pixels_are_normalised_to_the_bits_of_a_cpu(device: torch.device, tmp_path: Path) -> None:
    loaded = served_model.ServedModel(write_model(tmp_path, "torchvision.models", "resnet18", num_classes=2))
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)
    expected = normalised(pixels.permute(0, 3, 1, 2), torch.contiguous_format)
    assert torch.equal(loaded._normalised(pixels).cpu(), expected)


def test_the_heat_of_a_served_model_is_that_of_a_cpu(device: torch.device, tmp_path: Path) -> None:
    pytest.importorskip("captum")
    loaded = served_model.ServedModel(write_model(tmp_path, "torchvision.models", "resnet18", num_classes=2))
    pixels = torch.from_numpy(np.array(odd_images.noise().resize((64, 64))))
    network = torchvision.models.resnet18(num_classes=2)
    network.load_state_dict(torch.load(tmp_path / "model", weights_only=True))
    images = normalised(pixels.permute(2, 0, 1)[None], torch.contiguous_format)
    for label in (0, 1):
        expected = heat_maps.HeatMaps(network).heat(images, label)
        torch.testing.assert_close(
            loaded.heat(pixels, label), expected, rtol=0, atol=1e-3 * float(expected.max()) + 1e-6
        )


BROKEN = """
import sys
from pathlib import Path
from PIL import Image
from tests.serving_sources import served_model
loaded = served_model.ServedModel(Path(sys.argv[1]))
loaded.answer([Image.new("RGB", (8, 8), "white")])
for _ in range(2):
    try:
        loaded.answer([Image.new("RGB", (8, 8), "black")])
    except served_model.BrokenDeviceError as error:
        print("broken:", error)
"""


def test_an_assertion_on_the_device_breaks_the_context_and_is_told_apart(
    device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    line = "self.head.weight[:, (x.mean() < -0.9).long().view(1) * 1000].sum().item()"
    model = write_model(tmp_path / "model", write_network(tmp_path, line), "Network")
    path = os.pathsep.join([str(ROOT), str(ROOT / "src"), str(tmp_path), os.environ.get("PYTHONPATH", "")])
    finished = subprocess.run(
        [sys.executable, "-c", BROKEN, str(model)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "TRUST_MODEL_CODE": "1"},
        timeout=120,
    )
    assert finished.stdout.count("broken: CUDA error") == 2, finished.stderr
