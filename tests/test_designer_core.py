from __future__ import annotations

import collections
import errno
import sys
from pathlib import Path

import pytest
import torch

from tests.making import write_class_folders
from train_pytorch_model.designer_core import dump_untrained_model, load_image_directory
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


@pytest.mark.parametrize(
    ("words", "target", "number"),
    [
        ("[enforce fail at inline_container.cc:668] . unexpected pos 704 vs 598", "/dev/full", errno.ENOSPC),
        ("PytorchStreamWriter failed writing file data/0: file write failed", "/dev/full", errno.ENOSPC),
        ("PytorchStreamWriter failed writing central directory: file write failed", "", errno.EIO),
        ("another fault", "/dev/full", None),
    ],
)
def test_a_disk_that_is_full_for_pytorch_is_an_error_of_the_system(
    words: str, target: str, number: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(*_: object) -> None:
        raise RuntimeError(words)

    monkeypatch.setattr(torch, "save", save)
    if target:
        (tmp_path / "model").symlink_to(target)
    with pytest.raises(RuntimeError if number is None else OSError) as raised:
        dump_untrained_model(tmp_path, torch.nn.Linear(100, 100), {"module": "a", "class": "b", "init_params": {}})
    assert getattr(raised.value, "errno", None) == number
