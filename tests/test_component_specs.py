"""The typed specifications of the modules agree with their command lines and load in azure-ai-ml."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests import environments
from tests.making import MODULES, ROOT
from train_pytorch_model.cli.flags import flag_of
from train_pytorch_model.cli.parser import build_parser
from train_pytorch_model.modules.transform_options import TransformOptions
from train_pytorch_model.parameters import TrainingParameters

# Flags that a designer module has no use for: the folder of reports has its place, code is not trusted there, a list
# would be read by nobody, and `weights` says what `pretrained` says.
NOT_IN_DESIGNER = {"help", "outputs_path", "trust_model_code", "list", "pretrained", "quiet", "log_format"}
# A designer module always has its output folders, so that the default of a command would compute heat maps for all.
OWN_DEFAULTS = {"max_explanations": 0}
LOAD = """
import json, os, sys
os.environ["AZURE_ML_INTERNAL_COMPONENTS_ENABLED"] = "True"
import azure.ai.ml
reports = {}
for path in sys.argv[1:]:
    component = azure.ai.ml.load_component(path)
    validation = component._validate()
    with component._build_code() as code:
        files = sorted(entry.name for entry in code.path.iterdir())
    rest = component._to_rest_object().as_dict()["properties"]["componentSpec"]
    reports[path] = [validation.passed, validation.error_messages, rest["command"], files]
print(json.dumps(reports))
"""


def spec_of(command: str) -> dict[str, Any]:
    spec: dict[str, Any] = YAML(typ="safe").load(ROOT / "components" / command / "module_spec.yaml")
    return spec


def parser_of(command: str) -> argparse.ArgumentParser:
    actions = build_parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr,index,call-overload]
    parser: argparse.ArgumentParser = actions[command]
    return parser


def test_every_module_has_a_specification() -> None:
    assert {path.parent.name for path in (ROOT / "components").glob("*/module_spec.yaml")} == set(MODULES)


@pytest.mark.parametrize("command", MODULES)
def test_ports_and_parameters_are_the_flags_of_the_command(command: str) -> None:
    spec = spec_of(command)
    actions = {action.dest: action for action in parser_of(command)._actions}
    assert {*spec["inputs"], *spec["outputs"]} == set(actions) - NOT_IN_DESIGNER
    for name, entry in spec["inputs"].items():
        if entry["type"].endswith("Directory"):
            assert actions[name].required
        elif not actions[name].required:
            assert entry.get("default") == OWN_DEFAULTS.get(name, actions[name].default)
            assert entry["optional"] == (actions[name].default is None)
        if entry["type"] == "Enum":
            definition = TrainingParameters.definitions().get(name)
            assert set(entry["enum"]) == set(definition.words if definition else actions[name].choices or ())


@pytest.mark.parametrize("command", MODULES)
def test_the_command_hands_every_value_to_its_flag(command: str) -> None:
    spec = spec_of(command)
    given: dict[str, object] = {
        "class_level": 1,
        "weights_mean": "0.485,0.456,0.406",
        "weights_std": "0.25",
        "unknown_below": 0.5,
    }
    values = {name: entry.get("default", given.get(name, f"/{name}")) for name, entry in spec["inputs"].items()}
    values.update({name: f"/{name}" for name in spec["outputs"]})
    # Azure writes booleans as words.
    text = re.sub(r"\{(?:inputs|outputs)\.(\w+)\}", lambda found: str(values[found[1]]), spec["command"])
    text = re.sub(r"\[(.*?)\]", r"\1", text)  # optional parts
    words = shlex.split(text)
    assert words[:4] == ["python", "-m", "train_pytorch_model", command]
    assert {word for word in words if word.startswith("--")} == {flag_of(name) for name in values}
    parsed = vars(build_parser().parse_args(words[3:]))
    for name, value in values.items():
        is_path = isinstance(parsed[name], Path)
        assert parsed[name] == (Path(value) if is_path else value)


@pytest.mark.parametrize("name", ["component.yaml", "module_spec.yaml"])
def test_transform_options_are_the_inputs_of_init_image_transformation(name: str) -> None:
    inputs = YAML(typ="safe").load(ROOT / "components" / "init-image-transformation" / name)["inputs"]
    assert list(inputs) == [option.name for option in fields(TransformOptions)]
    for option in fields(TransformOptions):
        entry = inputs[option.name]
        assert entry["default"] == option.default
        assert entry["description"] == option.metadata["description"]
        assert entry["type"].lower() == ("boolean" if option.default is False else "integer")
        assert (entry.get("min"), entry.get("max")) == (
            option.metadata.get("minimum"),
            option.metadata.get("maximum"),
        )


@pytest.mark.environment
def test_azure_ai_ml_takes_them_all(tmp_path: Path) -> None:
    for name in ("components", "src"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "conda_env.yaml", tmp_path)
    paths = [str(path) for path in sorted((tmp_path / "components").glob("*/module_spec.yaml"))]
    finished = subprocess.run(
        [str(environments.azure_ai_ml()), "-W", "ignore", "-c", LOAD, *paths], capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    reports = json.loads(finished.stdout.splitlines()[-1])
    assert len(reports) == len(MODULES)
    for path, (passed, messages, command, files) in reports.items():
        assert (passed, messages) == (True, {})
        assert command == spec_of(Path(path).parent.name)["command"]
        assert files == [".amlignore", "conda_env.yaml", "train_pytorch_model"]
