"""What a pipeline is refused for, before anything runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.making import error_code
from tests.pipelines import FOLDER, command, component, message, pipeline, run, write_yaml
from train_pytorch_model.pipelines.yaml_files import read_yaml

BROKEN: dict[str, tuple[str, object, str]] = {
    "default below min": ("inputs.n", {"type": "integer", "default": 0, "min": 1}, "the default 0 is below min 1"),
    "min above max": ("inputs.n", {"type": "integer", "min": 3, "max": 2}, "min 3 is above max 2"),
    "default above max": ("inputs.n", {"type": "number", "default": 3, "max": 2.5}, "the default 3.0 is above max 2.5"),
    "default that is no boolean": (
        "inputs.n",
        {"type": "boolean", "default": "maybe"},
        "the default 'maybe' is not of type boolean",
    ),
    "default that is no text": (
        "inputs.n",
        {"type": "string", "default": ["a"]},
        "inputs.n.default is ['a'], but must be a text, a number or a boolean",
    ),
    "bound that is no number": (
        "inputs.n",
        {"type": "integer", "min": "low"},
        "inputs.n.min is 'low', but must be a number",
    ),
    "bound of a text": ("inputs.n", {"type": "string", "max": 3}, "inputs.n: unknown field 'max'"),
    "choices that are no list": (
        "inputs.n",
        {"type": "string", "enum": 3},
        "inputs.n.enum is 3, but must be a list of texts",
    ),
    "unknown type": ("inputs.n", {"type": "float"}, "inputs.n.type is 'float', but must be one of integer, number"),
    "inputs without names": ("inputs", ["n"], "inputs is ['n'], but must be a mapping"),
    "another kind of component": ("type", "parallel", "type parallel is not supported"),
    "another distribution": ("distribution", {"type": "mpi"}, "only distribution pytorch is supported, but got 'mpi'"),
    "default not in enum": ("inputs.n", {"type": "string", "default": "x", "enum": ["a"]}, "'x' is not one of a"),
    "default of a wrong type": ("inputs.n", {"type": "integer", "default": "many"}, "'many' is not of type integer"),
    "folder with a default": (
        "inputs.n",
        {"type": "uri_folder", "default": "x"},
        "a folder or a file cannot have a default",
    ),
    "undeclared input": (
        "command",
        "run ${{inputs.n}} ${{inputs.m}} ${{outputs.o}}",
        "${{inputs.m}}, which is not declared",
    ),
    "no number of nodes": (
        "resources",
        {"instance_count": "two"},
        "resources.instance_count is 'two', but must be an integer",
    ),
    "a number without end": ("inputs.n", {"type": "number", "default": 10**400, "max": 3}, "is above max 3"),
    "no finite number": ("inputs.n", {"type": "number", "default": float("inf")}, "inf is not of type number"),
    "optional outside": ("inputs.n", {"type": "integer", "optional": True}, "optional input n is outside of"),
    "required inside": ("command", "run $[[${{inputs.n}}]] ${{outputs.o}}", "required input n is inside of"),
    "shared memory": ("resources", {"shm_size": "lots"}, "shm_size 'lots' is not a number"),
    "code": ("code", "./nowhere", "does not exist"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_component_is_reported_before_anything_runs(fault: str, tmp_path: Path) -> None:
    key, value, words = BROKEN[fault]
    document: dict[str, object] = {
        "type": "command",
        "name": "it",
        "inputs": {"n": {"type": "integer", "default": 2}},
        "outputs": {"o": FOLDER},
        "environment": "azureml:any:1",
        "command": "run ${{inputs.n}} ${{outputs.o}}",
    }
    if key == "inputs.n":
        document["inputs"] = {"n": value}
    else:
        document[key] = value
    write_yaml(tmp_path / "it.yaml", document)
    assert run(pipeline(tmp_path / "pipeline.yaml", {"job": {"component": "it.yaml", "inputs": {}}}), tmp_path) == 1
    assert words in message(tmp_path)


BROKEN_JOBS: dict[str, tuple[dict[object, object], str]] = {
    "out of range": ({"n": 0}, "0 is below min 1"),
    "no number": ({"n": "abc"}, "'abc' is not of type integer"),
    "a number for a folder": ({"n": 2, "data": 3}, "input data: expected a folder, but got 3"),
    "no input of this name": ({"n": 2, 7: 1}, "the key 7 is not text; put it in quotes"),
    "unknown input": ({"n": 2, "m": 1}, "the component has no input m"),
    "no value": ({}, "the required input n has no value"),
    "unknown step": ({"n": "${{parent.jobs.other.outputs.o}}"}, "parent.jobs.other.outputs.o is not declared"),
    "folder for a number": (
        {"n": "${{parent.jobs.job.outputs.o}}"},
        "expected a value of type integer, but got a folder",
    ),
    "unknown input of the pipeline": ({"n": "${{parent.inputs.other}}"}, "parent.inputs.other is not declared"),
    "absent folder": ({"n": 1, "data": {"type": "uri_folder", "path": "./nowhere"}}, "nowhere does not exist"),
    "elsewhere": ({"n": 1, "data": {"type": "uri_folder", "path": "azureml:x@latest"}}, "is not on this machine"),
}


@pytest.mark.parametrize("fault", BROKEN_JOBS)
def test_a_broken_pipeline_is_reported_before_anything_runs(fault: str, tmp_path: Path) -> None:
    inputs, words = BROKEN_JOBS[fault]
    ports: dict[str, object] = {"n": {"type": "integer", "min": 1}, "data": {"type": "uri_folder", "optional": True}}
    component(tmp_path / "it.yaml", "run ${{inputs.n}} $[[${{inputs.data}}]] ${{outputs.o}}", ports, ("o",))
    assert run(pipeline(tmp_path / "pipeline.yaml", {"job": {"component": "it.yaml", "inputs": inputs}}), tmp_path) == 1
    assert words in message(tmp_path)


def test_a_cycle_of_steps_is_an_error(tmp_path: Path) -> None:
    component(tmp_path / "it.yaml", "run ${{inputs.i}} ${{outputs.o}}", {"i": FOLDER}, ("o",))
    sources = {"a": "b", "b": "a", "after": "a"}
    jobs = {
        name: {"component": "it.yaml", "inputs": {"i": f"${{{{parent.jobs.{source}.outputs.o}}}}"}}
        for name, source in sources.items()
    }
    assert run(pipeline(tmp_path / "pipeline.yaml", dict(jobs)), tmp_path) == 1
    assert re.search("the jobs (a -> b -> a|b -> a -> b) form a cycle", message(tmp_path))


def test_a_wrong_input_of_the_pipeline_is_reported_before_anything_runs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "two words").mkdir()
    component(tmp_path / "it.yaml", "run ${{inputs.n}} ${{inputs.data}}", {"n": FOLDER, "data": FOLDER})
    wanted = {name: f"${{{{parent.inputs.{name}}}}}" for name in ("n", "data")}
    inputs = {"n": {"type": "uri_folder"}, "data": {"type": "uri_folder", "path": "./two words"}}
    path = pipeline(tmp_path / "pipeline.yaml", {"job": {"component": "it.yaml", "inputs": wanted}}, inputs=inputs)
    assert run(path, tmp_path) == 1
    assert "the pipeline's input n has no value; give one with --input n=…" in message(tmp_path)
    assert "two words contains a character that is special to a shell" in message(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run(path, tmp_path, "--input", "n")
    assert ended.value.code == 2
    assert "expected NAME=VALUE, but got 'n'" in capfd.readouterr().err


def test_a_default_in_an_input_of_a_pipeline_is_refused_as_azure_does(tmp_path: Path) -> None:
    component(tmp_path / "it.yaml", "echo ${{inputs.n}}", {"n": {"type": "integer"}})
    job = {"component": "it.yaml", "inputs": {"n": "${{parent.inputs.n}}"}}
    inputs = {"n": {"path": "x", "default": 5}}
    assert run(pipeline(tmp_path / "pipeline.yaml", {"job": job}, inputs=inputs), tmp_path) == 1
    assert "inputs.n: unknown field 'default' (only the input of a component has one)" in message(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        *("", "[1, 2]", "type: command", "type: pipeline", "a: [", "type: pipeline\njobs: {a: 1}"),
        "type: pipeline\njobs: &a {b: *a}",
        *("a: " + "[" * 1000 + "]" * 1000, "a: " + "1" * 5000),
    ],
)
def test_a_file_that_is_no_pipeline_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "pipeline.yaml").write_text(text)
    assert run(tmp_path / "pipeline.yaml", tmp_path) == 1
    assert error_code(tmp_path / "outputs_of_command") == ("UserError", 2000)
    assert "pipeline.yaml" in message(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        *("yes", "Off", "y", "N", "TRUE", "~", "010", "0o10", "0x1F", "0b11", "1e3", "1.5e3", "1.5e+3", "1_000"),
        *("1:30", "1:30.5", ".5", "-.5", "5.", "09", "+1", ".inf", "null", "nULL", "{<<: {x: 1}, y: 2}", "'on'"),
        *("!!str 3", "!!int 010", "2020-1-1 x", ">-\n  a\n  b", "{a: &x 3, b: *x}", '"\\x41"'),
    ],
)
def test_yaml_is_read_as_pyyaml_reads_it(text: str, tmp_path: Path) -> None:
    (tmp_path / "it.yaml").write_text(f"a: {text}\n")
    assert repr(read_yaml(tmp_path / "it.yaml")) == repr(yaml.safe_load(f"a: {text}\n"))


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("no-such-program --x", "no-such-program"),
        ("A=1 no-such-program", "no-such-program"),
        ("cd .&&echo x 2>&1 > made && no-such-program", "no-such-program"),
        ("> no-such-program", None),
        ("python no-such-program", None),
        ("test -f x && no-such-program", None),
        ("bash install.sh && no-such-program", None),
        ("no-such-program || true", None),
        ("no-such-program; true", None),
        ("no-such-program | cat", None),
        ("! no-such-program", None),
        ("if true; then true; else no-such-program; fi", None),
        ("export PATH=bin && no-such-program", None),
        ("./no-such-program", None),
        ("echo 'x && no-such-program'", None),
        ("$A no-such-program", None),
    ],
)
def test_a_command_whose_program_is_missing_is_refused(text: str, missing: str | None, tmp_path: Path) -> None:
    path = pipeline(tmp_path / "pipeline.yaml", {"job": command(text)})
    assert run(path, tmp_path, "--dry-run") == (0 if missing is None else 1)
    if missing is not None:
        assert f"job job: the command needs {missing}, which this machine does not have" in message(tmp_path)
