from __future__ import annotations

import collections
import sys
from pathlib import Path

import pytest

from tests.making import write_class_folders
from train_pytorch_model.designer_core import load_image_directory


def test_names_that_others_have_put_back_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collections, "Iterable", list, raising=False)
    assert len(load_image_directory(write_class_folders(tmp_path / "raw", per_class=1)).image_list) == 3
    assert collections.Iterable is list  # type: ignore[attr-defined]


def test_a_release_without_code_is_told_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "azureml.studio.core.io.image_directory", None)
    with pytest.raises(
        ImportError, match=r"azureml-designer-core 0\.0\.86 is needed, but .* Release 0\.0\.87 .* is empty"
    ):
        load_image_directory(tmp_path)
