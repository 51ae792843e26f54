"""Writes the files that a trained model is served with."""

from __future__ import annotations

import platform
import shutil
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from train_pytorch_model.models.description import NetworkDescription

_HERE = Path(__file__).parent
# What loads and computes a model, and what also answers requests. Each file imports only those beside it.
MODEL_SOURCES = (
    *(_HERE / name for name in ("served_model.py", "served_images.py", "served_networks.py", "heat_maps.py")),
    *(_HERE.parent / "data" / name for name in ("image_formats.py", "image_geometry.py", "model_task.py")),
)
_SOURCES = (
    *(_HERE / name for name in ("score.py", "served_requests.py", "served_json.py", "served_batches.py")),
    *(_HERE / name for name in ("served_explanations.py", "heat_pictures.py")),
    *MODEL_SOURCES,
)
SERVING_FILES = (*(source.name for source in _SOURCES), "conda_env.yaml")


def write_serving_files(folder: Path, description: NetworkDescription) -> None:
    """Write the scoring script and an environment with the installed versions of the libraries into a ModelDirectory.

    Args:
        folder: the ModelDirectory.
        description: the description of its network, which names the library that it comes from.
    """
    for source in _SOURCES:
        shutil.copyfile(source, folder / source.name)
    (folder / "conda_env.yaml").write_text(_conda_env(description), encoding="utf-8")


def requirements(description: NetworkDescription) -> list[str]:
    """List the packages that scoring needs, with their versions.

    Args:
        description: the description of the network, which names the library that it comes from.
    """
    packages = ["torch", "torchvision", "pillow"]
    library = description.module.partition(".")[0]
    if library == "timm":
        packages.append(library)
    # Without the local part, such as +cu128: package indexes do not have these builds.
    return [f"{name}=={version(name).partition('+')[0]}" for name in packages] + ["pyyaml>=6"]


def _for_heat_maps() -> list[str]:
    """List what the endpoint needs for heat maps. There is no captum for Python 3.9."""
    if sys.version_info < (3, 10):
        return []
    return [f"captum=={version('captum')}" if find_spec("captum") else "captum>=0.8"]


def _conda_env(description: NetworkDescription) -> str:
    major, minor = platform.python_version_tuple()[:2]
    lines = ["azureml-inference-server-http>=1.4", *requirements(description), *_for_heat_maps()]
    listed = "".join(f"  - {line}\n" for line in lines)
    return (
        "name: project_environment\nchannels:\n- conda-forge\ndependencies:\n"
        f"- python={major}.{minor}\n- pip\n- pip:\n{listed}"
    )
