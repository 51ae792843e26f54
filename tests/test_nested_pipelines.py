"""Pipelines whose jobs are pipelines: what azure-ai-ml takes and refuses, and what their steps write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.pipelines import FOLDER, command, component, message, pipeline, run, write_yaml

INPUTS: dict[str, object] = {
    "word": {"type": "string"},
    "times": {"type": "integer", "default": 2, "max": 5},
    "more": {"type": "uri_folder", "optional": True},
}


def write_repeat(folder: Path) -> None:
    """Write a pipeline component that writes a word several times, and then that text twice, and its command."""
    text = "for i in $(seq ${{inputs.times}}); do echo ${{inputs.word}}; done $[[ < ${{inputs.more}}/x ]]"
    ports = {"word": {"type": "string"}, "times": {"type": "integer"}, "more": {"type": "uri_folder", "optional": True}}
    component(folder / "parts" / "say.yaml", f"({text}) > ${{{{outputs.out}}}}/text", ports, ("out",))
    jobs = {
        "say": {
            "component": "./say.yaml",
            "inputs": {name: f"${{{{parent.inputs.{name}}}}}" for name in ports},
        },
        "twice": command(
            "cat ${{inputs.given}}/text ${{inputs.given}}/text > ${{outputs.all}}/text; echo ${{inputs.note}}",
            inputs={"given": "${{parent.jobs.say.outputs.out}}", "note": "said ${{parent.inputs.word}}"},
            outputs={"all": "${{parent.outputs.result}}"},
        ),
    }
    document = {"type": "pipeline", "name": "repeat", "inputs": INPUTS, "outputs": {"result": FOLDER}, "jobs": jobs}
    write_yaml(folder / "parts" / "repeat.yaml", document)


def node(**fields: object) -> dict[str, Any]:
    """A job that is the pipeline component of `write_repeat`."""
    return {"type": "pipeline", "component": "./parts/repeat.yaml", **fields}


def test_the_jobs_of_a_pipeline_component_are_steps_of_the_pipeline(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_repeat(tmp_path)
    jobs = {
        "short": node(inputs={"word": "${{parent.inputs.word}}", "times": 1}, outputs={"result": None}),
        "long": node(inputs={"word": "x-${{parent.inputs.word}}"}, outputs={"result": "${{parent.outputs.all}}"}),
        "compare": command(
            "cat ${{inputs.a}}/text ${{inputs.b}}/text",
            inputs={
                "a": "${{parent.jobs.short.outputs.result}}",
                "b": {"type": "uri_folder", "path": "${{parent.jobs.long.outputs.result}}"},
            },
        ),
    }
    path = pipeline(tmp_path / "p.yaml", jobs, inputs={"word": "hello"}, outputs={"all": FOLDER})
    assert run(path, tmp_path, "--input", "word=hey") == 0
    assert (tmp_path / "run" / "outputs" / "all" / "text").read_text() == "x-hey\n" * 4
    assert (tmp_path / "run" / "steps" / "compare" / "log.txt").read_text() == "hey\n" * 2 + "x-hey\n" * 4
    assert (tmp_path / "run" / "steps" / "long.twice" / "log.txt").read_text() == "said x-hey\n"
    said = capfd.readouterr().err
    assert "compare: a from short.twice.all, b from long.twice.all" in said
    assert run(path, tmp_path, "--input", "word=hey") == 0
    assert "started;" not in capfd.readouterr().err


def test_a_pipeline_component_can_contain_another_one(tmp_path: Path) -> None:
    write_repeat(tmp_path)
    (tmp_path / "parts" / "data").mkdir()
    (tmp_path / "parts" / "data" / "x").write_text("")
    inner = {
        **node(component="./repeat.yaml", outputs={"result": {"path": "${{parent.outputs.kept}}", "mode": "upload"}}),
        "inputs": {
            "word": "${{parent.inputs.name}}",
            "times": "${{parent.inputs.number}}",
            # A path is relative to the file that it is in.
            "more": {"type": "uri_folder", "path": "./data"},
        },
    }
    document = {
        "type": "pipeline",
        "inputs": {"name": {"type": "string", "default": "default"}, "number": {"type": "integer"}},
        "outputs": {"kept": FOLDER},
        "jobs": {"inner": inner},
    }
    write_yaml(tmp_path / "parts" / "outer.yaml", document)
    jobs = {
        # Without a type, the component decides.
        "outer": {
            "component": "./parts/outer.yaml",
            "inputs": {"number": "${{parent.inputs.k}}"},
            "outputs": {"kept": "${{parent.outputs.all}}"},
        },
        "after": command("cat ${{inputs.i}}/text", inputs={"i": "${{parent.jobs.outer.outputs.kept}}"}),
    }
    path = pipeline(tmp_path / "p.yaml", jobs, inputs={"k": 3}, outputs={"all": FOLDER})
    assert run(path, tmp_path) == 0
    assert (tmp_path / "run" / "outputs" / "all" / "text").read_text() == "default\n" * 6
    assert (tmp_path / "run" / "steps" / "after" / "log.txt").read_text() == "default\n" * 6
    assert (tmp_path / "run" / "steps" / "outer.inner.say" / "log.txt").is_file()


def test_a_pipeline_can_be_a_component_and_its_inputs(tmp_path: Path) -> None:
    write_repeat(tmp_path)
    document = {
        "type": "pipeline",
        "component": "./parts/repeat.yaml",
        "inputs": {"word": "hello"},
        "outputs": {"result": {"type": "uri_folder", "mode": "rw_mount"}},
    }
    path = write_yaml(tmp_path / "p.yaml", document)
    assert run(path, tmp_path) == 0
    assert (tmp_path / "run" / "outputs" / "result" / "text").read_text() == "hello\n" * 4


def test_a_pipeline_component_that_is_not_deterministic_runs_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_repeat(tmp_path)
    file = tmp_path / "parts" / "repeat.yaml"
    file.write_text(file.read_text() + "is_deterministic: no\n")
    path = pipeline(tmp_path / "p.yaml", {"a": node(inputs={"word": "x"})})
    for _ in range(2):
        assert run(path, tmp_path) == 0
        said = capfd.readouterr().err
        assert "a.say: started;" in said
        assert "a.twice: started;" in said


def test_an_input_that_a_pipeline_component_does_not_have_is_ignored(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_repeat(tmp_path)
    path = pipeline(tmp_path / "p.yaml", {"a": node(inputs={"word": "x", "tims": 1}, settings={})})
    assert run(path, tmp_path, "--dry-run") == 0
    said = capfd.readouterr().err
    assert "job a: the component has no input tims; it is ignored, as in Azure" in said
    assert "job a: settings of a pipeline component is not used" in said


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "a missing input": (node(inputs={}), "job a: the required input word has no value"),
    "a wrong value": (node(inputs={"word": "x", "times": "many"}), "job a: input times: 'many' is not of type integer"),
    "a value out of range": (node(inputs={"word": "x", "times": 9}), "job a: input times: 9 is above max 5"),
    "a number for a folder": (node(inputs={"word": "x", "more": 3}), "job a: input more: expected a folder, but got 3"),
    "no output of that name": (
        node(inputs={"word": "x"}, outputs={"other": "${{parent.outputs.all}}"}),
        "repeat.yaml writes the output other",
    ),
    "an output that is not declared": (
        node(inputs={"word": "x"}, outputs={"result": "${{parent.outputs.none}}"}),
        "output result is bound to the pipeline's output none, which is not declared",
    ),
    "a registered component": (node(component="azureml:repeat@latest"), "azureml:repeat@latest is a registered comp"),
    "a component in the job": (node(component={"type": "pipeline"}), "component is {'type': 'pipeline'}, but must be"),
    "no component": ({"type": "pipeline", "jobs": {}}, "job a: the field component is missing"),
    "a command": (node(component="./parts/say.yaml"), "say.yaml: it is not a component of type pipeline"),
    "a missing file": (node(component="./nowhere.yaml"), "nowhere.yaml cannot be read"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_pipeline_component_is_reported_before_anything_runs(fault: str, tmp_path: Path) -> None:
    write_repeat(tmp_path)
    job, words = FAULTS[fault]
    assert run(pipeline(tmp_path / "p.yaml", {"a": job}, outputs={"all": FOLDER}), tmp_path) == 1
    assert words in message(tmp_path)
    assert not (tmp_path / "run").exists()


def test_an_output_that_no_job_of_a_pipeline_component_writes_cannot_be_taken(tmp_path: Path) -> None:
    jobs = {"inner": command("true")}
    write_yaml(tmp_path / "parts" / "repeat.yaml", {"type": "pipeline", "outputs": {"result": FOLDER}, "jobs": jobs})
    taken = command("ls ${{inputs.i}}", inputs={"i": "${{parent.jobs.a.outputs.result}}"})
    assert run(pipeline(tmp_path / "p.yaml", {"a": node(), "b": taken}), tmp_path) == 1
    assert "job b: input i: no job of a writes parent.jobs.a.outputs.result" in message(tmp_path)


def test_jobs_that_wait_for_each_other_through_a_pipeline_component_are_a_cycle(tmp_path: Path) -> None:
    write_repeat(tmp_path)
    jobs = {
        "a": node(inputs={"word": "x", "more": "${{parent.jobs.b.outputs.o}}"}),
        "b": command(
            "cat ${{inputs.i}}/text > ${{outputs.o}}/x",
            inputs={"i": "${{parent.jobs.a.outputs.result}}"},
            outputs={"o": None},
        ),
    }
    assert run(pipeline(tmp_path / "p.yaml", jobs), tmp_path) == 1
    assert "form a cycle" in message(tmp_path)


def test_two_jobs_of_a_pipeline_component_cannot_write_one_output(tmp_path: Path) -> None:
    jobs = {name: command("true", outputs={"o": "${{parent.outputs.result}}"}) for name in ("x", "y")}
    write_yaml(tmp_path / "parts" / "repeat.yaml", {"type": "pipeline", "outputs": {"result": FOLDER}, "jobs": jobs})
    assert run(pipeline(tmp_path / "p.yaml", {"a": node()}), tmp_path) == 1
    assert "output result is bound to outputs of several jobs: a.x, a.y" in message(tmp_path)
