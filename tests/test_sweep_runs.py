"""Sweeps on this machine: their trials, what ends them, what is kept after a kill, and their output."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from tests.making import NETWORK, ROOT, initialize, write_image_directory
from tests.pipelines import FOLDER, command, component, message, pipeline, run, write_yaml
from tests.sweeps import LOG, METRIC, choice, column, logging, sweep, table, uniform, write_sweep
from train_pytorch_model.pipelines import sweep_results
from train_pytorch_model.pipelines.early_termination import Objective
from train_pytorch_model.pipelines.pipeline_files import read_pipeline
from train_pytorch_model.pipelines.trials import Trial
from train_pytorch_model.pipelines.trials_plot import draw_trials
from train_pytorch_model.tracking import Logged

WRITE = 'echo "${{inputs.x}} ${{inputs.name}}" > ${{outputs.o}}/m.txt'


def test_the_output_of_the_best_trial_is_the_output_of_the_step(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    job = sweep(
        "./trial.yaml",
        {"x": choice(3, 1, 2), "name": choice("a", "b")},
        trials=100,
        sampling_algorithm="grid",
        outputs={"o": "${{parent.outputs.best}}"},
    )
    path = write_sweep(tmp_path, f"{logging('9', '${{inputs.x}}')}; {WRITE}", job, outputs={"best": FOLDER})
    assert run(path, tmp_path) == 0
    assert (tmp_path / "run" / "outputs" / "best" / "m.txt").read_text() == "1 a\n"
    rows = table(tmp_path)
    # The values of the last name in the file change fastest.
    assert [row["search_space.name"] + row["search_space.x"] for row in rows] == ["a3", "a1", "a2", "b3", "b1", "b2"]
    assert [row["is_best"] for row in rows] == ["false", "true", "false", "false", "false", "false"]
    assert {row["state"] for row in rows} == {"completed"}
    said = capfd.readouterr().err
    assert "tune: the best trial is 2, Valid loss 1: name a, x 1" in said
    with Image.open(tmp_path / "run" / "steps" / "tune" / "trials.png") as picture:
        assert picture.format == "PNG"
    assert run(path, tmp_path) == 0
    assert "tune: unchanged since its last successful run" in capfd.readouterr().err


def test_the_highest_value_is_the_best_where_the_goal_is_to_maximize(tmp_path: Path) -> None:
    goal = {"goal": "Maximize", "primary_metric": METRIC}
    job = sweep("./trial.yaml", {"x": choice(1, 5, 3)}, sampling_algorithm="grid", objective=goal)
    assert run(write_sweep(tmp_path, f"{logging('${{inputs.x}}', '0')}; {WRITE}", job), tmp_path) == 0
    assert column(tmp_path, "is_best") == ["false", "true", "false"]
    assert column(tmp_path, f"best {METRIC}") == ["1.0", "5.0", "3.0"]
    assert column(tmp_path, f"last {METRIC}") == ["0.0", "0.0", "0.0"]
    assert (tmp_path / "run" / "steps" / "tune" / "outputs" / "o" / "m.txt").read_text() == "5 none\n"


def test_a_trial_in_the_job_takes_the_search_space_and_its_undeclared_inputs(tmp_path: Path) -> None:
    text = logging("${{search_space.x}}") + '; echo "$AZUREML_SWEEP_x ${{inputs.word}}" > ${{outputs.o}}/m.txt'
    trial = {"command": text, "environment": "azureml:any:1"}
    job = sweep(trial, {"x": choice(2, 1)}, sampling_algorithm="grid", inputs={"word": "hello"}, outputs={"o": None})
    after = command("cat ${{inputs.i}}/m.txt", inputs={"i": {**FOLDER, "path": "${{parent.jobs.tune.outputs.o}}"}})
    assert run(pipeline(tmp_path / "p.yaml", {"tune": job, "after": after}), tmp_path) == 0
    assert (tmp_path / "run" / "steps" / "after" / "log.txt").read_text() == "1 hello\n"


def test_optional_parts_of_a_trial_contain_the_search_space(tmp_path: Path) -> None:
    text = f"{logging('${{search_space.x}}')}; echo $[[--a ${{{{inputs.a}}}}]] $[[--x ${{{{search_space.x}}}}]]"
    trial = {"command": text, "environment": "azureml:any:1", "inputs": {"a": {"type": "string", "optional": True}}}
    job = sweep(trial, {"x": choice(2)}, sampling_algorithm="grid")
    assert run(pipeline(tmp_path / "p.yaml", {"tune": job}), tmp_path) == 0
    assert (tmp_path / "run" / "steps" / "tune" / "trials" / "1" / "log.txt").read_text() == "--x 2\n"


def test_a_script_that_logs_with_mlflow_is_a_trial(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "it.py").write_text(
        "import sys, mlflow\nwith mlflow.start_run():\n"
        "    for step in range(3):\n        mlflow.log_metric('Valid loss', float(sys.argv[1]) - step, step=step)\n"
    )
    trial = {"command": "python it.py ${{search_space.x}}", "code": "./code", "environment": "azureml:any:1"}
    job = sweep(trial, {"x": choice(2, 1)}, sampling_algorithm="grid", limits={"max_total_trials": 1})
    assert run(pipeline(tmp_path / "p.yaml", {"tune": job}), tmp_path) == 0
    assert [(row["best Valid loss"], row["values"]) for row in table(tmp_path)] == [("0.0", "3")]


@pytest.mark.parametrize(
    ("policy", "ended"),
    [
        ({"type": "bandit", "slack_amount": 1, "delay_evaluation": 2}, [False, True]),
        pytest.param({"type": "median_stopping", "delay_evaluation": 2}, [False, True], marks=pytest.mark.thorough),
        pytest.param(
            {"type": "truncation_selection", "truncation_percentage": 50, "delay_evaluation": 2},
            [False, True],
            marks=pytest.mark.thorough,
        ),
        pytest.param(None, [False, False], marks=pytest.mark.thorough),
    ],
)
def test_a_bad_trial_is_ended_early(policy: dict[str, object] | None, ended: list[bool], tmp_path: Path) -> None:
    # The first trial ends after two values, and the second one would log 20 more.
    few, more = logging("${{inputs.x}}", "${{inputs.x}}", pause=0.3), logging(*["9"] * 20, pause=0.3)
    trap, leave = "trap 'touch ${{outputs.o}}/ended; exit 3' TERM", "[ ${{inputs.x}} = 1 ] && exit 0"
    text = f"{trap}; {few}; {WRITE}; {leave}; {more}"
    job = sweep("./trial.yaml", {"x": choice(1, 9)}, sampling_algorithm="grid", early_termination=policy)
    assert run(write_sweep(tmp_path, text, job), tmp_path) == 0
    states = ["ended early" if is_ended else "completed" for is_ended in ended]
    assert column(tmp_path, "state") == states
    num_good, num_bad = map(int, column(tmp_path, "values"))
    assert num_good == 2
    if policy is None:
        assert num_bad == 22
    else:
        assert 2 <= num_bad < 22
        assert column(tmp_path, "reason")[1].startswith(f"{policy['type']} at value 2: its best 9 is ")
        trials = tmp_path / "run" / "steps" / "tune" / "trials"
        assert (trials / "2" / "outputs" / "o" / "ended").exists()  # SIGTERM came first.


def test_the_programs_of_a_trial_have_time_to_end(tmp_path: Path) -> None:
    # bash ends at once; the other bash that it has started needs a second.
    value = logging("${{inputs.x}}")
    save = f"trap 'sleep 1; touch ${{{{outputs.o}}}}/saved; exit' TERM; {value}; sleep 100 & wait"
    text = f"if [ ${{{{inputs.x}}}} = 1 ]; then {value}; else ({save}); fi; {WRITE}"
    job = sweep("./trial.yaml", {"x": choice(1, 9)}, sampling_algorithm="grid")
    job["early_termination"] = {"type": "bandit", "slack_amount": 1}
    assert run(write_sweep(tmp_path, text, job), tmp_path) == 0
    assert column(tmp_path, "state") == ["completed", "ended early"]
    assert (tmp_path / "run" / "steps" / "tune" / "trials" / "2" / "outputs" / "o" / "saved").exists()


def test_trials_run_at_the_same_time_up_to_the_limit(tmp_path: Path) -> None:
    text = f"date +%s.%N >> {tmp_path}/begin; {logging('1')}; sleep 1.2; date +%s.%N >> {tmp_path}/end"
    limits = {"max_total_trials": 4, "max_concurrent_trials": 2}
    job = sweep("./trial.yaml", {"x": uniform(0, 1)}, limits=limits)
    assert run(write_sweep(tmp_path, text, job), tmp_path) == 0
    begins, ends = (sorted(map(float, (tmp_path / name).read_text().split())) for name in ("begin", "end"))
    overlaps = [sum(begin <= time < end for begin, end in zip(begins, ends)) for time in begins]
    assert max(overlaps) == 2


def test_a_trial_that_takes_too_long_is_ended_and_the_others_count(tmp_path: Path) -> None:
    text = f"{logging('${{inputs.x}}')}; [ ${{{{inputs.x}}}} = 1 ] && sleep 60; {WRITE}"
    limits = {"max_total_trials": 2, "trial_timeout": 10}
    job = sweep("./trial.yaml", {"x": choice(1, 2)}, sampling_algorithm="grid", limits=limits)
    assert run(write_sweep(tmp_path, text, job), tmp_path) == 0
    assert column(tmp_path, "state") == ["timed out", "completed"]
    assert column(tmp_path, "is_best") == ["false", "true"]


def test_a_sweep_that_takes_too_long_ends_with_the_best_trial_so_far(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = f"{logging('${{inputs.x}}')}; [ ${{{{inputs.x}}}} = 1 ] && sleep 60; {WRITE}"
    limits = {"max_total_trials": 3, "timeout": 15}
    job = sweep("./trial.yaml", {"x": choice(2, 1, 0)}, sampling_algorithm="grid", limits=limits)
    assert run(write_sweep(tmp_path, text, job), tmp_path) == 0
    assert column(tmp_path, "state") == ["completed", "cancelled"]
    assert "WARNING tune: limits.timeout ended the sweep after 1 of 3 trials." in capfd.readouterr().err


def test_a_failed_trial_is_a_warning_and_the_best_of_the_others_is_taken(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = f"{logging('${{inputs.x}}')}; echo no luck; [ ${{{{inputs.x}}}} = 2 ]"
    job = sweep("./trial.yaml", {"x": choice(1, 2)}, sampling_algorithm="grid")
    assert run(write_sweep(tmp_path, text, job), tmp_path) == 0
    assert column(tmp_path, "state") == ["failed", "completed"]
    said = capfd.readouterr().err
    assert "WARNING tune: trial 1 of 2 failed" in said
    assert "it ended with exit code 1: no luck" in said


def test_a_sweep_whose_first_three_trials_fail_is_an_error(tmp_path: Path) -> None:
    job = sweep("./trial.yaml", {"x": uniform(0, 1)}, trials=9)
    assert run(write_sweep(tmp_path, "echo it is broken; false", job), tmp_path) == 1
    assert len(table(tmp_path)) == 3
    said = message(tmp_path)
    assert "Step 'tune': no trial completed; 3 failed, see " in said
    assert "The first one: it ended with exit code 1: it is broken. Its log is " in said
    assert f"{tmp_path}/run/steps/tune/trials/1/log.txt" in said


def test_a_metric_of_another_name_is_an_error_that_names_what_was_logged(tmp_path: Path) -> None:
    job = sweep("./trial.yaml", {"x": uniform(0, 1)}, trials=1)
    assert run(write_sweep(tmp_path, logging("1", metric="Valid Loss"), job), tmp_path) == 1
    said = message(tmp_path)
    assert "no finite value of the primary metric 'Valid loss' was logged. It logged 'Valid Loss'." in said


def test_one_value_of_each_trial_is_drawn_at_an_integer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = []

    def look(figure: Figure, *given: object, **options: object) -> None:
        ticks.extend([axes.get_xticks().tolist() for axes in figure.axes[:3]])

    job = sweep("./trial.yaml", {"x": {"type": "randint", "upper": 1}}, trials=1)
    swept = read_pipeline(write_sweep(tmp_path, "true", job), {}).steps["tune"].sweep
    assert swept is not None
    trial = Trial(1, {"x": 0}, "run", "", "", "", state="completed", points=(Logged(1, 0.5),))
    monkeypatch.setattr(Figure, "savefig", look)
    draw_trials([trial], swept, tmp_path / "it.png")
    assert all(float(tick).is_integer() for of_axes in ticks for tick in of_axes)


@pytest.mark.parametrize(("kind", "scale"), [("uniform", "linear"), ("loguniform", "log")])
def test_the_axis_of_a_setting_is_that_of_its_distribution(
    kind: str, scale: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(figure: Figure, *given: object, **options: object) -> None:
        assert figure.axes[2].get_xscale() == scale

    monkeypatch.setattr(Figure, "savefig", look)
    job = sweep("./trial.yaml", {"x": {**uniform(0, 1), "type": kind}})
    swept = read_pipeline(write_sweep(tmp_path, "true", job), {}).steps["tune"].sweep
    assert swept is not None
    trials = [Trial(1, {"x": value}, "run", "", "", "", points=(Logged(1, 0.5),)) for value in (0.001, 1.0)]
    draw_trials(trials, swept, tmp_path / "it.png")


@pytest.mark.parametrize(("goal", "scale"), [("minimize", "log"), ("maximize", "linear")])
def test_a_diverged_loss_does_not_hide_the_other_values(
    goal: str, scale: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(figure: Figure, *given: object, **options: object) -> None:
        # The best value of each trial is from before it diverged.
        assert [axes.get_yscale() for axes in figure.axes[:2]] == [scale, "linear"]

    monkeypatch.setattr(Figure, "savefig", look)
    job = sweep("./trial.yaml", {"x": uniform(0, 1)}, objective={"goal": goal, "primary_metric": METRIC})
    swept = read_pipeline(write_sweep(tmp_path, "true", job), {}).steps["tune"].sweep
    assert swept is not None
    points = Logged(1, 0.5), Logged(2, 1e6)
    draw_trials([Trial(1, {"x": 0.5}, "run", "", "", "", points=points)], swept, tmp_path / "it.png")


def test_values_that_cannot_be_drawn_do_not_end_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*given: object) -> None:
        raise ValueError("arange: cannot compute length")  # what Matplotlib says of 1e308 and -1e308

    monkeypatch.setattr(sweep_results, "draw_trials", fail)
    path = write_sweep(tmp_path, logging("1"), sweep("./trial.yaml", {"x": choice(1)}, trials=1))
    assert run(path, tmp_path) == 0
    assert column(tmp_path, "state") == ["completed"]
    assert "cannot compute length" in capfd.readouterr().err
    assert not list(tmp_path.rglob("trials.png*"))


def test_any_names_are_drawn_and_secrets_are_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", "a-secret-value")
    metric = "validation/accuracy of 密集 $x_1^ in a long name"
    (tmp_path / "log.py").write_text(
        f"import mlflow, os, sys\nmlflow.log_metric('{metric[:3]}', 1)\n"
        "if sys.argv[1].startswith('='):\n    sys.exit('no luck with ' + os.environ['MY_SECRET'])\n"
    )
    trial = {"command": f"python {tmp_path}/log.py '${{{{search_space.x}}}}'", "environment": "azureml:any:1"}
    job = sweep(
        trial,
        {"x": choice("=1+1", "密集网络", "a$b^c", "a very long name of a choice", "a very long name of another one")},
        sampling_algorithm="grid",
        objective={"goal": "maximize", "primary_metric": metric[:3]},
    )
    assert run(pipeline(tmp_path / "p.yaml", {"tune": job}), tmp_path) == 0
    assert column(tmp_path, "search_space.x")[:2] == ["'=1+1", "密集网络"]
    reason = column(tmp_path, "reason")[0]
    assert "no luck with ***" in reason
    assert (tmp_path / "run" / "steps" / "tune" / "trials.png").stat().st_size > 10_000
    swept = dataclasses.replace(
        read_pipeline(tmp_path / "p.yaml").steps["tune"].sweep, objective=Objective(metric, is_maximized=True)
    )
    trials = [Trial(1, {"x": "密集网络"}, "", "", "", "", "failed", "", (Logged(1, -2.0),))]
    draw_trials(trials, swept, tmp_path / "it.png")
    assert (tmp_path / "it.png").stat().st_size > 10_000


def test_values_that_are_not_finite_do_not_count(tmp_path: Path) -> None:
    job = sweep("./trial.yaml", {"x": choice(1, 2)}, sampling_algorithm="grid")
    text = f"{LOG}; echo '1 nan 1' >> \"$d/{METRIC}\"; echo '1 ${{{{inputs.x}}}} 2' >> \"$d/{METRIC}\""
    assert run(write_sweep(tmp_path, text, job), tmp_path) == 0
    assert column(tmp_path, "is_best") == ["true", "false"]


def start(path: Path, folder: Path) -> subprocess.Popen[bytes]:
    arguments = ["-m", "train_pytorch_model", "run-pipeline", str(path), "--output-path", str(folder / "run")]
    return subprocess.Popen(
        [sys.executable, *arguments, "--outputs-path", str(folder / "o")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stderr=subprocess.DEVNULL,
    )


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("sent", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.thorough)])
def test_a_sweep_that_was_killed_keeps_its_finished_trials(sent: signal.Signals, tmp_path: Path) -> None:
    # The second trial waits until it is told to go on. It finds what it had written before the kill.
    text = (
        f"echo ${{{{inputs.x}}}} >> {tmp_path}/started; {logging('${{inputs.x}}')};"
        " cd ${{outputs.o}}; if [ -f half ]; then touch again; fi; touch half;"
        f" [ $(wc -l < {tmp_path}/started) = 2 ] && sleep 100; {WRITE}"
    )
    job = sweep("./trial.yaml", {"x": uniform(0, 1)}, trials=3)
    path = write_sweep(tmp_path, text, job, settings={"force_rerun": True})
    process = start(path, tmp_path)
    trials = tmp_path / "run" / "steps" / "tune" / "trials"
    wait_for(lambda: (trials / "2" / "outputs" / "o" / "half").exists())
    process.send_signal(sent)
    process.wait(30)
    if sent == signal.SIGKILL:
        assert subprocess.run(["pgrep", "-f", f"{tmp_path}/started"], stdout=subprocess.DEVNULL).returncode == 0
    assert run(path, tmp_path) == 0
    assert subprocess.run(["pgrep", "-f", f"{tmp_path}/started"], stdout=subprocess.DEVNULL).returncode == 1
    started = (tmp_path / "started").read_text().split()
    assert len(started) == 4
    assert started[1] == started[2]  # Only the second trial was repeated, with the same settings.
    assert (trials / "2" / "outputs" / "o" / "again").exists()
    assert column(tmp_path, "state") == ["completed"] * 3
    other = tmp_path / "other"
    shutil.copytree(tmp_path, other, ignore=shutil.ignore_patterns("run", "started"))
    assert run(write_sweep(other, f"{logging('1')}; {WRITE}", job), other) == 0
    assert column(other, "search_space.x") == column(tmp_path, "search_space.x")


@pytest.mark.thorough
def test_trials_of_a_killed_run_do_not_write_into_those_of_a_forced_run(tmp_path: Path) -> None:
    text = f"{logging('1')}; [ -f {tmp_path}/told ] || sleep 100; {WRITE}"
    path = write_sweep(tmp_path, text, sweep("./trial.yaml", {"x": uniform(0, 1)}, trials=3))
    process = start(path, tmp_path)
    wait_for((tmp_path / "run" / "steps" / "tune" / "trials" / "1" / "trial.json").exists)
    wait_for(lambda: subprocess.run(["pgrep", "-f", f"{tmp_path}/told"], stdout=subprocess.DEVNULL).returncode == 0)
    process.kill()
    process.wait(30)
    (tmp_path / "told").touch()
    assert run(path, tmp_path, "--force") == 0
    assert subprocess.run(["pgrep", "-f", f"{tmp_path}/told"], stdout=subprocess.DEVNULL).returncode == 1
    assert column(tmp_path, "state") == ["completed"] * 3


def test_more_trials_add_to_those_of_an_earlier_run_and_a_changed_trial_repeats_them(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def number_started(job: dict[str, object], text: str = f"{logging('${{inputs.x}}')}; {WRITE}") -> int:
        assert run(write_sweep(tmp_path, text, job), tmp_path) == 0
        return capfd.readouterr().err.count(" started: x ")

    space = {"x": uniform(0, 1)}
    assert number_started(sweep("./trial.yaml", space, trials=2)) == 2
    assert number_started(sweep("./trial.yaml", space, trials=4)) == 2
    assert number_started(sweep("./trial.yaml", space, trials=4)) == 0
    assert number_started(sweep("./trial.yaml", space, trials=4), f"true; {logging('${{inputs.x}}')}; {WRITE}") == 4
    assert number_started(sweep("./trial.yaml", {"x": uniform(0, 2)}, trials=3)) == 3
    trials = tmp_path / "run" / "steps" / "tune" / "trials"
    assert sorted(folder.name for folder in trials.iterdir()) == ["1", "2", "3"]
    assert number_started(sweep("./trial.yaml", {"x": uniform(0, 2)}, trials=4)) == 1
    path = tmp_path / "p.yaml"
    assert run(path, tmp_path, "--force") == 0
    assert capfd.readouterr().err.count(" started: x ") == 4
    shutil.rmtree(tmp_path / "run")
    assert run(path, tmp_path) == 0
    assert capfd.readouterr().err.count(" started: x ") == 4


def test_a_trial_that_a_policy_ended_runs_again_without_the_policy(tmp_path: Path) -> None:
    text = f"{logging('${{inputs.x}}', '${{inputs.x}}', pause=1)}; {WRITE}"
    job = sweep("./trial.yaml", {"x": choice(1, 9)}, sampling_algorithm="grid")
    policy = {"type": "bandit", "slack_amount": 1}
    assert run(write_sweep(tmp_path, text, {**job, "early_termination": policy}), tmp_path) == 0
    assert column(tmp_path, "state") == ["completed", "ended early"]
    assert run(write_sweep(tmp_path, text, job), tmp_path) == 0
    assert column(tmp_path, "state") == ["completed", "completed"]
    record = json.loads((tmp_path / "run" / "steps" / "tune" / "trials" / "2" / "trial.json").read_text())
    assert record["points"] == [[1, 9.0], [2, 9.0]]


def test_all_trials_run_again_where_the_component_is_not_deterministic(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trial = {"command": logging("1"), "environment": "azureml:any:1", "is_deterministic": False}
    path = pipeline(tmp_path / "p.yaml", {"tune": sweep(trial, {"x": uniform(0, 1)}, trials=2)})
    for _ in range(2):
        assert run(path, tmp_path) == 0
        assert capfd.readouterr().err.count(" started: x ") == 2


def test_a_sweep_of_a_pipeline_component_gives_its_output_to_the_pipeline(tmp_path: Path) -> None:
    job = sweep(
        "./trial.yaml",
        {"x": choice(2, "${{parent.inputs.low}}")},
        sampling_algorithm="grid",
        outputs={"o": "${{parent.outputs.out}}"},
    )
    write_sweep(tmp_path, f"{logging('${{inputs.x}}')}; {WRITE}", job)
    inner = {"type": "pipeline", "inputs": {"low": {"type": "number"}}, "outputs": {"out": FOLDER}}
    write_yaml(tmp_path / "sub.yaml", {**inner, "jobs": {"tune": job}})
    outer = {"component": "./sub.yaml", "inputs": {"low": 0.5}, "outputs": {"out": "${{parent.outputs.best}}"}}
    path = pipeline(tmp_path / "q.yaml", {"sub": {"type": "pipeline", **outer}}, outputs={"best": FOLDER})
    assert run(path, tmp_path) == 0
    assert (tmp_path / "run" / "outputs" / "best" / "m.txt").read_text() == "0.5 none\n"


def test_a_trial_that_does_not_write_a_file_which_another_step_takes_has_failed(tmp_path: Path) -> None:
    write = "[ ${{search_space.x}} = 1 ] || echo ${{search_space.x}} > ${{outputs.f}}"
    text = f"{logging('${{search_space.x}}')}; {write}"
    outputs = {"f": {"type": "uri_file"}}
    job = sweep(command(text, outputs=outputs), {"x": choice(1, 3, 2)}, sampling_algorithm="grid")
    assert run(pipeline(tmp_path / "p.yaml", {"tune": job}), tmp_path) == 0
    assert column(tmp_path, "state") == ["completed"] * 3
    take = command("cat ${{inputs.f}} > ${{outputs.o}}/f", inputs={"f": "${{parent.jobs.tune.outputs.f}}"})
    take["outputs"] = {"o": "${{parent.outputs.all}}"}
    assert run(pipeline(tmp_path / "p.yaml", {"tune": job, "take": take}, outputs={"all": FOLDER}), tmp_path) == 0
    assert column(tmp_path, "state") == ["failed", "completed", "completed"]
    assert column(tmp_path, "is_best") == ["false", "false", "true"]
    assert "did not write a file to its output f" in column(tmp_path, "reason")[0]
    assert (tmp_path / "run" / "outputs" / "all" / "f").read_text() == "2\n"


def test_a_model_that_is_a_file_is_an_output_of_a_sweep(tmp_path: Path) -> None:
    text = f"{logging('1')}; rmdir ${{{{outputs.m}}}}; echo model > ${{{{outputs.m}}}}"
    outputs = {"m": {"type": "custom_model", "path": "${{parent.outputs.all}}"}}
    job = sweep(command(text), {"x": choice(1)}, sampling_algorithm="grid", outputs=outputs)
    path = pipeline(tmp_path / "p.yaml", {"tune": job}, outputs={"all": {"type": "custom_model"}})
    assert run(path, tmp_path) == 0
    assert (tmp_path / "run" / "outputs" / "all").read_text() == "model\n"


def test_a_file_is_an_output_of_a_sweep(tmp_path: Path) -> None:
    text = f"{logging('${{search_space.x}}')}; echo ${{{{search_space.x}}}} > ${{{{outputs.f}}}}"
    trial = {"command": text, "environment": "azureml:any:1", "outputs": {"f": {"type": "uri_file"}}}
    job = sweep(trial, {"x": choice(2, 1)}, sampling_algorithm="grid")
    after = command("cat ${{inputs.i}}", inputs={"i": "${{parent.jobs.tune.outputs.f}}"})
    assert run(pipeline(tmp_path / "p.yaml", {"tune": job, "after": after}), tmp_path) == 0
    assert (tmp_path / "run" / "steps" / "after" / "log.txt").read_text() == "1\n"


def test_bayesian_sampling_runs(tmp_path: Path) -> None:
    job = sweep("./trial.yaml", {"x": uniform(0, 1), "name": choice("a", "b")}, trials=5, sampling_algorithm="bayesian")
    assert run(write_sweep(tmp_path, f"{logging('${{inputs.x}}')}; {WRITE}", job), tmp_path) == 0
    assert len(set(column(tmp_path, "search_space.x"))) == 5


def test_what_is_not_used_of_a_sweep_is_logged(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    component(tmp_path / "t.yaml", "echo ${{inputs.x}}", {"x": {"type": "number"}})
    job = sweep("./t.yaml", {"x": uniform(0, 1), "y": uniform(0, 1)}, inputs={"x": 3}, enviroment="x")
    assert run(pipeline(tmp_path / "p.yaml", {"a": job}), tmp_path, "--dry-run") == 0
    said = capfd.readouterr().err
    assert "the field enviroment of a sweep is unknown and ignored" in said
    assert "the value of input x is not used, because search_space has x" in said
    assert "only its environment variable AZUREML_SWEEP_y has the value" in said


def test_inputs_of_the_pipeline_are_replaced_in_a_sweep(tmp_path: Path) -> None:
    job = sweep(
        "./trial.yaml",
        {"x": choice("${{parent.inputs.low}}", 2)},
        sampling_algorithm="grid",
        limits={"max_total_trials": "${{parent.inputs.count}}"},
    )
    path = write_sweep(tmp_path, f"{logging('${{inputs.x}}')}; {WRITE}", job, inputs={"low": 1.5, "count": 1})
    assert run(path, tmp_path, "--input", "count=2") == 0
    assert column(tmp_path, "search_space.x") == ["1.5", "2"]


@pytest.mark.thorough
def test_a_training_of_a_sweep_that_was_killed_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        write_image_directory(tmp_path / part)
    initialize(tmp_path / "model", NETWORK, tmp_path / "o")
    epochs = 30
    inputs = {
        "untrained_model": {"path": str(tmp_path / "model")},
        "train_data": {"path": str(tmp_path / "train")},
        "valid_data": {"path": str(tmp_path / "valid")},
        **{"epochs": epochs, "patience": 100, "checkpoint_minutes": 0.01},
    }
    job = sweep(
        str(ROOT / "component.yaml"),
        {"learning_rate": choice(0.01, 0.02), "recipe": choice("classic")},
        sampling_algorithm="grid",
        inputs=inputs,
        outputs={"trained_model": "${{parent.outputs.best}}"},
    )
    path = pipeline(tmp_path / "p.yaml", {"tune": job}, outputs={"best": FOLDER})
    process = start(path, tmp_path)
    trials = tmp_path / "run" / "steps" / "tune" / "trials"
    checkpoints = trials / "1" / "outputs" / "checkpoints"
    wait_for(lambda: checkpoints.is_dir() and any(checkpoints.iterdir()))
    process.kill()
    process.wait(30)
    record = json.loads((trials / "1" / "trial.json").read_text())
    assert record["state"] == "running"
    assert run(path, tmp_path) == 0
    assert "Resuming from" in (trials / "1" / "log.txt").read_text()
    record = json.loads((trials / "1" / "trial.json").read_text())
    steps = [step for step, _ in record["points"]]
    assert steps == sorted(set(steps))
    assert set(range(1, epochs + 1)) == set(steps) - {0}
    assert column(tmp_path, "state") == ["completed", "completed"]
    best = column(tmp_path, "is_best").index("true") + 1
    taken, made = tmp_path / "run" / "outputs" / "best", trials / str(best) / "outputs" / "trained_model"
    names = sorted(file.relative_to(made) for file in made.rglob("*") if file.is_file())
    assert names
    assert all((taken / name).read_bytes() == (made / name).read_bytes() for name in names)
