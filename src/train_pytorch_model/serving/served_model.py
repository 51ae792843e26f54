"""Loads and runs the model in the same folder, a ModelDirectory, without the package that wrote it.

It only needs torch, NumPy, Pillow, PyYAML, the library of the network, and `served_images.py`, `image_geometry.py`,
`model_task.py` and `served_networks.py` beside it. Columns and probabilities are those of Score Image Model.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
import threading
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import torch
import yaml
from heat_maps import HeatMapError, HeatMaps
from image_geometry import GEOMETRY_FILE, Geometry, pixels_of
from model_task import TASK_FILE, Task
from served_images import BadImageError, decode, decode_base64
from served_networks import TRUST, build_network, import_local_code
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from PIL import Image

__all__ = ["BadImageError", "ServedModel", "build_network", "decode", "decode_base64"]

logger = logging.getLogger(__name__)

# That of the model specification, see TASK_FILE.
_MULTILABEL_TASK_TYPE = "MultiLabelClassification"
# Images of equal size that are computed together, at most so many and so many pixels.
MAX_BATCH_IMAGES = 16
MAX_BATCH_PIXELS = 16_000_000
_OUT_OF_MEMORY = (
    *("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "bad_alloc"),
    *("cublas_status_alloc_failed", "cudnn_status_alloc_failed", "unable to find an engine"),
    "nvml_success ==",  # where PyTorch's allocator cannot ask NVML for details
)
_DEVICE_FAULTS = ("cuda error", "cudnn error", "cudnn_status", "cublas_status", "cusolver_status", "cufft error")

Compute = Callable[[list[torch.Tensor]], list[list[float]]]


class OutOfMemoryError(Exception):
    """The memory does not suffice for one image."""


class BrokenDeviceError(Exception):
    """The GPU does not work any more for this process, so the process should end."""


class ServedModel:
    """A network with its labels, its normalisation and the geometry of its images."""

    geometry: Geometry | None
    """How images become what the network sees; None if it sees them as they are."""
    task: Task
    """Whether an image has one class or several labels, and the thresholds of labels."""

    def __init__(self, folder: Path) -> None:
        """Load a ModelDirectory.

        Raises:
            ValueError: if the network is neither of a known library nor trusted, or the geometry is damaged.
        """
        spec = yaml.safe_load((folder / "model_spec.yaml").read_text(encoding="utf-8"))
        extras = spec["flavor_extras"]
        has_code = bool(spec.get("local_dependencies"))
        if has_code:
            import_local_code(folder / "local_dependencies.zip")
        weights = folder / spec["model_file"]
        logger.info("Weights of %s: SHA-256 %s.", weights, hashlib.sha256(weights.read_bytes()).hexdigest())
        trusted = has_code or os.environ.get(TRUST, "").lower() in ("1", "true")
        self._build: Callable[[], nn.Module] = lambda: build_network(
            extras["module"], extras["class"], extras.get("init_params") or {}, trusted=trusted
        )
        network = self._build()
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._network = network.eval().to(self._device)
        # As Score Image Model: convolutions are faster in this format.
        has_convolutions = any(isinstance(module, nn.Conv2d) for module in network.modules())
        self._use_format(torch.channels_last if has_convolutions else torch.contiguous_format)
        self._shapes: nn.Module | None = None
        self._heat_maps: HeatMaps | None = None
        self._lock = threading.Lock()
        of = spec["inputs"][0]["pre_processor"]["init_params"]
        # A GPU does not divide by a number, but multiplies by its reciprocal, which differs in the last bit.
        self._white, self._mean, self._std = (
            torch.tensor(values, device=self._device).view(-1, 1, 1) for values in (255.0, of["mean"], of["std"])
        )
        self.geometry = _read_geometry(folder / GEOMETRY_FILE)
        with (folder / spec["label_map_file"]).open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        column = rows[0].index("label")
        self._labels = {int(row[0]): row[column] for row in rows[1:] if row}
        self.task = _read_task(folder / TASK_FILE, list(self._labels.values()))
        if self.task.is_multilabel != (spec.get("task_type") == _MULTILABEL_TASK_TYPE):
            raise ValueError(f"the task_type is {spec.get('task_type')}, which {TASK_FILE} or its absence contradicts")

    def _use_format(self, memory_format: torch.memory_format) -> None:
        self._memory_format = memory_format
        self._network.to(memory_format=memory_format)

    def answer(self, images: Iterable[Image.Image], compute: Compute | None = None) -> dict[str, Any]:
        """Compute the columns and rows of Score Image Model's table for images; several labels are a list.

        Args:
            images: any images, which need not be decoded. Only a few of them are in memory at a time.
            compute: computes the probabilities of a list of images; `probabilities` if it is None.

        Raises:
            BadImageError, OutOfMemoryError, BrokenDeviceError: as `probabilities` does.
        """
        compute = compute or self.probabilities
        pixels = (torch.from_numpy(pixels_of(image, self.geometry).copy()) for image in images)
        probabilities = [row for chunk in _chunks(pixels) for row in compute(chunk)]
        labels = [self._labels.get(index, str(index)) for index in range(len(probabilities[0]))]
        rows = [[*row, self._said(row, labels)] for row in probabilities]
        return {"columns": [*(f"Scored Probabilities_{label}" for label in labels), "Scored Labels"], "result": rows}

    def _said(self, probabilities: list[float], labels: list[str]) -> str | list[str]:
        if self.task.is_multilabel:
            said: list[str] = self.task.labels_of(probabilities, labels)
            return said
        return labels[max(range(len(labels)), key=probabilities.__getitem__)]

    def probabilities(self, images: list[torch.Tensor]) -> list[list[float]]:
        """Compute the probabilities of images in float32, in batches of equal size.

        Args:
            images: pixels, uint8 of shape (height, width, 3) each.

        Raises:
            BadImageError: if the network does not support the size of an image.
            OutOfMemoryError: if the memory does not suffice for one image.
            BrokenDeviceError: if the GPU does not work any more.
        """
        rows: dict[int, list[float]] = {}
        by_size: defaultdict[torch.Size, list[int]] = defaultdict(list)
        for index, image in enumerate(images):
            by_size[image.shape].append(index)
        with self._lock, _without_tf32():
            for indices in by_size.values():
                rows.update(zip(indices, self._compute(torch.stack([images[index] for index in indices]))))
        return [rows[index] for index in range(len(images))]

    def heat(self, image: torch.Tensor, label: int) -> torch.Tensor:
        """Compute the heat map of an image for a label, as `HeatMaps.heat` does.

        Args:
            image: pixels, uint8 of shape (height, width, 3).
            label: the index of the label.

        Raises:
            HeatMapError: if captum is not installed or the network cannot be differentiated.
            OutOfMemoryError, BrokenDeviceError: as `probabilities` does.
        """
        if self._heat_maps is None:
            averages_mirrored = self.geometry is not None and self.geometry.averages_mirrored
            self._heat_maps = HeatMaps(self._network, averages_mirrored=averages_mirrored)
        with self._lock, _without_tf32():
            try:
                heat: torch.Tensor = self._heat_maps.heat(self._normalised(image[None]), label)
                return heat
            except HeatMapError:
                raise
            except Exception as error:
                self._explain_machine(error, image[None])
                first_line = str(error).partition("\n")[0]
                raise HeatMapError(f"this network has no heat maps: {first_line}") from error

    def _compute(self, pixels: torch.Tensor) -> list[list[float]]:
        """Compute a batch; after an error that `_explain` does not raise, compute its halves."""
        try:
            return self._forward(pixels)
        except Exception as error:
            self._explain(error, pixels)
        # Here, the error no longer keeps the tensors of the failed batch.
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return [row for half in pixels.chunk(2) for row in self._compute(half)]

    @torch.inference_mode()
    def _forward(self, pixels: torch.Tensor) -> list[list[float]]:
        batch = self._normalised(pixels)
        probabilities = self._probabilities_of(batch)
        if self.geometry is not None and self.geometry.averages_mirrored:
            probabilities = (probabilities + self._probabilities_of(batch.flip(3))) / 2
        return list(probabilities.double().tolist())

    def _normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.to(self._device).permute(0, 3, 1, 2).float().div(self._white).sub(self._mean).div(self._std)

    def _probabilities_of(self, batch: torch.Tensor) -> torch.Tensor:
        output = self._network(batch.contiguous(memory_format=self._memory_format))
        logits = output if isinstance(output, torch.Tensor) else output[0]
        return logits.float().sigmoid() if self.task.is_multilabel else logits.float().softmax(1)

    def _explain(self, error: Exception, pixels: torch.Tensor) -> None:
        """Raise the error that explains a failed batch; return if its halves or another memory format may succeed."""
        if self._explain_machine(error, pixels):
            return
        height, width = pixels.shape[1:3]
        reason = self._fault_of_size(height, width)
        if reason is None and self._memory_format != torch.contiguous_format:
            # A user's own network may reshape tensors in a way that only the contiguous format allows.
            self._use_format(torch.contiguous_format)
            return
        if reason is None:
            raise error
        raise BadImageError(f"the network does not support images of {width}x{height}: {reason}") from error

    def _explain_machine(self, error: Exception, pixels: torch.Tensor) -> bool:
        """Raise the error that explains a failed batch by the machine; return whether its halves may fit in memory."""
        first_line = str(error).partition("\n")[0]
        text = first_line.lower()
        if isinstance(error, MemoryError) or any(words in text for words in _OUT_OF_MEMORY):
            if len(pixels) > 1:
                return True
            raise OutOfMemoryError(first_line) from error
        if not _works(self._device) or (self._device.type == "cpu" and "cuda error" in text):
            raise BrokenDeviceError(first_line) from error
        if any(words in text for words in _DEVICE_FAULTS):
            raise error
        return False

    def _fault_of_size(self, height: int, width: int) -> str | None:
        """Why the network does not support a size, as shapes alone tell, without its weights; None if it does."""
        if self._shapes is None:
            self._shapes = self._build().eval().to("meta")
        try:
            self._shapes(torch.empty(1, 3, height, width, device="meta"))
        except NotImplementedError:  # an operator without an implementation for "meta"
            return None
        except Exception as error:
            # A network that reads values says nothing about the size: there are none.
            return None if "meta tensor" in str(error) else str(error)
        return None


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Compute float32 as Score Image Model does: TF32 has 10 bits of mantissa."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


def _works(device: torch.device) -> bool:
    """Whether a device still computes. After some errors of a GPU, all later calls of the process fail."""
    try:
        return bool(torch.ones(1, device=device).add(1).item() == 2)
    except RuntimeError:
        return False


def _read_geometry(file: Path) -> Geometry | None:
    if not file.exists():
        return None
    try:
        return Geometry.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{file.name} is damaged: {error}") from error


def _read_task(file: Path, labels: list[str]) -> Task:
    if not file.exists():
        return Task()
    try:
        return Task.from_dict(json.loads(file.read_text(encoding="utf-8")), labels)
    except ValueError as error:
        raise ValueError(f"{file.name} is damaged: {error}") from error


def _chunks(images: Iterable[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Divide images into lists that are small enough for one batch."""
    chunk: list[torch.Tensor] = []
    num_pixels = 0
    for image in images:
        num_pixels += image.shape[0] * image.shape[1]
        if chunk and (len(chunk) == MAX_BATCH_IMAGES or num_pixels > MAX_BATCH_PIXELS):
            yield chunk
            chunk, num_pixels = [], image.shape[0] * image.shape[1]
        chunk.append(image)
    if chunk:
        yield chunk
