"""Writes trained models of two classes without training, also with a network that does as a test wants."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import torch

from train_pytorch_model.designer_core import dump_trained_model
from train_pytorch_model.models.description import NetworkDescription
from train_pytorch_model.serving.files import write_serving_files

NETWORK = """
import os
import time
import torch
from torch import nn

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 2)
        self.kernel = nn.Conv2d(3, 3, 2)

    def forward(self, x):
        {first_line}
        return self.head(x.mean((2, 3)))
"""


def write_model(folder: Path, module: str, name: str, **init_params: Any) -> Path:
    """Write a trained model with random weights, for pixels from -1 to 1."""
    torch.manual_seed(0)
    network = getattr(importlib.import_module(module), name)(**init_params)
    extras = {"module": module, "class": name, "init_params": init_params}
    labels = {0: "cat", 1: "dog"}
    half = [0.5] * 3
    dump_trained_model(folder, network, extras, image_column="image", index_to_label=labels, mean=half, std=half)
    write_serving_files(folder, NetworkDescription(module, name, init_params))
    return folder


def make_multilabel(folder: Path, **thresholds: float) -> Path:
    """Turn a trained model into one of several labels, with a threshold for each."""
    (folder / "task.json").write_text(json.dumps({"task": "multilabel", "thresholds": thresholds}))
    spec = folder / "model_spec.yaml"
    spec.write_text(spec.read_text().replace("task_type: MultiClassification", "task_type: MultiLabelClassification"))
    return folder


def write_network(folder: Path, first_line: str) -> str:
    """Write a module with a class `Network` whose `forward` begins with a line of code; returns the module's name."""
    module = f"network_{folder.name}"
    (folder / f"{module}.py").write_text(NETWORK.format(first_line=first_line))
    return module
