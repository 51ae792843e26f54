from __future__ import annotations

import collections
import sys
from pathlib import Path

import pytest

from tests.making import write_class_folders
from train_pytorch_model.designer_core import load_image_directory
from train_pytorch_model.errors import UserError


def test_names_that_others_have_put_back_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collections, "Iterable", list, raising=False)
    assert len(load_image_directory(write_class_folders(tmp_path / "raw", per_class=1)).image_list) == 3
    assert collections.Iterable is list  # type: ignore[attr-defined]


def test_a_missing_designer_core_is_reported_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "azureml.studio.core.io.image_directory", None)
    with pytest.raises(UserError) as raised:
        load_image_directory(tmp_path)
    assert str(raised.value).startswith("azureml-designer-core 0.0.86 is required, but azureml.studio.core.io")
    assert str(raised.value).endswith("python -m pip install --no-deps azureml-designer-core==0.0.86")
