"""What a step of a pipeline finds: values, variables, files, code; and what ends it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipelines import FOLDER, command, component, message, pipeline, run, write_yaml


def test_text_around_an_input_is_kept(tmp_path: Path) -> None:
    jobs: dict[str, object] = {
        "a": command(
            'echo "${{inputs.word}}" > ${{outputs.o}}/w.txt',
            inputs={"word": "run-${{parent.inputs.name}}-k${{ parent.inputs.k }}"},
            outputs={"o": "${{parent.outputs.all}}"},
        )
    }
    path = pipeline(tmp_path / "p.yaml", jobs, inputs={"name": "birds", "k": 3}, outputs={"all": FOLDER})
    assert run(path, tmp_path, "--input", "k=5") == 0
    assert (tmp_path / "run" / "outputs" / "all" / "w.txt").read_text() == "run-birds-k5\n"


def test_variables_of_a_component_and_a_job_reach_the_command_with_their_values(tmp_path: Path) -> None:
    component(
        tmp_path / "it.yaml",
        'echo "$A $B $C $D" > ${{outputs.o}}/w.txt',
        {"word": {"type": "string", "default": "none"}},
        ("o",),
        environment_variables={"A": "component", "B": "${{inputs.word}}"},
    )
    variables = {"A": "job", "C": "x-${{parent.inputs.name}}", "D": True, "E": None}
    jobs: dict[str, object] = {"a": {"component": "it.yaml", "environment_variables": variables}}
    assert run(pipeline(tmp_path / "p.yaml", jobs, inputs={"name": "birds"}), tmp_path) == 0
    assert (tmp_path / "run" / "steps" / "a" / "outputs" / "o" / "w.txt").read_text() == "job none x-birds True\n"


def test_an_output_of_type_uri_file_is_a_file_that_another_step_reads(tmp_path: Path) -> None:
    component(tmp_path / "to.yaml", "echo hello > ${{outputs.table}}", {}, outputs={"table": {"type": "uri_file"}})
    component(
        tmp_path / "from.yaml",
        "cat ${{inputs.table}} ${{inputs.table}} > ${{outputs.twice}}",
        {"table": {"type": "uri_file"}},
        outputs={"twice": {"type": "uri_file"}},
    )
    jobs: dict[str, object] = {
        "to": {"component": "to.yaml"},
        "from": {
            "component": "from.yaml",
            "inputs": {"table": "${{parent.jobs.to.outputs.table}}"},
            "outputs": {"twice": "${{parent.outputs.all}}"},
        },
    }
    path = pipeline(tmp_path / "p.yaml", jobs, outputs={"all": {"type": "uri_file"}})
    for flags in ((), (), ("--force",)):
        assert run(path, tmp_path, *flags) == 0
        assert (tmp_path / "run" / "outputs" / "all").read_text() == "hello\nhello\n"


def test_a_file_that_is_not_written_is_an_error_where_another_step_takes_it(tmp_path: Path) -> None:
    jobs: dict[str, object] = {
        "to": command("true", outputs={"table": {"type": "uri_file"}}),
        "from": command("cat ${{inputs.t}}", inputs={"t": "${{parent.jobs.to.outputs.table}}"}),
    }
    assert run(pipeline(tmp_path / "p.yaml", jobs), tmp_path) == 1
    assert "Step 'to': the command did not write a file to its output table of type uri_file" in message(tmp_path)
    del jobs["from"]
    assert run(pipeline(tmp_path / "p.yaml", jobs), tmp_path) == 0


@pytest.mark.parametrize(("made", "taken"), [("uri_file", "uri_folder"), ("uri_folder", "uri_file")])
def test_a_file_is_no_folder(made: str, taken: str, tmp_path: Path) -> None:
    component(tmp_path / "to.yaml", "true ${{outputs.o}}", {}, outputs={"o": {"type": made}})
    component(tmp_path / "from.yaml", "true ${{inputs.i}}", {"i": {"type": taken}})
    inputs = {"i": "${{parent.jobs.to.outputs.o}}"}
    jobs: dict[str, object] = {"to": {"component": "to.yaml"}, "from": {"component": "from.yaml", "inputs": inputs}}
    assert run(pipeline(tmp_path / "p.yaml", jobs), tmp_path) == 1
    assert "job from: input i: " in message(tmp_path)


@pytest.mark.parametrize("kind", ["mltable", "mlflow_model", "custom_model", "triton_model"])
def test_models_and_tables_are_folders(kind: str, tmp_path: Path) -> None:
    jobs: dict[str, object] = {
        "to": command("echo hello > ${{outputs.o}}/it", outputs={"o": {"type": kind}}),
        "from": command("cat ${{inputs.i}}/it", inputs={"i": "${{parent.jobs.to.outputs.o}}"}),
    }
    assert run(pipeline(tmp_path / "p.yaml", jobs), tmp_path) == 0
    assert (tmp_path / "run" / "steps" / "from" / "log.txt").read_text() == "hello\n"


def test_what_a_job_writes_to_its_outputs_is_its_output_artifacts(tmp_path: Path) -> None:
    jobs: dict[str, object] = {
        "to": command("echo hello > ./outputs/it; echo > logs/x", outputs={"artifacts": None}),
        "from": command("cat ${{inputs.i}}/outputs/it", inputs={"i": "${{parent.jobs.to.outputs.artifacts}}"}),
    }
    assert run(pipeline(tmp_path / "p.yaml", jobs), tmp_path) == 0
    assert (tmp_path / "run" / "steps" / "from" / "log.txt").read_text() == "hello\n"


def test_files_beside_the_code_are_copied_and_a_change_of_them_counts(tmp_path: Path) -> None:
    for name in ("code/main.sh", "shared/a.txt", "single.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("cat shared/a.txt single.txt\n" if name == "code/main.sh" else f"{name}\n")
    component(tmp_path / "it.yaml", "bash main.sh", {}, code="code", additional_includes=["shared", "./single.txt"])
    path = pipeline(tmp_path / "p.yaml", {"a": {"component": "it.yaml"}})
    for text in ("single.txt\n", "changed\n"):
        (tmp_path / "single.txt").write_text(text)
        assert run(path, tmp_path) == 0
        assert (tmp_path / "run" / "steps" / "a" / "log.txt").read_text() == f"shared/a.txt\n{text}"


def test_code_behind_links_is_copied(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").write_text("linked\n")
    (tmp_path / "code" / "folder").symlink_to("../real")
    (tmp_path / "real" / "again").symlink_to("../code")
    component(tmp_path / "it.yaml", "cat folder/a.txt", {}, code="code")
    assert run(pipeline(tmp_path / "p.yaml", {"a": {"component": "it.yaml"}}), tmp_path) == 0
    assert (tmp_path / "run" / "steps" / "a" / "log.txt").read_text() == "linked\n"


def test_a_distribution_and_a_number_of_nodes_of_a_job_count(tmp_path: Path) -> None:
    component(tmp_path / "it.yaml", "echo $RANK/$WORLD_SIZE > ${{outputs.o}}/$RANK", {}, ("o",))
    distribution = {"type": "PyTorch", "process_count_per_instance": "${{parent.inputs.processes}}"}
    node = {"component": "it.yaml", "distribution": distribution, "resources": {"instance_count": 2}}
    path = pipeline(tmp_path / "p.yaml", {"a": node}, inputs={"processes": 2})
    assert run(path, tmp_path) == 0
    made = tmp_path / "run" / "steps" / "a" / "outputs" / "o"
    assert sorted(file.read_text() for file in made.iterdir()) == ["0/4\n", "1/4\n", "2/4\n", "3/4\n"]


def test_a_step_that_runs_longer_than_its_limit_is_stopped(tmp_path: Path) -> None:
    path = pipeline(tmp_path / "p.yaml", {"a": command("sleep 60", limits={"timeout": 1})})
    assert run(path, tmp_path) == 1
    assert "it ran longer than limits.timeout, 1 seconds, and was stopped" in message(tmp_path)


def test_what_is_not_used_is_logged(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    component(tmp_path / "it.yaml", "true", {}, name="a-b", enviroment="x")
    job = {"component": "it.yaml", "compute": "azureml:gpu", "enviroment_variables": {"A": "b"}}
    path = pipeline(tmp_path / "p.yaml", {"a": job}, settings={"continue_on_step_failure": True})
    assert run(path, tmp_path, "--dry-run") == 0
    said = capfd.readouterr().err
    assert "Not used on this machine: compute." in said
    assert "the field enviroment_variables is unknown and ignored" in said
    assert "the field enviroment is unknown and ignored" in said
    assert "here, a job that fails stops the others" in said


def test_the_environment_is_that_of_this_python_and_what_it_lacks_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    packages = [
        "numpy>=1",
        "no-such-package[extra]==1.0",
        "no_such_other",
        "-r requirements.txt",
        "git+https://x/y.git",
    ]
    conda = {"name": "e", "dependencies": ["python=3.8", "no-such-conda-package", {"pip": packages}]}
    write_yaml(tmp_path / "environments" / "conda.yaml", conda)
    write_yaml(tmp_path / "environments" / "it.yaml", {"image": "x", "conda_file": "./conda.yaml"})
    component(tmp_path / "it.yaml", "true", {}, environment={"image": "x", "conda_file": "environments/conda.yaml"})
    jobs: dict[str, object] = {
        "a": {"component": "it.yaml"},
        "b": command("true") | {"environment": "file:environments/it.yaml"},
        "c": command("true") | {"environment": {"image": "x"}},
    }
    assert run(pipeline(tmp_path / "p.yaml", jobs), tmp_path) == 0
    said = capfd.readouterr().err
    assert "WARNING No environment is built: the commands run in that of this Python, 3." in said
    text = "its conda file names packages that this Python does not have: no-such-package, no_such_other"
    assert [job for job in "abc" if f"job {job}: {text}" in said] == ["a", "b"]


@pytest.mark.parametrize("flag", ["--dry-run", "--force"])
def test_a_folder_that_cannot_be_used_is_an_error_of_the_dry_run_too(flag: str, tmp_path: Path) -> None:
    component(tmp_path / "it.yaml", "true ${{outputs.o}}", {}, ("o",))
    path = pipeline(tmp_path / "p.yaml", {"a": {"component": "it.yaml"}})
    spaced = tmp_path / "two words"
    spaced.mkdir()
    assert run(path, spaced, flag) == 1
    assert "contains a character that is special to a shell" in message(spaced)
    (tmp_path / "run").write_text("a file")
    assert run(path, tmp_path, flag) == 1
    assert "run is a file. Give another --output-path." in message(tmp_path)
