"""Train PyTorch Model: train an image classifier from the designer's typed directories.

The functions of `train_pytorch_model.api` and the named errors are available here. They are imported on first use.
"""

from __future__ import annotations

from importlib import import_module

# Nothing else is imported: `python -m` looks in the working directory first until `__main__` changes that.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from train_pytorch_model.api import apply_image_transformation as apply_image_transformation
    from train_pytorch_model.api import check as check
    from train_pytorch_model.api import convert_to_image_directory as convert_to_image_directory
    from train_pytorch_model.api import cross_validate as cross_validate
    from train_pytorch_model.api import evaluate as evaluate
    from train_pytorch_model.api import init_image_transformation as init_image_transformation
    from train_pytorch_model.api import initialize_model as initialize_model
    from train_pytorch_model.api import run_pipeline as run_pipeline
    from train_pytorch_model.api import score as score
    from train_pytorch_model.api import split_image_directory as split_image_directory
    from train_pytorch_model.api import train as train
    from train_pytorch_model.errors import ModuleError as ModuleError

__version__ = "0.2.0"

_API = (
    *("train", "check", "initialize_model", "convert_to_image_directory", "split_image_directory"),
    *("init_image_transformation", "apply_image_transformation", "score", "evaluate", "cross_validate"),
    "run_pipeline",
)
__all__ = [*_API, "ModuleError", "__version__"]


def __getattr__(name: str) -> Any:
    if name in _API:
        return getattr(import_module("train_pytorch_model.api"), name)
    if name == "ModuleError":
        return import_module("train_pytorch_model.errors").ModuleError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
