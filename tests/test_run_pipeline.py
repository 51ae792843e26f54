"""Pipelines on this machine: the same YAML, the same commands, the same order as in the cloud."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from samples.digits import write_pairs
from tests.making import NETWORK, ROOT, error_code, run_module, write_class_folders
from tests.pipelines import FOLDER, component, message, pipeline, run
from train_pytorch_model.pipelines.command_template import render


@pytest.fixture
def two_steps(tmp_path: Path) -> Path:
    """One step writes a text into a folder, the next adds to it."""
    component(
        tmp_path / "write.yaml",
        "echo ${{inputs.text}} > ${{outputs.made}}/text.txt $[[; echo ${{inputs.more}} >> ${{outputs.made}}/text.txt]]",
        {"text": {"type": "string"}, "more": {"type": "string", "optional": True}},
        ("made",),
    )
    component(
        tmp_path / "count.yaml",
        "cd ${{inputs.given}}; cat text.txt text.txt > ${{outputs.made}}/text.txt",
        {"given": FOLDER},
        ("made",),
    )
    jobs = {
        "second": {
            "component": "count.yaml",
            "inputs": {"given": "${{parent.jobs.first.outputs.made}}"},
            "outputs": {"made": "${{parent.outputs.result}}"},
        },
        "first": {"component": "write.yaml", "inputs": {"text": "${{parent.inputs.text}}"}},
    }
    return pipeline(tmp_path / "pipeline.yaml", jobs, inputs={"text": "hello"}, outputs={"result": FOLDER})


def test_steps_run_in_the_order_of_what_they_take(two_steps: Path, tmp_path: Path) -> None:
    assert run(two_steps, tmp_path) == 0
    assert (tmp_path / "run" / "outputs" / "result" / "text.txt").read_text() == "hello\nhello\n"
    assert (tmp_path / "run" / "steps" / "first" / "outputs" / "made" / "text.txt").read_text() == "hello\n"
    picture = (tmp_path / "run" / "graph.svg").read_text()
    assert picture.startswith("<?xml")


def test_a_value_for_an_input_is_taken_and_an_unknown_one_refused(two_steps: Path, tmp_path: Path) -> None:
    assert run(two_steps, tmp_path, "--input", "text=other") == 0
    assert (tmp_path / "run" / "outputs" / "result" / "text.txt").read_text() == "other\nother\n"
    assert run(two_steps, tmp_path, "--input", "txet=other") == 1
    assert "txet" in message(tmp_path)


def test_what_has_not_changed_is_not_run_again(
    two_steps: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def steps_run() -> set[str]:
        lines = capfd.readouterr().err.splitlines()
        return {line.split(" INFO ")[1].split(":")[0] for line in lines if ": started;" in line}

    assert run(two_steps, tmp_path) == 0
    assert steps_run() == {"first", "second"}
    assert run(two_steps, tmp_path) == 0
    assert steps_run() == set()
    assert run(two_steps, tmp_path, "--input", "text=other") == 0
    assert steps_run() == {"first", "second"}
    (tmp_path / "run" / "steps" / "first" / "outputs" / "made" / "text.txt").write_text("touched")
    assert run(two_steps, tmp_path, "--input", "text=other") == 0
    assert steps_run() >= {"first"}
    assert run(two_steps, tmp_path, "--input", "text=other", "--force") == 0
    assert steps_run() == {"first", "second"}


def test_a_dry_run_shows_the_commands_and_runs_nothing(
    two_steps: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(two_steps, tmp_path, "--dry-run") == 0
    assert not (tmp_path / "run").exists()
    said = capfd.readouterr().err
    assert f"first: echo hello > {tmp_path}/run/steps/first/outputs/made/text.txt" in said
    assert "second: given from first.made" in said


def test_steps_that_do_not_wait_for_each_other_run_side_by_side(tmp_path: Path) -> None:
    # Each waits for the file that the other writes: one after the other they would never end.
    wait = "touch {0}/{1}; for i in $(seq 2400); do test -e {0}/{2} && exit 0; sleep 0.05; done; exit 1"
    component(tmp_path / "a.yaml", wait.format(tmp_path, "a", "b"), {})
    component(tmp_path / "b.yaml", wait.format(tmp_path, "b", "a"), {})
    jobs = {name: {"component": f"{name}.yaml"} for name in ("a", "b")}
    assert run(pipeline(tmp_path / "pipeline.yaml", jobs), tmp_path) == 0


def test_a_step_that_fails_ends_the_others_with_its_own_named_error(tmp_path: Path) -> None:
    report = {"Exception": {"ErrorId": "InvalidDataset", "ErrorCode": 18, "Message": "InvalidDataset: it is broken."}}
    write = (
        f"mkdir -p outputs/module_statistics; echo '{json.dumps(report)}' > outputs/module_statistics/error_info.json"
    )
    component(tmp_path / "fails.yaml", f"sleep 0.5; {write}; exit 1", {})
    component(tmp_path / "lasts.yaml", "sleep 60", {})
    component(tmp_path / "never.yaml", "touch ${{inputs.given}}/never", {"given": FOLDER})
    component(tmp_path / "makes.yaml", "sleep 60; true ${{outputs.made}}", {}, ("made",))
    jobs = {
        "fails": {"component": "fails.yaml"},
        "lasts": {"component": "lasts.yaml"},
        "makes": {"component": "makes.yaml"},
        "never": {"component": "never.yaml", "inputs": {"given": "${{parent.jobs.makes.outputs.made}}"}},
    }
    started = time.monotonic()
    assert run(pipeline(tmp_path / "pipeline.yaml", jobs), tmp_path) == 1
    assert time.monotonic() - started < 50
    assert error_code(tmp_path / "outputs_of_command") == ("InvalidDataset", 18)
    assert "Step 'fails': it is broken." in message(tmp_path)
    assert "log.txt" in message(tmp_path)


def test_a_step_that_ends_without_a_report_shows_the_end_of_its_log(tmp_path: Path) -> None:
    component(tmp_path / "fails.yaml", "echo first; echo the reason >&2; exit 7", {})
    assert run(pipeline(tmp_path / "pipeline.yaml", {"fails": {"component": "fails.yaml"}}), tmp_path) == 1
    assert "exit code 7: the reason" in message(tmp_path)


def test_a_job_finds_its_variables_and_its_code_alone(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "here.txt").write_text("snapshot")
    command = "to=${{outputs.made}}; env > $to/env_$RANK.txt; cat here.txt > $to/code_$RANK.txt; echo ${{inputs.n}}"
    component(
        tmp_path / "distributed.yaml",
        command,
        {"n": {"type": "integer", "default": 3}},
        ("made",),
        code="./code",
        distribution={"type": "pytorch", "process_count_per_instance": 2},
        resources={"instance_count": 2},
    )
    jobs = {"job": {"component": "distributed.yaml", "environment_variables": {"MINE": "1"}}}
    assert run(pipeline(tmp_path / "pipeline.yaml", jobs), tmp_path) == 0
    made = tmp_path / "run" / "steps" / "job" / "outputs" / "made"
    variables = [
        dict(line.split("=", 1) for line in (made / f"env_{rank}.txt").read_text().splitlines() if "=" in line)
        for rank in range(4)
    ]
    assert [(v["RANK"], v["LOCAL_RANK"], v["NODE_RANK"]) for v in variables] == [
        ("0", "0", "0"),
        ("1", "1", "0"),
        ("2", "0", "1"),
        ("3", "1", "1"),
    ]
    assert {(v["WORLD_SIZE"], v["MASTER_ADDR"], v["MINE"], v["AZURE_ML_INPUT_n"]) for v in variables} == {
        ("4", "127.0.0.1", "1", "3")
    }
    assert len({v["MASTER_PORT"] for v in variables}) == 1
    assert variables[0]["AZURE_ML_OUTPUT_made"] == str(made)
    assert (made / "code_3.txt").read_text() == "snapshot"


def test_a_template_is_filled_as_azure_fills_it() -> None:
    command = "run --a ${{inputs.a}} $[[--b ${{inputs.b}}]] $[[--c ${{inputs.c}}]]\n  --out ${{outputs.o}}"
    assert shlex.split(render(command, {"a": "1", "c": "x"}, {"o": "/o"})) == [
        "run",
        "--a",
        "1",
        "--c",
        "x",
        "--out",
        "/o",
    ]
    assert render("echo '${{inputs.a}}  b'\necho c", {"a": "1"}, {}) == "echo '1  b'\necho c"


def copied_project(path: Path) -> Path:
    """A copy of the project apart, so that nothing but what the files name can be found."""
    for name in ("components", "src", "samples", "environment"):
        shutil.copytree(ROOT / name, path / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "component.yaml", path)
    return path


def test_the_sample_runs_from_images_to_an_evaluation_in_its_own_snapshot(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "train", per_class=8, size=64)
    write_class_folders(tmp_path / "valid", per_class=4, size=64, seed=1)
    finished = run_module(
        "run-pipeline",
        copied_project(tmp_path / "project") / "samples" / "pipeline.yaml",
        "--output-path",
        tmp_path / "run",
        *("--input", f"train_images={tmp_path / 'train'}", "--input", f"valid_images={tmp_path / 'valid'}"),
        *("--input", "epochs=2", "--input", "model_name=squeezenet1_1"),
        cwd=tmp_path,
    )
    assert finished.returncode == 0, finished.stderr
    report = json.loads((tmp_path / "run" / "outputs" / "evaluation" / "metrics.json").read_text())
    assert report["num_images"] == 12
    metrics = tmp_path / "run" / "steps" / "train" / "work" / "outputs" / "metrics.jsonl"
    best = max(json.loads(line)["top1_acc"] for line in metrics.read_text().splitlines())
    assert report["accuracy"] == best
    assert os.listdir(tmp_path / "run" / "steps" / "train" / "work")


def test_the_sample_of_several_labels_runs_from_images_to_an_evaluation(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs", range(100))
    finished = run_module(
        "run-pipeline",
        copied_project(tmp_path / "project") / "samples" / "pipeline_multilabel.yaml",
        *("--output-path", tmp_path / "run", "--input", f"images={tmp_path / 'pairs'}"),
        *("--input", "epochs=2", "--input", f"model_name={NETWORK}"),
        cwd=tmp_path,
    )
    assert finished.returncode == 0, finished.stderr
    outputs = tmp_path / "run" / "outputs"
    report = json.loads((outputs / "evaluation" / "metrics.json").read_text())
    metrics = tmp_path / "run" / "steps" / "train" / "work" / "outputs" / "metrics.jsonl"
    best = max(json.loads(line)["average_precision"] for line in metrics.read_text().splitlines())
    assert report["average_precision"] == pytest.approx(best)
    # Split has put images of every digit into both parts.
    with (tmp_path / "pairs" / "labels.csv").open(newline="") as file:
        given = Counter(label for row in csv.DictReader(file) for label in row["labels"].split(";") if label)
    support = {label: values["support"] for label, values in report["per_label"].items()}
    assert set(support) == set(given) == {str(digit) for digit in range(10)}
    assert all(0 < support[label] < count for label, count in given.items())


def test_only_a_folder_of_an_earlier_run_is_written_into(two_steps: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / "outputs" / "result").mkdir(parents=True)
    (tmp_path / "run" / "outputs" / "result" / "mine.txt").write_text("mine")
    assert run(two_steps, tmp_path) == 1
    assert "not from an earlier run" in message(tmp_path)
    assert (tmp_path / "run" / "outputs" / "result" / "mine.txt").read_text() == "mine"


def test_an_input_in_the_folder_of_the_run_is_refused(tmp_path: Path) -> None:
    component(tmp_path / "it.yaml", "cat ${{inputs.given}}/x > ${{outputs.made}}/x", {"given": FOLDER}, ("made",))
    jobs = {"job": {"component": "it.yaml", "inputs": {"given": {"type": "uri_folder", "path": "./run/outputs/made"}}}}
    (tmp_path / "run" / "outputs" / "made").mkdir(parents=True)
    assert run(pipeline(tmp_path / "pipeline.yaml", jobs), tmp_path) == 1
    assert "Give another --output-path" in message(tmp_path)


def test_code_around_the_run_is_copied_without_it_and_any_change_of_it_counts(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data.json").write_text("first")
    (tmp_path / ".amlignore").write_text("left_out/\n")
    (tmp_path / "left_out").mkdir()
    (tmp_path / "left_out" / "big.bin").write_text("x")
    command = "cp data.json ${{outputs.made}}; ls > ${{outputs.made}}/names"
    component(tmp_path / "it.yaml", command, {}, ("made",), code=".")
    path = pipeline(tmp_path / "pipeline.yaml", {"job": {"component": "it.yaml"}})
    made = tmp_path / "run" / "steps" / "job" / "outputs" / "made"
    for content in ("first", "second"):
        (tmp_path / "data.json").write_text(content)
        assert run(path, tmp_path) == 0
        assert (made / "data.json").read_text() == content
    assert not {"run", "left_out"} & set((made / "names").read_text().split())


def test_a_signal_ends_the_steps_too(tmp_path: Path) -> None:
    component(tmp_path / "lasts.yaml", f"echo $$ > {tmp_path}/pid; sleep 300", {})
    path = pipeline(tmp_path / "pipeline.yaml", {"lasts": {"component": "lasts.yaml"}})
    command = [sys.executable, "-m", "train_pytorch_model", "run-pipeline", path, "--output-path", tmp_path / "run"]
    with subprocess.Popen([str(part) for part in command], cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text().strip():
            assert process.poll() is None
            time.sleep(0.05)
        process.terminate()
        assert process.wait(30) == 1
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_step_runs_again_when_a_file_that_it_takes_has_changed(tmp_path: Path) -> None:
    component(tmp_path / "it.yaml", "cat ${{inputs.f}} >> ${{outputs.o}}/f", {"f": {"type": "uri_file"}}, ("o",))
    job = {"component": "it.yaml", "inputs": {"f": {"type": "uri_file", "path": "./data.txt"}}}
    path = pipeline(tmp_path / "pipeline.yaml", {"job": job})
    (tmp_path / "data.txt").write_text("first")
    made = tmp_path / "run" / "steps" / "job" / "outputs" / "o" / "f"
    for text, runs_again in (("first", True), ("first", False), ("second", True)):
        if (tmp_path / "data.txt").read_text() != text:
            (tmp_path / "data.txt").write_text(text)
        before = made.stat().st_mtime_ns if made.exists() else None
        assert run(path, tmp_path) == 0
        assert made.read_text() == text
        assert (made.stat().st_mtime_ns != before) == runs_again


def test_a_folder_that_another_run_is_at_work_in_is_left_alone(two_steps: Path, tmp_path: Path) -> None:
    assert run(two_steps, tmp_path) == 0
    with (tmp_path / "run" / ".pipeline-run").open("a") as mark:
        fcntl.flock(mark, fcntl.LOCK_EX)
        assert run(two_steps, tmp_path, "--force") == 1
    assert "Another run is using" in message(tmp_path)
    assert run(two_steps, tmp_path, "--force") == 0


def test_a_pipeline_runs_in_a_thread_too(two_steps: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(run, two_steps, tmp_path).result() == 0
    assert (tmp_path / "run" / "outputs" / "result" / "text.txt").read_text() == "hello\nhello\n"


def test_code_that_cannot_be_copied_fails_its_step_and_ends_the_others(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "gone.py").symlink_to(tmp_path / "nowhere.py")
    component(tmp_path / "fails.yaml", "true", {}, code="./code")
    component(tmp_path / "lasts.yaml", "sleep 60", {})
    jobs = {name: {"component": f"{name}.yaml"} for name in ("lasts", "fails")}
    started = time.monotonic()
    assert run(pipeline(tmp_path / "pipeline.yaml", jobs), tmp_path) == 1
    assert time.monotonic() - started < 50
    assert error_code(tmp_path / "outputs_of_command") == ("UserError", 2000)
    assert "gone.py" in message(tmp_path)


def test_the_rules_of_pipelines_do_not_change_how_other_yaml_is_read() -> None:
    code = (
        "import train_pytorch_model.pipelines.yaml_files\n"
        "from ruamel.yaml import YAML\n"
        "print(YAML(typ='safe', pure=True).load('a: 2026-11-26T06:18:51.227174+0000'))"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.stdout == "{'a': '2026-11-26T06:18:51.227174+0000'}\n", finished.stderr
