"""module_spec.yaml against the code's one definition, Azure's own SDK, and the snapshot that Azure would run."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import environments
from tests.making import ROOT, Inputs, run_in_snapshot
from tests.specs import COMMAND, SPEC, fill
from train_pytorch_model.cli.flags import flag_of
from train_pytorch_model.cli.parser import PORT_FLAGS, build_parser
from train_pytorch_model.parameters import TrainingParameters
from train_pytorch_model.parameters.recipes import ResolvedParameters

# Port of the specification to flag of the command.
CLASSIC = ResolvedParameters()
PORTS = {
    "untrained_model": ("untrained_model_path", "UntrainedModelDirectory"),
    "train_data": ("train_data_path", "ImageDirectory"),
    "valid_data": ("valid_data_path", "ImageDirectory"),
}
LOAD = """
import json, os, shutil, sys
os.environ["AZURE_ML_INTERNAL_COMPONENTS_ENABLED"] = "True"
import azure.ai.ml
component = azure.ai.ml.load_component(sys.argv[1])
validation = component._validate()
with component._build_code() as code:
    shutil.copytree(code.path, sys.argv[2])
print(json.dumps({
    "version": azure.ai.ml.__version__,
    "passed": validation.passed,
    "messages": validation.error_messages,
    "rest": component._to_rest_object().as_dict()["properties"]["componentSpec"],
}))
"""


def test_the_parameters_are_the_five_with_the_codes_ranges_and_defaults() -> None:
    definitions = TrainingParameters.definitions()
    five = {name: definition for name, definition in definitions.items() if definition.designer}
    assert list(SPEC["inputs"]) == [*PORTS, *five]
    kinds = {int: "Integer", float: "Float"}
    for name, definition in five.items():
        entry = SPEC["inputs"][name]
        assert entry["type"] == kinds[definition.kind]
        assert entry["default"] == getattr(CLASSIC, name)
        assert entry["optional"] is definition.optional
        lowest = definition.at_least if definition.greater_than is None else definition.greater_than + 1
        assert entry.get("min") == lowest
        assert entry["description"] == definition.description.split(" none draws")[0]


def test_the_ports_are_typed() -> None:
    assert {name: SPEC["inputs"][name]["type"] for name in PORTS} == {name: kind for name, (_, kind) in PORTS.items()}
    assert {name: entry["type"] for name, entry in SPEC["outputs"].items()} == {"trained_model": "ModelDirectory"}
    assert "category/Model Training" in SPEC["tags"]


def test_the_command_hands_every_port_and_parameter_to_its_flag() -> None:
    values: dict[str, object] = {name: f"/{name}" for name in (*PORTS, "trained_model")}
    values.update(epochs=2, batch_size=3, learning_rate=0.5, random_seed=-4, patience=6)
    command = fill(values)
    assert command[-4:] == ["--recipe", "auto", "--image-size", "auto"]
    assert command[:4] == ["python", "-m", "train_pytorch_model", "train"]
    parsed = vars(build_parser().parse_args(command[3:]))
    flags = {**{name: flag for name, (flag, _) in PORTS.items()}, "trained_model": "trained_model_path"}
    assert set(flags.values()) == set(PORT_FLAGS)
    for name, value in values.items():
        expected = Path(str(value)) if name in flags else value
        assert parsed[flags.get(name, name)] == expected
    assert flag_of("random_seed") not in fill({key: value for key, value in values.items() if key != "random_seed"})


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """What azure-ai-ml makes of the specification in a clean copy of the project, and the code snapshot."""
    folder = tmp_path_factory.mktemp("snapshot")
    project = folder / "project"
    project.mkdir()
    for name in ("module_spec.yaml", "module_spec.additional_includes", "conda_env.yaml"):
        shutil.copy(ROOT / name, project)
    shutil.copytree(ROOT / "src", project / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    finished = subprocess.run(
        [str(environments.azure_ai_ml()), "-W", "ignore", "-c", LOAD, project / "module_spec.yaml", folder / "code"],
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    report: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return report, folder / "code"


@pytest.mark.environment
def test_azure_ai_ml_takes_the_specification(loaded: tuple[dict[str, Any], Path]) -> None:
    report, _ = loaded
    assert report["version"] == "1.35.2"
    assert (report["passed"], report["messages"]) == (True, {})
    assert list(report["rest"]["inputs"]) == list(SPEC["inputs"])
    assert report["rest"]["launcher"]["additional_arguments"] == COMMAND


@pytest.mark.environment
def test_the_command_trains_from_the_snapshot_alone(loaded: tuple[dict[str, Any], Path], inputs: Inputs) -> None:
    _, code = loaded
    assert sorted(path.name for path in code.iterdir()) == [".amlignore", "conda_env.yaml", "train_pytorch_model"]
    assert sum(path.stat().st_size for path in code.rglob("*")) < 2 * 2**20
    values = {"untrained_model": inputs.untrained, "train_data": inputs.train, "valid_data": inputs.valid}
    parameters = {"epochs": 1, "batch_size": 6, "learning_rate": 0.001, "patience": 3}
    command = fill({**values, **parameters, "trained_model": inputs.trained})
    run_in_snapshot(code, command)
    assert (inputs.trained / "_meta.yaml").is_file()
    assert (code / "outputs" / "metrics.jsonl").is_file()
