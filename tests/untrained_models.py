"""Writes untrained models, also like the retired initialisers' and with code of their own."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML
from torch import nn

from train_pytorch_model.designer_core import dump_untrained_model
from train_pytorch_model.ports.untrained_model import UntrainedModel, read_untrained_model

RETIRED = "azureml.designer.modules.dl.pytorch.initialize_models.vision.classification"


def read(path: Path, *, trust_code: bool = False) -> UntrainedModel:
    return read_untrained_model(path, trust_code=trust_code)


def write(path: Path, network: nn.Module, module: str, name: str, init_params: dict[str, Any]) -> Path:
    extras = {"module": module, "class": name, "is_cuda": False, "init_params": init_params}
    dump_untrained_model(path, network, extras)
    return path


def edit_spec(path: Path, **changes: Any) -> None:
    yaml = YAML(typ="safe")
    spec = yaml.load(path / "model_spec.yaml")
    spec.update(changes)
    with (path / "model_spec.yaml").open("w") as file:
        yaml.dump({key: value for key, value in spec.items() if value is not None}, file)


class Wrapper(nn.Module):
    """A network under the attribute `model`, as the retired initialisers hold it."""

    def __init__(self, network: nn.Module, num_classes: int | None = None) -> None:
        super().__init__()
        self.model = network
        if num_classes is not None:
            self.out_linear_model = nn.Linear(1000, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        outputs = self.model(images)
        return self.out_linear_model(outputs) if hasattr(self, "out_linear_model") else outputs


CODE = """
from torch import nn
class TinyNet(nn.Module):
    def __init__(self, width=4, num_classes=2):
        super().__init__()
        head = [nn.Linear(3, width), nn.Linear(width, num_classes)]
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head)
    def forward(self, x):
        return self.layers(x)
"""


def write_model_with_code(path: Path, code: str = CODE, module: str = "tiny_net") -> Path:
    """An untrained model whose class stands in its own `local_dependencies` alone."""
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    write(path, namespace["TinyNet"](width=5), module, "TinyNet", {"width": 5})
    edit_spec(path, local_dependencies=["local_dependencies/mine"])
    with zipfile.ZipFile(path / "local_dependencies.zip", "w") as packed:
        packed.writestr(f"mine/{module}.py", code)
    return path
