"""The environments that users get: conda_env.yaml on Python 3.9 and requirements.lock on 3.11 to 3.13."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from tests import environments
from tests.audit import write_bill
from tests.making import ROOT, flags_of, read_json_lines, run_module, write_class_folders

DESIGNER_CORES_PINS = "azureml-designer-core 0.0.86 has requirement"


def locked(path: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9.-]+)==([^\s;\\]+)", path.read_text(), flags=re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


def test_the_development_lock_holds_the_users_lock() -> None:
    runtime, development = locked(ROOT / "requirements.lock"), locked(ROOT / "requirements-dev.lock")
    assert {name: development.get(name) for name in runtime} == runtime
    assert (runtime["torch"], runtime["torchvision"]) == ({"2.10.0"}, {"0.25.0"})
    assert runtime["azureml-designer-core"] == {"0.0.86"}


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_every_locked_package_has_hashes_and_no_address(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "://" not in text
    packages = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(packages) > 50
    assert all("--hash=sha256:" in package for package in packages)


@pytest.mark.parametrize("unwanted", ["azureml-designer-internal", "mpi4py"])
def test_neither_environment_needs_what_is_not_for_public_use(unwanted: str) -> None:
    assert unwanted not in (ROOT / "requirements.lock").read_text()
    assert unwanted not in (ROOT / "conda_env.yaml").read_text()


def pip_check(python: Path | str) -> list[str]:
    finished = subprocess.run([str(python), "-m", "pip", "check"], capture_output=True, text=True)
    return [line for line in finished.stdout.splitlines() if line != "No broken requirements found."]


def test_pip_check_complains_of_designer_cores_pins_alone() -> None:
    assert [line for line in pip_check(sys.executable) if not line.startswith(DESIGNER_CORES_PINS)] == []


def test_conda_env_lists_its_whole_tree_with_exact_versions() -> None:
    dependencies = YAML(typ="safe").load(ROOT / "conda_env.yaml")["dependencies"]
    packages = next(item["pip"] for item in dependencies if isinstance(item, dict))
    assert all(re.fullmatch(r"[a-z0-9.-]+==[^=\s]+", package) for package in packages)
    for package in ("azureml-designer-core==0.0.86", "torch==2.8.0", "torchvision==0.23.0"):
        assert package in packages
    assert {package.split("==")[0] for package in packages} >= {"azureml-core", "pillow"}


@pytest.mark.thorough
@pytest.mark.environment
def test_every_module_runs_in_the_conda_environment(tmp_path: Path) -> None:
    python = environments.conda()
    assert pip_check(python) == []
    write_class_folders(tmp_path / "photos", per_class=12, size=40)
    data = {"untrained_model_path": "model", "train_data_path": "train", "valid_data_path": "changed"}
    pipeline: list[tuple[str, dict[str, object]]] = [
        ("convert-to-image-directory", {"input_path": "photos", "output_path": "images"}),
        ("split-image-directory", {"src_path": "images", "tgt_train_path": "train", "tgt_test_path": "test"}),
        ("init-image-transformation", {"output_path": "how", "pad": True, "random_horizontal_flip": True}),
        (
            "apply-image-transformation",
            {"input_image_transform_path": "how", "input_image_dir_path": "test", "output_path": "changed"},
        ),
        ("initialize-model", {"model_name": "resnet18", "untrained_model_path": "model"}),
        ("train", {**data, "trained_model_path": "trained", "epochs": 2, "batch_size": 6}),
        ("score-image-model", {"trained_model": "trained", "dataset": "changed", "scored_dataset": "scored"}),
        ("evaluate-model", {"scored_dataset": "scored", "evaluation_path": "evaluation"}),
    ]
    for command, flags in pipeline:
        finished = run_module(command, *flags_of(flags), python=python, cwd=tmp_path, PYTHONPATH=str(ROOT / "src"))
        assert finished.returncode == 0, finished.stderr
    assert len(read_json_lines(tmp_path / "outputs" / "metrics.jsonl")) == 2
    assert torch.load(tmp_path / "trained" / "model", weights_only=True)["fc.weight"].shape == (3, 512)
    assert json.loads((tmp_path / "evaluation" / "metrics.json").read_text())["num_images"] == 4
    failed = run_module(
        "train",
        *flags_of({**data, "trained_model_path": "other", "epochs": 0}),
        python=python,
        cwd=tmp_path,
        PYTHONPATH=str(ROOT / "src"),
    )
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr


@pytest.mark.thorough
@pytest.mark.environment
def test_the_bill_of_materials_names_what_a_user_installs(tmp_path: Path) -> None:
    bill = json.loads(write_bill(environments.audit().parent, tmp_path / "sbom.json").read_text(encoding="utf-8"))
    assert bill["bomFormat"] == "CycloneDX"
    named = {(part["name"], part["version"]) for part in bill["components"]}
    runtime = locked(ROOT / "requirements.lock")
    assert named == {(name, version) for name, versions in runtime.items() for version in versions}
    assert all(part["externalReferences"][0]["hashes"] for part in bill["components"])
