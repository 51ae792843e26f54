"""The facts of a finished training run that its report lists: the model, the data, the parameters, the environment."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

import torch

from train_pytorch_model import __version__
from train_pytorch_model.distributed.device import name_of_device
from train_pytorch_model.job.geometry import what_is_done
from train_pytorch_model.text.wording import bytes_in_words, seconds_in_words

if TYPE_CHECKING:
    from train_pytorch_model.data.image_store import ImageStore
    from train_pytorch_model.job.datasets import Scanned
    from train_pytorch_model.job.result import FinishedTraining


def facts_of(training: FinishedTraining) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return groups of names and values."""
    settings, prepared, plan = training.settings, training.prepared, training.plan
    parameters = settings.parameters
    given: list[tuple[str, Any]] = [
        (definition.title, getattr(parameters, name)) for name, definition in parameters.definitions().items()
    ]
    num_weights = sum(parameter.numel() for parameter in prepared.network.parameters())
    return [
        (
            "Model",
            [
                ("Network", prepared.description.network_name),
                ("Weights", f"{num_weights:,}"),
                ("Untrained model", str(settings.untrained_model_path)),
                ("Trained model", str(settings.trained_model_path)),
            ],
        ),
        (
            "Data",
            [
                *_data_facts("Training", prepared.train_data, prepared.train, plan.image_size),
                *_data_facts("Validation", prepared.valid_data, prepared.valid, plan.image_size),
            ],
        ),
        ("Parameters", [*[(name, str(value)) for name, value in given], ("Seed used", str(settings.seed))]),
        (
            "Environment",
            [
                ("Device", name_of_device(training.device)),
                ("Processes", str(training.world_size)),
                ("Precision", str(plan.precision)),
                ("Validation precision of epochs", plan.validation_precision),
                ("Image store", prepared.image_store),
                ("CUDA graph", "if the network allows it" if plan.cuda_graph else "no"),
                ("Highest learning rate", f"{plan.learning_rate:g}"),
                ("Duration", seconds_in_words(training.seconds)),
            ],
        ),
        *([("Calibration", training.calibration.facts())] if training.calibration else []),
        ("Versions", _versions()),
    ]


def _data_facts(name: str, dataset: Scanned, store: ImageStore, seen: tuple[int, int] | None) -> list[tuple[str, str]]:
    stored = "{1}x{0}".format(*store.size)
    height, width = seen or store.size
    margin = "" if (height, width) == tuple(store.size) else f" (stored with a margin for crops: {stored})"
    num_skipped = len(dataset.unreadable)
    images = f"{len(store):,} of {width}x{height} pixels{margin}, {bytes_in_words(dataset.num_bytes)} decoded"
    skipped = f", {num_skipped:,} skipped" if num_skipped else ""
    facts = [(f"{name} dataset", str(dataset.images.path)), (f"{name} images", images + skipped)]
    resized = what_is_done(dataset)
    return [*facts, (f"{name} sizes", resized)] if resized else facts


def _versions() -> list[tuple[str, str]]:
    from importlib.metadata import version

    libraries = ("torchvision", "pillow", "numpy", "azureml-designer-core")
    return [
        ("Train PyTorch Model", __version__),
        ("Python", platform.python_version()),
        ("PyTorch", torch.__version__),
        *[(name, version(name)) for name in libraries],
    ]
