"""What a command imports before it begins."""

from __future__ import annotations

import gc
import subprocess
import sys

from train_pytorch_model.cli.imports import import_for

PROGRAM = """
import gc, sys
from train_pytorch_model.cli.imports import import_for
import_for("evaluate-model")
assert "torch" not in sys.modules and not gc.get_freeze_count()
sys.modules["azureml.studio.core.io.image_directory"] = None
import_for("check")
assert "torch" in sys.modules and gc.isenabled() and gc.get_freeze_count()
"""


def test_a_missing_designer_core_is_left_to_the_command_to_report() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=300)


def test_objects_of_a_process_that_has_imported_pytorch_stay_collectable() -> None:
    import torch  # noqa: F401

    before = gc.get_freeze_count()
    import_for("train")
    assert gc.get_freeze_count() == before
