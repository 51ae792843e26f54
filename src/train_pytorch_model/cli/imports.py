"""Imports what a command needs, faster than on first use.

An import creates a million objects that stay. Python searches them for garbage again and again, a fifth of the time.
"""

from __future__ import annotations

import gc
import sys
from contextlib import suppress
from importlib import import_module

from train_pytorch_model.designer_core import import_designer_core
from train_pytorch_model.errors import UserError

_MODULES = {
    "train": "job.run",
    "check": "preflight.command",
    "initialize-model": "modules.initialize_model",
    "score-image-model": "modules.score_image_model",
    "cross-validate": "modules.cross_validate",
}


def import_for(command: str) -> None:
    """Import PyTorch, designer-core and the modules of a command that needs both.

    A process that has PyTorch already is left as it is: its objects are not this command's to keep for ever.
    """
    if command not in _MODULES or "torch" in sys.modules:
        return
    gc.disable()
    try:
        import_module(f"train_pytorch_model.{_MODULES[command]}")
        with suppress(UserError):  # it is missing, which the command reports together with its other problems
            import_designer_core()
    finally:
        gc.freeze()  # later searches leave these objects out
        gc.enable()
