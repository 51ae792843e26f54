"""The component files and the sample pipelines agree with the code and load in Azure's own SDKs."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests import environments
from tests.making import MODULES, ROOT, Inputs, run_in_snapshot, run_module
from tests.specs import SPEC, fill
from train_pytorch_model.cli.parser import EXPORT_FORMATS, build_parser
from train_pytorch_model.parameters import TrainingParameters
from train_pytorch_model.pipelines.checks import faults_of_component, faults_of_pipeline
from train_pytorch_model.pipelines.command_template import render
from train_pytorch_model.pipelines.component_files import read_component
from train_pytorch_model.pipelines.definition import Literal, PipelineInput, StepOutput
from train_pytorch_model.pipelines.pipeline_files import read_pipeline

TRAIN = ROOT / "component.yaml"
COMPONENTS = [TRAIN, *(ROOT / "components" / name / "component.yaml" for name in MODULES)]
PIPELINES = [
    ROOT / "samples" / f"{name}.yaml" for name in ("pipeline", "pipeline_two_nodes", "pipeline_multilabel", "sweep")
]
KINDS = {
    **{"Integer": "integer", "Float": "number", "Boolean": "boolean", "Enum": "string", "String": "string"},
    "AnyFile": "uri_file",
}
LOAD = """
import json, sys
import azure.ai.ml
from azure.ai.ml import load_component, load_job
reports = {"version": azure.ai.ml.__version__}
for path in sys.argv[1:]:
    is_pipeline = "/samples/" in path
    loaded = (load_job if is_pipeline else load_component)(path)
    validation = loaded._validate()
    rest = loaded._to_rest_object().as_dict()["properties"]
    reports[path] = [validation.passed, validation.error_messages, rest]
print(json.dumps(reports, default=str))
"""


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean copy of what is registered."""
    project = tmp_path_factory.mktemp("project")
    for name in ("components", "samples", "environment", "src"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("component.yaml", "module_spec.yaml", "module_spec.additional_includes", "conda_env.yaml"):
        shutil.copy(ROOT / name, project)
    for part in ("train", "valid"):
        (project / "sample_run" / "images" / part).mkdir(parents=True)
    return project


@pytest.fixture(scope="module")
def loaded(project: Path) -> dict[str, Any]:
    """What azure-ai-ml makes of all of them."""
    paths = [str(project / name) for name in names([*COMPONENTS, *PIPELINES])]
    finished = subprocess.run(
        [str(environments.azure_ai_ml()), "-W", "ignore", "-c", LOAD, *paths], capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    reports: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return reports


@pytest.mark.parametrize("path", COMPONENTS, ids=names(COMPONENTS))
def test_a_component_has_no_fault_that_azures_own_validation_would_miss(path: Path) -> None:
    assert faults_of_component(read_component(path)) == []


@pytest.mark.parametrize("path", PIPELINES, ids=names(PIPELINES))
def test_a_pipeline_has_no_fault_but_for_images_not_made_yet(path: Path) -> None:
    assert [fault for fault in faults_of_pipeline(read_pipeline(path)) if "sample_run/" not in fault] == []


@pytest.mark.parametrize("path", COMPONENTS[1:], ids=names(COMPONENTS[1:]))
def test_a_component_agrees_with_its_typed_specification(path: Path) -> None:
    spec = YAML(typ="safe").load(path.with_name("module_spec.yaml"))
    document = YAML(typ="safe").load(path)
    for key in ("name", "version", "display_name", "description", "is_deterministic"):
        assert document[key] == spec[key]
    assert list(document["inputs"]) == list(spec["inputs"])
    assert list(document["outputs"]) == list(spec["outputs"])
    for name, entry in spec["inputs"].items():
        given = document["inputs"][name]
        assert given["type"] == KINDS.get(entry["type"], "uri_folder")
        for key in ("description", "default", "min", "enum"):
            assert given.get(key) == entry.get(key)
        assert given.get("optional", False) == entry["optional"]
    command = re.sub(r"\$\[\[(.*?)\]\]", r"[\1]", document["command"])
    assert re.sub(r"\$\{(\{[^}]+\})\}", r"\1", command) == spec["command"]


def test_the_component_has_the_five_parameters_of_the_module_and_every_setting_beyond_them() -> None:
    component = read_component(TRAIN)
    for name, entry in SPEC["inputs"].items():
        given = component.inputs[name]
        assert given.type == KINDS.get(entry["type"], "uri_folder")
        assert given.minimum == entry.get("min")
    definitions = TrainingParameters.definitions()
    texts = YAML(typ="safe").load(TRAIN)["inputs"]
    for name, definition in definitions.items():
        given = component.inputs[name]
        is_number = definition.kind in (int, float) and set(definition.words) <= {"auto"} and not definition.is_size
        assert given.default == (None if definition.words and is_number else TrainingParameters.default(name))
        assert given.choices == (definition.words if definition.kind is str else ())
        assert texts[name]["description"] == definition.description.split(" none draws")[0]
        if is_number:
            lowest = definition.at_least if definition.greater_than is None else definition.greater_than + 1
            assert given.minimum == lowest
        assert given.optional
    beyond = {"skip_unreadable_images", "trust_model_code", "include_samples", "export"}
    assert set(component.inputs) == {*SPEC["inputs"], *definitions, *beyond}
    assert set(component.inputs["export"].choices) == set(EXPORT_FORMATS)


def _value_of(port: Any) -> object:
    return port.minimum if port.default is None else port.default


def test_the_command_of_the_component_hands_every_value_to_its_flag() -> None:
    component = read_component(TRAIN)
    values = {
        name: str(port.choices[-1] if port.choices else f"/{name}" if port.is_data else _value_of(port))
        for name, port in component.inputs.items()
    }
    words = shlex.split(
        render(component.command, values, {"trained_model": "/trained_model", "checkpoints": "/checkpoint"})
    )
    assert words[:4] == ["python", "-m", "train_pytorch_model", "train"]
    parsed = vars(build_parser().parse_args(words[3:]))
    ports = ("untrained_model", "train_data", "valid_data", "trained_model", "checkpoint")
    assert [str(parsed[f"{name}_path"]) for name in ports] == [f"/{name}" for name in ports]
    for name, port in component.inputs.items():
        if name == "export":
            assert parsed[name] == [values[name]]
        elif not port.is_data:
            given = float(values[name]) if isinstance(parsed[name], float) else values[name]
            assert given in (parsed[name], str(parsed[name]))
    required = {name: value for name, value in values.items() if not component.inputs[name].optional}
    short = shlex.split(render(component.command, required, {"trained_model": "/x", "checkpoints": "/y"}))
    assert vars(build_parser().parse_args(short[3:]))["precision"] == "auto"
    assert len(short) == 4 + 2 * (len(required) + 2)


@pytest.mark.environment
def test_azure_ai_ml_takes_every_component_and_pipeline(loaded: dict[str, Any], project: Path) -> None:
    assert loaded["version"] == "1.35.2"
    for name in names([*COMPONENTS, *PIPELINES]):
        passed, messages, _ = loaded[str(project / name)]
        assert (passed, messages) == (True, {}), name
    train = loaded[str(project / "component.yaml")][2]["componentSpec"]
    assert train["distribution"]["type"].lower() == "pytorch"
    assert train["resources"]["shm_size"] == "16g"
    assert train["command"] == read_component(TRAIN).command


@pytest.mark.environment
@pytest.mark.parametrize("path", PIPELINES, ids=names(PIPELINES))
def test_our_reading_of_a_pipeline_is_azure_ai_mls(path: Path, loaded: dict[str, Any], project: Path) -> None:
    rest = loaded[str(project / path.relative_to(ROOT))][2]
    ours = read_pipeline(path)
    assert set(rest["jobs"]) == set(ours.steps)
    assert set(rest["outputs"]) == set(ours.outputs)
    assert set(rest["inputs"]) == set(ours.inputs)
    for name, step in ours.steps.items():
        job = rest["jobs"][name]
        written = {}
        swept = {} if step.sweep is None else step.sweep.search_space
        for key, source in step.inputs.items():
            if key in swept:
                assert job["search_space"][key]["type"] == swept[key].kind
            elif isinstance(source, PipelineInput):
                written[key] = f"${{{{parent.inputs.{source.name}}}}}"
            elif isinstance(source, StepOutput):
                written[key] = f"${{{{parent.jobs.{source.step}.outputs.{source.output}}}}}"
            elif isinstance(source, Literal):
                written[key] = str(source.value)
        assert {key: value.get("value") for key, value in job["inputs"].items()} == written
        outputs = {key: f"${{{{parent.outputs.{target}}}}}" for key, target in step.outputs.items()}
        assert {key: value.get("value") for key, value in (job.get("outputs") or {}).items()} == outputs
        if step.component.num_nodes > 1:
            assert job["resources"]["instance_count"] == step.component.num_nodes
            assert job["distribution"]["process_count_per_instance"] == step.component.num_processes


@pytest.mark.environment
def test_the_designers_own_sdk_takes_every_typed_specification(project: Path) -> None:
    paths = [project / "module_spec.yaml", *sorted((project / "components").glob("*/module_spec.yaml"))]
    code = (
        "import sys\n"
        "from azure.ml.component._core._component_definition import ComponentDefinition\n"
        "for path in sys.argv[1:]:\n"
        "    definition = ComponentDefinition.load(path)\n"
        "    print(definition.name, len(definition.inputs) + len(definition.parameters), len(definition.outputs))\n"
    )
    finished = subprocess.run(
        [str(environments.azure_ml_component()), "-W", "ignore", "-c", code, *map(str, paths)],
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    specs = [YAML(typ="safe").load(path) for path in paths]
    expected = [f"{spec['name']} {len(spec['inputs'])} {len(spec['outputs'])}" for spec in specs]
    assert [
        line for line in finished.stdout.splitlines() if line.split(" ")[0] in {s["name"] for s in specs}
    ] == expected


@pytest.mark.environment
def test_the_compiled_snapshot_alone_trains_and_holds_nothing_needless(project: Path, inputs: Inputs) -> None:
    (project / "src" / "train_pytorch_model" / "__pycache__").mkdir(exist_ok=True)
    (project / "src" / "train_pytorch_model" / "__pycache__" / "left.pyc").write_bytes(b"needless")
    compiler = environments.mldesigner().parent / "mldesigner"
    output = project / "compiled"
    finished = subprocess.run(
        [str(compiler), "compile", "--source", str(project / "component.yaml"), "--output", str(output)],
        capture_output=True,
        text=True,
        cwd=project,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    compiled = next(output.rglob("component.yaml"))
    document = YAML(typ="safe").load(compiled)
    snapshot = (compiled.parent / document["code"]).resolve()
    files = [path for path in snapshot.rglob("*") if path.is_file() and path != compiled]
    assert sum(path.stat().st_size for path in files) < 2 * 2**20
    assert {path.suffix for path in files} <= {".py", ".typed", ".amlignore", ".html", ".css", ".js", ""}
    values = {"untrained_model": inputs.untrained, "train_data": inputs.train, "valid_data": inputs.valid}
    numbers = {"epochs": 1, "batch_size": 6, "learning_rate": 0.001, "patience": 3}
    text = {name: str(value) for name, value in {**values, **numbers}.items()}
    outputs = {"trained_model": str(inputs.trained), "checkpoints": str(inputs.path / "checkpoints")}
    words = shlex.split(render(document["command"], text, outputs))
    run_in_snapshot(snapshot, words)
    assert (inputs.trained / "_meta.yaml").is_file()


def test_the_image_installs_what_the_project_locks_within_azures_limits() -> None:
    context = ROOT / "environment"
    assert (context / "requirements.lock").read_bytes() == (ROOT / "requirements.lock").read_bytes()
    files = list(context.iterdir())
    assert len(files) <= 100
    assert sum(path.stat().st_size for path in files) < 2**20
    dockerfile = (context / "Dockerfile").read_text()
    assert re.search(
        r"^FROM mcr\.microsoft\.com/azureml/openmpi5\.0-cuda12\.\d+-ubuntu24\.04$", dockerfile, re.MULTILINE
    )
    assert "--no-deps --require-hashes -r requirements.lock" in dockerfile


def test_the_designer_and_the_module_run_the_same_command() -> None:
    values = {"untrained_model": "/u", "train_data": "/t", "valid_data": "/v", "trained_model": "/m"}
    numbers = {"epochs": 1, "batch_size": 6, "learning_rate": 0.5, "random_seed": 3, "patience": 3}
    words = {"recipe": "auto", "image_size": "auto"}  # which the designer's command contains
    given = {name: str(value) for name, value in {**values, **numbers, **words}.items()}
    component = read_component(TRAIN)
    of_component = render(component.command, given, {"trained_model": "/m", "checkpoints": "/c"})
    assert shlex.split(of_component) == [*fill({**values, **numbers}), "--checkpoint-path", "/c"]


LOAD_DEPLOYMENT = """
import json, sys
from azure.ai.ml import load_model, load_online_deployment, load_online_endpoint
folder = sys.argv[1]
model = load_model(f"{folder}/model.yaml")
endpoint = load_online_endpoint(f"{folder}/endpoint.yaml")
deployment = load_online_deployment(f"{folder}/deployment.yaml")
print(json.dumps({
    "model": [model.name, str(model.type), str(model.path)],
    "endpoint": endpoint.name,
    "deployment": [
        deployment.endpoint_name, str(deployment.model), deployment.code_configuration.scoring_script,
        str(deployment.code_configuration.code), deployment.environment.conda_file["dependencies"][:1],
    ],
    "threads": deployment.environment_variables["GUNICORN_CMD_ARGS"],
    "requests": deployment.request_settings.max_concurrent_requests_per_instance,
}))
"""


@pytest.mark.environment
def test_azure_ai_ml_takes_the_deployment_of_a_trained_model(project: Path, inputs: Inputs) -> None:
    assert inputs.fit() == 0
    shutil.copytree(inputs.trained, project / "sample_run" / "run" / "outputs" / "trained_model", dirs_exist_ok=True)
    command = [str(environments.azure_ai_ml()), "-W", "ignore", "-c", LOAD_DEPLOYMENT, project / "samples" / "deploy"]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    report = json.loads(finished.stdout.splitlines()[-1])
    endpoint, model, script, code, dependencies = report["deployment"]
    assert (report["endpoint"], endpoint) == ("image-classifier", "image-classifier")
    assert model.removeprefix("azureml:").partition("@")[0] == report["model"][0]
    assert report["model"][1].endswith("custom_model")
    assert (project / "samples" / "deploy" / code / script).is_file()
    assert (report["threads"], report["requests"]) == ("--threads 40", 32)
    assert dependencies == [f"python={sys.version_info.major}.{sys.version_info.minor}"]


@pytest.mark.thorough
@pytest.mark.environment
def test_what_the_dockerfile_installs_trains(inputs: Inputs, tmp_path: Path) -> None:
    """Its steps in a clean environment of its Python: there is no engine to build the image with."""
    dockerfile = (ROOT / "environment" / "Dockerfile").read_text()
    steps = re.findall(r"^RUN ((?:.*\\\n)*.*)$", dockerfile, re.MULTILINE)
    create, install = (step for step in steps if "python" in step and "apt-get" not in step)
    home = re.search(r"-m venv (\S+)$", create)[1]  # type: ignore[index]
    assert f"ENV PATH={home}/bin:$PATH" in dockerfile
    environment = tmp_path / "environment"
    create = create.replace("/usr/bin/python3.12", str(environments.require_python312())).replace(
        home, str(environment)
    )
    path = f"{environment}/bin:{os.environ['PATH']}"
    for step in (create, install):
        finished = subprocess.run(
            ["bash", "-ec", step],
            cwd=ROOT / "environment",
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
        )
        assert finished.returncode == 0, finished.stderr
    trained = run_module(*inputs.arguments(), python=environment / "bin" / "python", PYTHONPATH=str(ROOT / "src"))
    assert trained.returncode == 0, trained.stderr
