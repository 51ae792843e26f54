"""Heat maps of the report, within its time."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import numpy as np
import torch

from train_pytorch_model.data.batches import normalised, per_channel
from train_pytorch_model.distributed.device import nondeterminism_allowed
from train_pytorch_model.errors import first_line
from train_pytorch_model.report.thumbnails import make_jpeg
from train_pytorch_model.serving.heat_maps import NUM_COPIES, HeatMapError, HeatMaps, check_captum
from train_pytorch_model.serving.heat_pictures import draw_heat

if TYPE_CHECKING:
    from train_pytorch_model.job.result import FinishedTraining

logger = logging.getLogger(__name__)

# If the time does not suffice for so many heat maps, each is averaged over fewer copies with noise.
_ENOUGH = 12


class ReportHeatMaps:
    """Draws heat maps of a trained network until its time is over."""

    def __init__(self, training: FinishedTraining, allowed: float) -> None:
        """Start with no heat maps.

        Args:
            training: has the network, with the trained weights, and the normalization.
            allowed: the time for all heat maps in seconds.
        """
        plan = training.plan
        self._device = training.device
        self._memory_format = plan.memory_format
        self._mean, self._std = (per_channel(values, training.device) for values in (plan.mean, plan.std))
        self._heat_maps = HeatMaps(training.prepared.network, averages_mirrored=plan.averages_mirrored)
        self._num_copies = NUM_COPIES
        self._remaining = allowed
        valid_seconds = training.world_size * min(timing.valid_seconds for timing in training.history.timings)
        # A backward pass takes twice as long as a forward pass.
        self._seconds_of_pass = 3 * valid_seconds / len(training.prepared.valid)
        self._expected: float | None = None
        self._num_left_out = 0
        self._fault = ""
        try:
            check_captum()
        except HeatMapError as error:
            self._fault = str(error)

    @nondeterminism_allowed()  # training has not tried the operators of a backward pass down to the pixels
    def jpeg(self, pixels: np.ndarray, label: int) -> bytes | None:
        """Return a JPEG of the heat map of an image for a class; None if it is left out, which `note` explains.

        Args:
            pixels: what the network sees, uint8 of shape (height, width, 3).
            label: the index of the class.
        """
        if self._fault or self._remaining <= 0:
            self._num_left_out += 1
            return None
        started = time.perf_counter()
        try:
            rows = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].to(self._device)
            images = normalised(rows, self._memory_format, self._mean, self._std)
            if self._expected is None:
                self._expected = self._plan(images)
            if self._expected > self._remaining:
                self._remaining = 0.0
                return self.jpeg(pixels, label)
            heat = self._heat_maps.heat(images, label, self._num_copies).numpy()
            jpeg = make_jpeg(np.asarray(draw_heat(pixels, heat)))
        except Exception as error:  # such as no memory, or no gradient; the report must not be lost for it
            logger.debug("A heat map could not be computed: %s", error)
            self._fault = f"a heat map could not be computed ({first_line(error)})"
            return self.jpeg(pixels, label)
        self._remaining -= time.perf_counter() - started
        return jpeg

    def _plan(self, images: torch.Tensor) -> float:
        """Choose the number of copies with noise, and return the expected duration of a heat map in seconds."""
        wanted = _ENOUGH * self._seconds_of_pass * self._heat_maps.num_passes(images)
        if wanted > self._remaining:
            self._num_copies = max(1, int(NUM_COPIES * self._remaining / wanted))
        return self._seconds_of_pass * self._heat_maps.num_passes(images, self._num_copies)

    @property
    def note(self) -> str:
        """Why heat maps were left out; "" if all were made."""
        if not self._num_left_out:
            return ""
        if self._fault:
            return f"Heat maps are left out: {self._fault}."
        return f"{self._num_left_out} heat maps are left out, because the time of the report was over."
