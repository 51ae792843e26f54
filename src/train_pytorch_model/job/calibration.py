"""Calibration of the best model on the validation images, folded into its head."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from train_pytorch_model.data.model_task import MULTILABEL
from train_pytorch_model.models.heads import find_head
from train_pytorch_model.training.calibration import (
    LARGEST_TEMPERATURE,
    SMALLEST_TEMPERATURE,
    Confidence,
    confidence_at,
    cross_fitted_temperatures,
    fit_temperature,
    log_loss_at,
)
from train_pytorch_model.training.predictions import predict_logits
from train_pytorch_model.training.state import load_weights

if TYPE_CHECKING:
    from train_pytorch_model.job.result import FinishedTraining

logger = logging.getLogger(__name__)

MIN_IMAGES = 50
"""Fewer validation images do not tell a temperature."""
# Logits of all validation images, in memory as float32: 1 GB.
_MAX_LOGITS = 250_000_000
# Of the scaled logits, relative to the largest: far above rounding, far below any other function.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Calibration:
    """What was done to the probabilities of the best model."""

    temperature: float = 1.0
    """The head is divided by it."""
    valid_loss: float | None = None
    """Of the calibrated model; None if the probabilities stay as they are, as all values below."""
    before: Confidence | None = None
    """On the validation images."""
    after: Confidence | None = None
    """On the validation images, each with a temperature that was fitted without it."""
    reason: str = ""
    """Why the probabilities stay as they are: words that follow "because"; empty if they do not."""

    @property
    def shown_temperature(self) -> str:
        """The temperature in words."""
        is_bound = self.temperature in (SMALLEST_TEMPERATURE, LARGEST_TEMPERATURE)
        return f"{self.temperature:.4g}" + (" (the bound)" if is_bound else "")

    def facts(self) -> list[tuple[str, str]]:
        """Return names and values for the report."""
        if self.before is None or self.after is None:
            return [("Temperature", f"1 (not calibrated, because {self.reason})")]
        errors = self.before.expected_calibration_error, self.after.expected_calibration_error
        return [
            ("Temperature", self.shown_temperature),
            *(
                (name, f"{before:.4f} before, {after:.4f} after (estimated by cross-fitting)")
                for name, before, after in (
                    ("Validation log loss", self.before.log_loss, self.after.log_loss),
                    ("Expected calibration error", *errors),
                )
            ),
        ]


def calibrated(training: FinishedTraining) -> FinishedTraining:
    """Calibrate the best model, unless the parameters say otherwise, and log it.

    Args:
        training: the results. Its network on the device gets other weights.

    Returns:
        The results with the calibrated weights of the best model, and with what was done.
    """
    parameters = training.settings.parameters
    if parameters.calibration == "off" or parameters.recipe == "classic":
        return training
    if training.plan.task == MULTILABEL:
        logger.info("The probabilities are not calibrated, because an image may have several labels.")
        return training
    found, state = _calibrate(training)
    if found.before is None or found.after is None:
        logger.info("The probabilities are not calibrated, because %s.", found.reason)
        return replace(training, calibration=found)
    logger.info(
        "Calibrated the probabilities with the temperature %s. On validation images, estimated by cross-fitting: "
        "log loss %.4f before and %.4f after, expected calibration error %.4f before and %.4f after.",
        found.shown_temperature,
        found.before.log_loss,
        found.after.log_loss,
        found.before.expected_calibration_error,
        found.after.expected_calibration_error,
    )
    return replace(training, best=replace(training.best, state={**training.best.state, **state}), calibration=found)


def _calibrate(training: FinishedTraining) -> tuple[Calibration, dict[str, torch.Tensor]]:
    """Return the calibration, and the calibrated entries of the state dict."""
    plan, prepared, best = training.plan, training.prepared, training.best
    labels = torch.from_numpy(prepared.valid_data.images.labels[prepared.valid_data.kept]).long()
    if reason := _why_not(training, labels):
        return Calibration(reason=reason), {}
    load_weights(prepared.network, best.state)
    head = find_head(prepared.network, prepared.geometry.size)
    if isinstance(head, str):
        return Calibration(reason=f"the network {head}"), {}
    logits = _logits(training, len(labels))
    if bool((logits.argmax(1) == labels).all()):
        reason = "the model is right on all validation images, so they do not tell how sure it may be"
        return Calibration(reason=reason), {}
    temperature = fit_temperature(logits, labels)
    before = confidence_at(logits, labels)
    after = confidence_at(logits, labels, cross_fitted_temperatures(logits, labels, training.settings.seed))
    if after.log_loss >= before.log_loss:
        reason = "a temperature does not make the log loss lower on validation images that it is not fitted on"
        return Calibration(reason=reason), {}
    entries = head.scaled(best.state, 1 / temperature)
    load_weights(prepared.network, {**best.state, **entries})
    wanted = logits[: plan.batch_size] / temperature
    if not (_logits(training, len(wanted)) - wanted).abs().max() <= _TOLERANCE * wanted.abs().max():
        return Calibration(reason="scaling the head of the network does not scale its logits"), {}
    return Calibration(temperature, log_loss_at(logits, labels, temperature), before, after), entries


def _why_not(training: FinishedTraining, labels: torch.Tensor) -> str:
    """Return why the validation images do not tell a temperature; "" if they may."""
    if training.plan.averages_mirrored:
        return "--test-time-augmentation flip averages probabilities, which the head does not scale"
    if len(labels) < MIN_IMAGES:
        return f"there are fewer than {MIN_IMAGES} validation images"
    if bool((labels == labels[0]).all()):
        return "all validation images have the same class"
    if len(labels) * training.plan.num_classes > _MAX_LOGITS:
        return "the logits of all validation images need more than 1 GB of memory"
    return ""


def _logits(training: FinishedTraining, num_images: int) -> torch.Tensor:
    """Return the logits of the first validation images, as the network on the device computes them."""
    plan, prepared = training.plan, training.prepared
    return predict_logits(
        prepared.network,
        prepared.valid,
        torch.arange(num_images),
        plan.batch_size,
        training.device,
        plan.memory_format,
        plan.mean,
        plan.std,
    )
