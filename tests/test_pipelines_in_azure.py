"""What azure-ai-ml makes of pipelines and of code, compared with what run-pipeline makes of them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import environments
from tests.pipelines import FOLDER, command, write_yaml
from train_pytorch_model.api import run_pipeline
from train_pytorch_model.errors import UserError
from train_pytorch_model.pipelines.component_files import read_component
from train_pytorch_model.pipelines.snapshot import snapshot_files

ASK = """
import json, logging, sys
from pathlib import Path
from azure.ai.ml import load_component, load_job
logging.disable(logging.CRITICAL)
def verdict(path):
    try:
        job = load_job(path)
        faults = {key: text for key, text in job._validate().error_messages.items() if text != "Compute not set"}
        return faults or job._to_rest_object().as_dict()["properties"]["jobs"], not faults
    except Exception as error:
        return f"{type(error).__name__}: {error}", False
def uploaded(path):
    with load_component(path)._build_code() as code:
        top = Path(code.path if Path(code.path).is_absolute() else Path(path).parent / code.path)
        files = [file for file in top.rglob("*") if file.is_file() and not code._ignore_file.is_file_excluded(file)]
        return sorted(str(file.relative_to(top)) for file in files)
asked = {"pipeline.yaml": verdict, "component.yaml": uploaded}
print(json.dumps({path: asked[Path(path).name](path) for path in sys.argv[1:]}, default=str))
"""


def ask_azure(paths: list[Path]) -> dict[str, Any]:
    finished = subprocess.run(
        [str(environments.azure_ai_ml()), "-W", "ignore", "-c", ASK, *map(str, paths)], capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    answers: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return answers


def dry_run(path: Path) -> str:
    """Return the error of a dry run; empty if there is none."""
    try:
        run_pipeline(path, output_path=path.parent.parent / "run", dry_run=True)
    except UserError as error:
        return str(error)
    return ""


WORD = {"type": "string", "default": "none"}
NODE = {"type": "command", "component": "./it.yaml"}


def job(**fields: object) -> dict[str, Any]:
    return {"jobs": {"a": {**NODE, **fields}}}


def bound(word: object, **inputs: object) -> dict[str, Any]:
    """A pipeline with inputs, and a job that is given a word."""
    return {**job(inputs={"word": word}), "inputs": inputs}


def output(entry: object) -> dict[str, Any]:
    """A pipeline with the output `all`, and a job with an entry for its output."""
    return {**job(outputs={"out": entry}), "outputs": {"all": {"type": "uri_folder"}}}


def of(entry: object = None, **fields: object) -> dict[str, Any]:
    """A pipeline with a component that has other fields, and whose input is declared so."""
    return {**job(), "component": {"inputs": {"word": WORD if entry is None else entry}, **fields}}


def nested(job: dict[str, Any] | None = None, **fields: object) -> dict[str, Any]:
    """A pipeline with a pipeline component that has other fields, and a job that is this component."""
    inner = {
        "a": {**NODE, "inputs": {"word": "${{parent.inputs.text}}"}, "outputs": {"out": "${{parent.outputs.all}}"}}
    }
    ports: dict[str, Any] = {"inputs": {"text": {"type": "string"}}, "outputs": {"all": FOLDER}}
    outer = {"type": "pipeline", "component": "./sub.yaml", "inputs": {"text": "x"}, **(job or {})}
    return {"jobs": {"s": outer}, "sub": {"type": "pipeline", "name": "sub", **ports, "jobs": inner, **fields}}


# Azure's verdict on each is the verdict of the dry run.
TAKEN: dict[str, dict[str, Any]] = {
    "a component": job(),
    "a file reference": job(component="file:./it.yaml"),
    "a file reference without ./": job(component="file:it.yaml"),
    "an upper case type": job(type="Command"),
    "no type of a job": {"jobs": {"a": {"component": "./it.yaml"}}},
    "a component within": {"jobs": {"a": {**NODE, "component": command("true")}}},
    "a command within": {"jobs": {"a": command("true")}},
    "a command without a type": {"jobs": {"a": {"command": "true", "environment": "azureml:x:1"}}},
    "inputs of a command within": {
        "jobs": {"a": command("echo ${{inputs.n}} ${{inputs.d}}", inputs={"n": 3, "d": {"path": "."}})}
    },
    "outputs of a command within": {
        "jobs": {
            "a": command("echo > ${{outputs.f}}; ls ${{outputs.o}}", outputs={"o": None, "f": {"type": "uri_file"}})
        }
    },
    "text around an input": bound("run-${{parent.inputs.name}}-k${{parent.inputs.k}}", name="birds", k=3),
    "spaces in an expression": bound("${{ parent.inputs.name }}", name="birds"),
    "an input with a dot": bound("${{parent.inputs.group.name}}", **{"group.name": "birds"}),
    "an input as a value": bound("${{parent.inputs.name}}", name={"value": "birds"}),
    "an input of no job": bound("x", other=3),
    "a path without a type": bound("x", data={"path": "."}),
    "an upper case type of data": bound("x", data={"type": "URI_FOLDER", "path": ".", "mode": "Download"}),
    "a file reference as a path": bound("x", data={"type": "uri_folder", "path": "file:."}),
    "a model as an input": bound("x", data={"type": "mlflow_model", "path": "."}),
    "eval_mount of a table": bound("x", data={"type": "mltable", "path": ".", "mode": "eval_mount"}),
    "variables": bound("x") | job(environment_variables={"A": "b", "N": 3, "T": True, "Z": None}),
    "an input in a variable": bound("x", name="y") | job(environment_variables={"A": "b-${{parent.inputs.name}}"}),
    "an input as a number of nodes": bound("x", k=2) | job(resources={"instance_count": "${{parent.inputs.k}}"}),
    "numbers as text": job(resources={"instance_count": "2"}, limits={"timeout": "60"}),
    "a distribution of a job": job(distribution={"type": "PyTorch", "process_count_per_instance": 2}),
    "an unknown field of a job with a component": job(comment="x", foo=1),
    "what jobs have": job(compute="azureml:x", identity={"type": "managed"}, queue_settings={}, properties={"a": "b"}),
    "an output without anything": output(None),
    "an output of the pipeline": output("${{parent.outputs.all}}"),
    "an output with a mode": output({"path": "${{parent.outputs.all}}", "mode": "upload"}),
    "an output with a path elsewhere": output(
        {"type": "uri_folder", "path": "azureml://datastores/a/paths/${{name}}/"}
    ),
    "an output that is registered": output({"type": "uri_folder", "name": "kept", "version": 1}),
    "what pipelines have": job()
    | {
        "$schema": "x",
        "display_name": "d",
        "experiment_name": "e",
        "description": "runs ${{inputs.x}}",
        "tags": {"a": "b"},
        "identity": {"type": "user_identity"},
        "compute": "azureml:x",
        "settings": {"default_compute": "serverless", "continue_on_step_failure": True, "force_rerun": True, "x": 1},
    },
    "a name with a dash": of(name="echo-it"),
    "no name and version": of(name="x", version=1.5),
    "an unknown field of a component": of(foo=1),
    "variables of a component": of(environment_variables={"A": "b"}),
    "a boolean as a word": of({"type": "string", "optional": "yes", "default": "x"}),
    "a number as text": of({"type": "number", "default": "0.5", "min": "0.1"}),
    "a boolean": of({"type": "boolean", "default": "true"}),
    "a choice": of({"type": "string", "enum": ["a", "b"], "default": "a"}),
    "an optional table": of({"type": "mltable", "optional": True}, command="echo $[[${{inputs.word}}]]"),
    "code of one file": of(code="./it.yaml"),
    "files beside the code": of(additional_includes=["./pipeline.yaml"]),
    "an environment of its own": of(environment={"image": "x", "name": "y"}),
    "outputs of all types": of(
        outputs={
            kind: {"type": kind} for kind in ("uri_file", "mltable", "mlflow_model", "custom_model", "triton_model")
        },
        command="true",
    ),
    "an environment of a conda file and an image": of(environment={"image": "x", "conda_file": "./conda.yaml"}),
    "an environment in a file": of(environment="file:environment.yaml"),
    "an environment of a Dockerfile": of(environment={"build": {"path": "./beside"}}),
    "serverless in upper case": job() | {"settings": {"default_compute": "Serverless"}},
    "settings in YAML 1.1": job() | {"settings": {"continue_on_step_failure": "off", "force_rerun": "YES"}},
    "a queue": job(queue_settings={"job_tier": "Spot", "priority": "low"}),
    "a group of inputs in text": {
        "jobs": {"a": command("echo ${{inputs.n}}", inputs={"n": "x-${{parent.inputs.a.b}}"})},
        "inputs": {"a.b": 3},
    },
    "a pipeline component": nested(),
    "a pipeline component without a type of the job": nested({"type": None}),
    "a pipeline component without a type of its own": nested(type=None),
    "a pipeline component without a name": nested(name=None),
    "a name of a pipeline component with a dash": nested(name="a-b"),
    "unknown fields of a pipeline component": nested({"comment": "x", "foo": 1, "compute": "azureml:c"}, foo=1),
    "a value that is text around an input": nested({"inputs": {"text": "a-${{parent.inputs.k}}"}})
    | {"inputs": {"k": 1}},
    "a default of a pipeline component": nested({"inputs": {}}, inputs={"text": {"type": "string", "default": "x"}}),
    "an optional input of a pipeline component": nested(
        {"inputs": {}}, inputs={"text": {"type": "string", "optional": True}}
    )
    | {
        "component": {
            "inputs": {"word": {"type": "string", "optional": "yes"}},
            "command": "echo $[[${{inputs.word}}]]",
        }
    },
    "an input that a pipeline component does not have": nested({"inputs": {"text": "x", "other": 1}}),
    "an output of a pipeline component with a mode": nested(
        {"outputs": {"all": {"path": "${{parent.outputs.o}}", "mode": "upload"}}}
    )
    | {"outputs": {"o": {"type": "uri_folder", "mode": "rw_mount"}}},
    "a pipeline that is a component": nested() | {"jobs": None, "both": "./sub.yaml", "inputs": {"text": "x"}},
    "a compute that is an input": nested(
        jobs={"a": {**NODE, "compute": "${{parent.inputs.text}}", "outputs": {"out": "${{parent.outputs.all}}"}}}
    ),
}
REFUSED: dict[str, dict[str, Any]] = {
    "an unknown field": job() | {"foo": 1},
    "limits of a pipeline": job() | {"limits": {"timeout": 3}},
    "jobs in a list": {"jobs": [NODE]},
    "jobs and a component": job() | {"both": "./it.yaml"},
    "a compute without azureml:": job() | {"settings": {"default_compute": "cluster"}},
    "an expression as the default compute": bound("x", c="y")
    | {"settings": {"default_compute": "${{parent.inputs.c}}"}},
    "a setting that is no boolean": job() | {"settings": {"force_rerun": "maybe"}},
    "tags in a list": job() | {"tags": ["a"]},
    "a description that is null": job() | {"description": None},
    "a name of a job with a dash": {"jobs": {"a-b": NODE}},
    "a name of a job in upper case": {"jobs": {"A": NODE}},
    "a name of a job that is a number": {"jobs": {1: NODE}},
    "a name of an input with a dash": bound("x", **{"a-b": 1}),
    "a name of an output with a dash": job() | {"outputs": {"a-b": FOLDER}},
    "a default in an input": bound("${{parent.inputs.w}}", w={"type": "string", "default": "hey"}),
    "a type of a literal": bound("${{parent.inputs.w}}", w={"type": "string"}),
    "an input that is null": bound("x", w=None),
    "an input that is a list": bound(["x"]),
    "an input that is infinite": bound(float("inf")),
    "an input that is a mapping": bound("x", w={"sub": 1}),
    "an unknown type of data": bound("x", w={"type": "folder", "path": "."}),
    "an unknown mode of data": bound("x", w={"type": "uri_folder", "path": ".", "mode": "upload"}),
    "eval_mount of a folder": bound("x", w={"type": "uri_folder", "path": ".", "mode": "eval_mount"}),
    "an optional input of a pipeline": bound("x", w={"type": "uri_folder", "path": ".", "optional": True}),
    "an old expression": bound("${{inputs.w}}", w="x"),
    "an old expression of a job": bound("${{jobs.a.outputs.out}}"),
    "an old expression of an output": output("${{outputs.all}}"),
    "an output that is a path": output("./here"),
    "an output with a mode of inputs": output({"mode": "ro_mount"}),
    "an output with an unknown field": output({"type": "uri_folder", "foo": 1}),
    "an unknown type of a job": job(type="shell"),
    "a missing component": job(component="./nowhere.yaml"),
    "an address as a component": job(component="https://example.com/it.yaml"),
    "limits that are no number": job(limits={"timeout": "soon"}),
    "an unknown limit": job(limits={"trials": 3}),
    "an unknown resource": job(resources={"gpus": 3}),
    "nodes that are no number": job(resources={"instance_count": "two"}),
    "an unknown distribution": job(distribution={"type": "horovod"}),
    "a distribution without a type": job(distribution={"process_count_per_instance": 2}),
    "variables in a list": job(environment_variables=["A=b"]),
    "an unknown identity": job(identity={"type": "me"}),
    "an unknown field of a command within": {"jobs": {"a": command("true", foo=1)}},
    "a command within without an environment": {"jobs": {"a": {"command": "true"}}},
    "missing code of a command within": {"jobs": {"a": command("true", code="./nowhere")}},
    "a component without an environment": of(environment=None),
    "an environment without azureml:": of(environment="ubuntu"),
    "a missing conda file": of(environment={"image": "x", "conda_file": "./nowhere.yaml"}),
    "a component without a command": of(command=None),
    "a command that is a list": of(command=["echo"]),
    "missing code": of(code="./nowhere"),
    "a missing input": of({"type": "string"}),
    "a missing folder": of(FOLDER),
    "an unknown type of an input": of({"type": "float"}),
    "a type in upper case": of({"type": "String"}),
    "an unknown field of an input": of({"type": "string", "foo": 1}),
    "an input that is text": of("string"),
    "a default that is no integer": of({"type": "integer", "default": "abc"}),
    "a default that is no boolean": of({"type": "boolean", "default": "maybe"}),
    "a default of a folder": of({"type": "uri_folder", "default": "x"}),
    "a bound of a text": of({"type": "string", "default": "x", "min": 1}),
    "choices that are numbers": of({"type": "integer", "default": 1, "enum": [1, 2]}),
    "an unknown type of an output": of(outputs={"out": {"type": "folder"}}),
    "includes that are text": of(additional_includes="./x"),
    "a date": bound("x"),
    "a datastore without azureml:": job() | {"settings": {"default_datastore": "store"}},
    "an id as the default compute": job() | {"settings": {"default_compute": "/subscriptions/a/b"}},
    "an id as an environment": of(environment="/subscriptions/a/b"),
    "a path as an environment": of(environment="./environment.yaml"),
    "a missing file of an environment": of(environment="file:./nowhere.yaml"),
    "a missing folder of a Dockerfile": of(environment={"build": {"path": "./nowhere"}}),
    "a job at the beginning": job() | {"settings": {"on_init": "a"}},
    "an unknown tier": job(queue_settings={"job_tier": "best"}),
    "an unknown field of a queue": job(queue_settings={"foo": 1}),
    "a path on a compute": bound("x", d={"type": "uri_folder", "path": ".", "path_on_compute": "/x"}),
    "an upper case type of a pipeline": job() | {"type": "Pipeline"},
    "a group of inputs": {
        "jobs": {"a": command("echo ${{inputs.n}}", inputs={"n": "${{parent.inputs.a.b}}"})},
        "inputs": {"a.b": 3},
    },
    "a pipeline component as a reference": nested({"component": "file:./sub.yaml"}),
    "a pipeline component in the job": nested({"component": {"type": "pipeline", "jobs": {"a": NODE}}}),
    "a job of type pipeline without a component": nested({"component": None}),
    "a command as a pipeline component": nested({"component": "./it.yaml"}),
    "a pipeline component as a command": nested({"type": "command"}),
    "a missing pipeline component": nested({"component": "./nowhere.yaml"}),
    "a missing input of a pipeline component": nested({"inputs": {}}),
    "an optional input for a required one": nested(inputs={"text": {"type": "string", "optional": True}})
    | {"component": {"inputs": {"word": {"type": "string"}}}},
    "a default of a folder of a pipeline component": nested(
        inputs={"text": {"type": "string"}, "d": {"type": "uri_folder", "default": "x"}}
    ),
    "a path of an input of a pipeline component": nested(
        inputs={"text": {"type": "string"}, "d": {"type": "uri_folder", "path": "."}}
    ),
    "a pipeline component in itself": nested(
        jobs={"a": {"type": "pipeline", "component": "./sub.yaml", "inputs": {"text": "x"}}}
    ),
    "a name of a job of a pipeline component": nested(jobs={"A": NODE}),
    "an unknown output of a pipeline component": nested(outputs={"all": {"type": "folder"}}),
}
# Azure takes these, and they are said not to be supported, or not to be what they seem.
NOT_SUPPORTED: dict[str, tuple[dict[str, Any], str]] = {
    "a registered component": (
        job(component="azureml:it@latest"),
        "job a: azureml:it@latest is a registered component",
    ),
    "a component of a registry": (
        job(component="azureml://registries/r/components/c/versions/1"),
        "registered component",
    ),
    "mpi": (
        job(distribution={"type": "mpi", "process_count_per_instance": 2}),
        "only distribution pytorch is supported",
    ),
    "tensorflow": (of(distribution={"type": "tensorflow", "worker_count": 1}), "but got 'tensorflow'"),
    "data of a workspace": (bound("x", d={"path": "azureml:d@latest"}), "'azureml:d@latest' is not on this machine"),
    "data of a datastore": (
        bound("x", d={"path": "azureml://datastores/a/paths/b"}),
        "give a local path with --input d=…",
    ),
    "a file behind an address": (
        bound("x", d={"type": "uri_file", "path": "http://127.0.0.1:1/z"}),
        "http://127.0.0.1:1/z cannot be downloaded (",
    ),
    "a folder behind an address": (
        bound("x", d={"type": "uri_folder", "path": "https://x.y/z"}),
        "input d: only a file (type: uri_file) can be downloaded, but 'https://x.y/z' is of type uri_folder",
    ),
    "data of a storage account": (
        bound("x", d={"type": "uri_file", "path": "wasbs://x@y/z"}),
        "is not on this machine",
    ),
    "an output that is a text": (of(outputs={"out": {"type": "string"}}), "output out is of type string, which is not"),
    "code in a repository": (of(code="git+https://x.y/z"), "is not on this machine, which is not supported"),
    "an input of another job": (bound("${{parent.jobs.a.inputs.word}}"), "only ${{parent.jobs.JOB.outputs.NAME}} is"),
    "a typing error": (bound("${{parent.job.a.outputs.out}}"), "${{parent.job.a.outputs.out}} cannot be resolved here"),
    "an old expression in text": (
        bound("x-${{inputs.name}}"),
        "jobs.a.inputs.word: ${{inputs.name}} cannot be resolved",
    ),
    "an expression without an end": (bound("${{parent.inputs.w", w=1), "'${{parent.inputs.w' begins an expression"),
    "a name in an input": (bound("x", w="${{name}}"), "inputs.w: ${{name}} cannot be resolved here"),
    "an unknown input": (bound("${{parent.inputs.w}}"), "parent.inputs.w is not declared"),
    "an output in text": (bound("x${{parent.jobs.a.outputs.out}}"), "an input of a job can be ${{parent.jobs.JOB"),
    "an unknown input as compute": (
        job(compute="${{parent.inputs.w}}"),
        "jobs.a.compute: ${{parent.inputs.w}} cannot be",
    ),
    "an output of text": (output("x-${{parent.outputs.all}}"), "${{parent.outputs.all}} cannot be resolved here"),
    "an unknown macro in a path": (output({"path": "azureml://datastores/a/paths/${{nmae}}"}), "${{nmae}} cannot be"),
    "an unknown input in a variable": (
        job(environment_variables={"A": "${{inputs.w}}"}),
        "${{inputs.w}} cannot be resolved",
    ),
    "an expression of a sweep": (of(command="echo ${{search_space.lr}}"), "the command uses ${{search_space.lr}}"),
    "an expression in an environment": (
        of(environment="azureml:${{name}}:1"),
        "only the command may contain expressions",
    ),
    "an optional part without an end": (
        of(command="echo $[[--x ${{inputs.word}}"),
        "the command contains $[[ without ]]",
    ),
    "a shell variable that is none": (of(command="echo ${inputs.word}"), "write ${{inputs.word}}"),
    "no bash": (of(command="echo 'x"), "job a: the command is not valid bash"),
    "missing data": (bound("x", d={"path": "./nowhere"}), "nowhere does not exist"),
    "a file as a folder": (
        bound("x", d={"type": "uri_folder", "path": "./it.yaml"}),
        "it.yaml is a file, but its type is",
    ),
    "a folder to compress": (of(additional_includes=["./beside.zip"]), "stands for a folder to compress"),
    "a missing include": (of(additional_includes=["./nowhere"]), "nowhere does not exist"),
    "a value that no job of a pipeline component can take": (
        nested({"inputs": {"text": "x"}}, inputs={"text": {"type": "integer"}}),
        "job s: input text: 'x' is not of type integer",
    ),
    "an unknown input within a pipeline component": (
        nested(jobs={"a": {**NODE, "inputs": {"word": "${{parent.inputs.other}}"}}}),
        "sub.yaml: job a: input word: parent.inputs.other is not declared",
    ),
    "an unknown output within a pipeline component": (
        nested(jobs={"a": {**NODE, "outputs": {"out": "${{parent.outputs.other}}"}}}),
        "sub.yaml: job a: output out is bound to the pipeline's output other, which is not declared",
    ),
    "a pipeline component without jobs": (nested(jobs=None), "sub.yaml: it has no jobs"),
    "a number as an output of a pipeline component": (
        nested(outputs={"all": FOLDER, "n": {"type": "integer"}}),
        "sub.yaml: output n is of type integer, which is not supported",
    ),
    "no nodes": (job(resources={"instance_count": 0}), "resources.instance_count is 0, which is not a positive"),
}


def write_case(folder: Path, document: dict[str, Any]) -> Path:
    """Write a pipeline and its component, without the fields of the component that are None."""
    entries = document.pop("component", {})
    fields = {"inputs": {"word": WORD}, "outputs": {"out": FOLDER}, **command('echo "${{inputs.word}}"'), **entries}
    write_yaml(folder / "it.yaml", {name: value for name, value in fields.items() if value is not None})
    sub = document.pop("sub", {})
    write_yaml(folder / "sub.yaml", {name: value for name, value in sub.items() if value is not None})
    if sub and document["jobs"]:
        document["jobs"] = {
            name: {key: value for key, value in entry.items() if value is not None}
            for name, entry in document["jobs"].items()
        }
    (folder / "beside").mkdir()
    write_yaml(folder / "conda.yaml", {"dependencies": ["python=3.8", {"pip": ["pandas>=1", "no-such-package==1"]}]})
    write_yaml(folder / "environment.yaml", {"name": "e", "image": "x", "conda_file": "./conda.yaml"})
    if "both" in document:
        document["component"] = document.pop("both")
    document = {name: value for name, value in document.items() if name != "jobs" or value is not None}
    return write_yaml(folder / "pipeline.yaml", {"type": "pipeline", **document})


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, bool, object]]:
    """The file of each case, and whether and why azure-ai-ml takes it."""
    top = tmp_path_factory.mktemp("cases")
    documents = {**TAKEN, **REFUSED, **{name: document for name, (document, _) in NOT_SUPPORTED.items()}}
    files = {
        name: write_case(top / str(number), dict(document)) for number, (name, document) in enumerate(documents.items())
    }
    dated = files["a date"]
    dated.write_text(dated.read_text(encoding="utf-8").replace("word: x", "word: 2020-01-01"), encoding="utf-8")
    answers = ask_azure(list(files.values()))
    return {name: (path, answers[str(path)][1], answers[str(path)][0]) for name, path in files.items()}


@pytest.mark.parametrize("name", TAKEN)
def test_what_azure_takes_is_taken(name: str, cases: dict[str, tuple[Path, bool, object]]) -> None:
    path, is_taken, answer = cases[name]
    assert is_taken, answer
    assert dry_run(path) == ""


@pytest.mark.parametrize("name", REFUSED)
def test_what_azure_refuses_is_refused(name: str, cases: dict[str, tuple[Path, bool, object]]) -> None:
    path, is_taken, answer = cases[name]
    assert not is_taken, answer
    assert str(path.parent) in dry_run(path)


@pytest.mark.parametrize("name", NOT_SUPPORTED)
def test_what_azure_takes_and_is_not_supported_is_named(name: str, cases: dict[str, tuple[Path, bool, object]]) -> None:
    path, is_taken, answer = cases[name]
    assert is_taken, answer
    assert NOT_SUPPORTED[name][1] in dry_run(path)
    assert not (path.parent.parent / "run").exists()


SNAPSHOTS = {
    "nothing": "",
    "everything but Python": "*\n!*.py\n",
    "a folder": "deep/\n",
    "a folder by its name": "deep\n",
    "a folder but one file": "deep/*\n!deep/a.py\n",
    "an excluded folder and a file of it": "deep/\n!deep/a.py\n",
    "a file at the top": "/a.py\n",
    "two stars": "**/deeper/*.txt\n",
    "two stars between": "deep/**/a.py\n",
    "a comment and a class": "# no pattern\n[ab].py\n",
    "a file with a hash": "\\#x\n",
    "the last pattern decides": "*.py\n!a.py\na.py\n",
    "a space at the end": "b.txt   \n",
}
FILES = ("a.py", "b.txt", "#x", "deep/a.py", "deep/b.txt", "deep/deeper/a.py", "deep/deeper/c.txt")


def write_code(folder: Path, ignore_file: str, patterns: str, **fields: object) -> Path:
    """Write a component with code, and a folder and a file beside the code."""
    for name in (*FILES, "../beside/a.py", "../beside/b.txt", "../beside/deep/b.txt", "../extra.txt"):
        (folder / "code" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "code" / name).write_text(name)
    (folder / "code" / ignore_file).write_text(patterns)
    return write_yaml(folder / "component.yaml", {**command("true"), "name": "it", "code": "./code", **fields})


@pytest.mark.parametrize("includes", [[], ["./beside", "./extra.txt"]], ids=["code alone", "additional includes"])
@pytest.mark.parametrize("ignore_file", [".amlignore", ".gitignore"])
def test_the_code_of_a_step_is_what_azure_uploads(ignore_file: str, includes: list[str], tmp_path: Path) -> None:
    more = {"additional_includes": includes} if includes else {}
    paths = [
        write_code(tmp_path / str(number), ignore_file, patterns, **more)
        for number, patterns in enumerate(SNAPSHOTS.values())
    ]
    answers = ask_azure(paths)
    for name, path in zip(SNAPSHOTS, paths):
        if includes and name == "everything but Python":  # Here Azure leaves out the folder of the code itself.
            assert answers[str(path)] == []
            with pytest.raises(ValueError, match="Azure uploads no code at all"):
                snapshot_files(read_component(path), tmp_path / "run")
            continue
        assert [str(file) for file in snapshot_files(read_component(path), tmp_path / "run")] == answers[str(path)], (
            name
        )
