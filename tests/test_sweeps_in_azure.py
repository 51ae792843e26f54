"""What azure-ai-ml makes of sweep jobs, compared with what run-pipeline makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.pipelines import FOLDER, command, pipeline, write_yaml
from tests.sweeps import choice, sweep, uniform
from tests.test_pipelines_in_azure import ask_azure, dry_run

INPUTS = {
    "x": {"type": "number", "default": 1},
    "n": {"type": "integer", "default": 1},
    "word": {"type": "string", "default": "a"},
}
INLINE = {"command": "echo ${{search_space.x}}", "environment": "azureml:any:1"}
CUT = {"type": "truncation_selection", "truncation_percentage": 20}


def job(**fields: object) -> dict[str, Any]:
    """A sweep with other fields; those that are None are left out."""
    document = {**sweep("./trial.yaml", {"x": uniform(0, 1)}), **fields}
    return {name: value for name, value in document.items() if value is not None}


def of(entry: object, name: str = "x", **fields: object) -> dict[str, Any]:
    return {**job(**fields), "search_space": {name: entry}}


def within(**fields: object) -> dict[str, Any]:
    return {**job(), "trial": {**INLINE, **fields}}


def sampled(**fields: object) -> dict[str, Any]:
    return job(sampling_algorithm=fields)


def ended(**fields: object) -> dict[str, Any]:
    return job(early_termination=fields)


def aimed(**fields: object) -> dict[str, Any]:
    return job(objective=fields)


def limited(**fields: object) -> dict[str, Any]:
    return job(limits={"max_total_trials": 4, **fields})


def bounds(kind: str, **more: object) -> dict[str, object]:
    return {"type": kind, "min_value": 1, "max_value": 2, **more}


def bell(kind: str, **more: object) -> dict[str, object]:
    return {"type": kind, "mu": 1, "sigma": 2, **more}


TAKEN: dict[str, dict[str, Any]] = {
    "a sweep": job(),
    "an upper case type": job(type="Sweep"),
    "no type": job(type=None),
    "a file reference": job(trial="file:./trial.yaml"),
    "a path without ./": job(trial="trial.yaml"),
    "a trial within": within(),
    "a trial within with a type": within(type="command"),
    "undeclared inputs of a trial within": within(command="echo ${{inputs.A}}") | {"inputs": {"A": 1}},
    "undeclared outputs of a trial within": within(command="ls ${{outputs.o}}") | {"outputs": {"o": None}},
    "declared inputs of a trial within": within(command="echo ${{inputs.x}}", inputs={"x": {"type": "number"}}),
    "fields that are ignored": job(foo=1, environment_variables={"A": "b"}, services={}),
    "what jobs have": job(compute="azureml:x", identity={"type": "managed"}, queue_settings={"job_tier": "spot"}),
    "resources": job(resources={"instance_count": 2}),
    "a name that is no input": {**job(), "search_space": {"other": uniform(0, 1)}},
    "an input in both": job(inputs={"x": 3}),
    "an output": job(outputs={"o": None}),
    "an output of the pipeline": job(outputs={"o": "${{parent.outputs.all}}"}),
    **{f"the distribution {kind}": of(bounds(kind)) for kind in ("uniform", "loguniform", "LogUniform")},
    **{f"the distribution {kind}": of(bounds(kind, q=1)) for kind in ("quniform", "qloguniform")},
    **{f"the distribution {kind}": of(bell(kind)) for kind in ("normal", "lognormal")},
    **{f"the distribution {kind}": of(bell(kind, q=0.5)) for kind in ("qnormal", "qlognormal")},
    "an integer of quniform": of(bounds("quniform", q=1), "n"),
    "an integer of randint": of({"type": "randint", "upper": 5}, "n"),
    "numbers as text": of({"type": "uniform", "min_value": "0", "max_value": "1e1"}),
    "a choice of texts": of(choice("a", "true", "b"), "word"),
    "a choice of texts and numbers": of(choice("a", 1, 2.5), "word"),
    **{f"the sampling {kind}": of(choice(1, 2), sampling_algorithm=kind) for kind in ("Grid", "bayesian", "RANDOM")},
    "sampling with all fields": sampled(type="random", seed=-3, rule="Sobol", logbase=10),
    "sampling with e": sampled(type="Random", logbase="e", rule="random"),
    **{f"the goal {goal}": aimed(goal=goal, primary_metric="x") for goal in ("Maximize", "MAXIMIZE", "minimize")},
    "all limits": limited(max_concurrent_trials=9, timeout=100, trial_timeout=70),
    "limits as text": limited(max_total_trials="3", timeout=100.0),
    "bandit by a factor": ended(type="bandit", slack_factor="0.1", evaluation_interval=2, delay_evaluation=5),
    "bandit by an amount": ended(type="Bandit", slack_amount=1, slack_factor=None, evaluation_interval=0),
    "bandit as Azure's SDK writes it": ended(type="bandit", slack_factor=0.1, slack_amount=0.0),
    **{f"the policy {name}": ended(type=name) for name in ("median_stopping", "medianStopping", "MedianStopping")},
    "truncation": ended(**CUT),
    "truncation in camel case": ended(type="TruncationSelection", truncation_percentage=20),
    "inputs of the pipeline": limited(max_total_trials="${{parent.inputs.k}}")
    | {"search_space": {"x": {"type": "uniform", "min_value": 1, "max_value": "${{parent.inputs.k}}"}}},
}
REFUSED: dict[str, dict[str, Any]] = {
    "no trial": job(trial=None),
    "a missing trial": job(trial="./nowhere.yaml"),
    "a component instead of a trial": job(trial=None, component="./trial.yaml"),
    "a trial and a component": job(component="./trial.yaml"),
    "a pipeline component as a trial": job(trial="./pipeline_component.yaml"),
    "a trial within without an environment": {**job(), "trial": {"command": "true"}},
    "a missing input": job(trial="./other.yaml"),
    "an unknown resource": job(resources={"gpus": 2}),
    "an unknown distribution": of(bounds("log_uniform")),
    "a distribution without a type": of({"min_value": 1, "max_value": 2}),
    "a list of values": of([1, 2]),
    "a missing bound": of({"type": "uniform", "min_value": 1}),
    "quniform without q": of(bounds("quniform")),
    "uniform with q": of(bounds("uniform", q=1)),
    "randint with a lower bound": of({"type": "randint", "lower": 1, "upper": 2}),
    "a choice of booleans": of(choice(True, False), "word"),
    "a choice of null": of(choice(None, 1)),
    "a choice of lists": of(choice([1])),
    "a choice that is text": of({"type": "choice", "values": "ab"}, "word"),
    "an unknown field of a choice": of({**choice(1), "foo": 1}),
    "an unknown sampling": job(sampling_algorithm="tpe"),
    "sampling that is null": sampled() | {"sampling_algorithm": {}},
    "a seed that is null": sampled(type="random", seed=None),
    "a seed of Bayesian sampling": sampled(type="bayesian", seed=3),
    "an unknown rule": sampled(type="random", rule="halton"),
    "an unknown goal": aimed(goal="max", primary_metric="x"),
    "no goal": aimed(primary_metric="x"),
    "no metric": aimed(goal="minimize"),
    "a metric that is a number": aimed(goal="minimize", primary_metric=3),
    "an unknown field of the objective": aimed(goal="minimize", primary_metric="x", foo=1),
    "no objective": job(objective=None),
    "no limits": job(limits=None),
    "no number of trials": job(limits={}),
    "an unknown limit": limited(foo=1),
    "a limit that is null": limited(timeout=None),
    "an unknown policy": ended(type="hyperband"),
    "a policy that is text": job(early_termination="bandit"),
    "truncation without a percentage": ended(type="truncation_selection"),
    "an unknown field of truncation": ended(**CUT, exclude_finished_jobs=True),
    "a slack of the median": ended(type="median_stopping", slack_factor=0.1),
}
# Azure's SDK takes these, and the service or this machine does not.
NOT_SUPPORTED: dict[str, tuple[dict[str, Any], str]] = {
    "a registered trial": (job(trial="azureml:x@latest"), "job a: azureml:x@latest is a registered component"),
    "no search space": ({**job(), "search_space": {}}, "job a: search_space is {}, but must be a mapping of at least"),
    "no sampling": (job(sampling_algorithm=None), "the field sampling_algorithm is missing"),
    "an unknown input": (job(inputs={"other": 3}), "the component has no input other"),
    "bounds in the wrong order": (of(uniform(3, 1)), "search_space.x: min_value 3 is above max_value 1"),
    "a sigma of 0": (of(bell("normal", sigma=0)), "search_space.x: sigma is 0, which is not above 0"),
    "a q of 0": (of(bounds("quniform", q=0)), "search_space.x: q is 0, which is not above 0"),
    "an upper of 0": (of({"type": "randint", "upper": 0}), "search_space.x: upper is 0"),
    "exponents that are too large": (of(bounds("loguniform", max_value=1000)), "its values are too large"),
    "exponents of a small base": (
        {**of(bounds("loguniform", min_value=-400)), "sampling_algorithm": {"type": "random", "logbase": 0.1}},
        "its values are too large",
    ),
    "no values": (of(choice()), "search_space.x: it has no values"),
    "a conditional search space": (of(choice({"a": 1})), "values that are mappings (a conditional search space)"),
    "a grid of a distribution": (
        job(sampling_algorithm="grid"),
        "search_space.x: grid sampling takes choice, but got uniform",
    ),
    "a logarithm for Bayesian sampling": (
        of(bounds("loguniform"), sampling_algorithm="bayesian"),
        "bayesian sampling takes choice, uniform, quniform, but got loguniform",
    ),
    "fractions for an integer": (
        of(bounds("uniform"), "n"),
        "search_space.n: the input of the trial does not accept its values",
    ),
    "texts for a number": (of(choice("a")), "'a' is not of type number"),
    "a name that the search space lacks": (
        within(command="echo ${{search_space.y}}"),
        "job a: trial: the command uses ${{search_space.y}}",
    ),
    "a logbase of 1": (sampled(type="random", logbase=1), "sampling_algorithm.logbase is 1"),
    "no trials": (limited(max_total_trials=0), "limits.max_total_trials is 0, but must be from 1 to 1000"),
    "too many trials": (limited(max_total_trials=1001), "limits.max_total_trials is 1001"),
    "no concurrent trials": (limited(max_concurrent_trials=0), "limits.max_concurrent_trials is 0"),
    "a negative timeout": (limited(timeout=-1), "limits.timeout is -1, but must be a positive number of seconds"),
    "half a trial": (limited(max_total_trials=1.5), "limits.max_total_trials is 1.5, but must be an integer"),
    "bandit without a slack": (ended(type="bandit"), "bandit needs either slack_factor or slack_amount"),
    "bandit with two slacks": (ended(type="bandit", slack_factor=1, slack_amount=1), "bandit needs either"),
    "bandit with a negative slack": (ended(type="bandit", slack_factor=-1), "bandit needs either"),
    "truncation of nothing": (ended(**{**CUT, "truncation_percentage": 0}), "truncation_percentage is 0, not from 1"),
    "truncation of all": (ended(**{**CUT, "truncation_percentage": 100}), "truncation_percentage is 100, not from 1"),
    "an unknown input of the pipeline": (
        limited(timeout="${{parent.inputs.w}}"),
        "jobs.a.limits.timeout: ${{parent.inputs.w}} cannot be resolved here",
    ),
}


def write_case(folder: Path, document: dict[str, Any]) -> Path:
    fields = command("echo ${{inputs.x}} ${{inputs.n}} ${{inputs.word}}", name="trial", outputs={"o": FOLDER})
    write_yaml(folder / "trial.yaml", {**fields, "inputs": INPUTS})
    write_yaml(folder / "other.yaml", {**fields, "inputs": {**INPUTS, "y": {"type": "number"}}})
    write_yaml(folder / "pipeline_component.yaml", {"type": "pipeline", "jobs": {"a": command("true")}})
    return pipeline(folder / "pipeline.yaml", {"a": document}, inputs={"k": 2}, outputs={"all": FOLDER})


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, bool, object]]:
    """The file of each case, and whether and why azure-ai-ml takes it."""
    top = tmp_path_factory.mktemp("sweeps")
    documents = {**TAKEN, **REFUSED, **{name: document for name, (document, _) in NOT_SUPPORTED.items()}}
    files = {name: write_case(top / str(number), document) for number, (name, document) in enumerate(documents.items())}
    answers = ask_azure(list(files.values()))
    return {name: (path, answers[str(path)][1], answers[str(path)][0]) for name, path in files.items()}


@pytest.mark.parametrize("name", TAKEN)
def test_a_sweep_that_azure_takes_is_taken(name: str, cases: dict[str, tuple[Path, bool, object]]) -> None:
    path, is_taken, answer = cases[name]
    assert is_taken, answer
    assert dry_run(path) == ""


@pytest.mark.parametrize("name", REFUSED)
def test_a_sweep_that_azure_refuses_is_refused(name: str, cases: dict[str, tuple[Path, bool, object]]) -> None:
    path, is_taken, answer = cases[name]
    assert not is_taken, answer
    assert f"{path.parent}/" in dry_run(path)


@pytest.mark.parametrize("name", NOT_SUPPORTED)
def test_a_sweep_that_azure_takes_and_that_cannot_run_is_refused_by_name(
    name: str, cases: dict[str, tuple[Path, bool, object]]
) -> None:
    path, is_taken, answer = cases[name]
    assert is_taken, answer
    assert NOT_SUPPORTED[name][1] in dry_run(path)
    assert not (path.parent.parent / "run").exists()


def test_a_command_in_a_job_takes_an_output_whose_type_azure_finds(tmp_path: Path) -> None:
    trial = {"command": "ls ${{outputs.o}} ${{search_space.x}}", "environment": "azureml:any:1"}
    entry = "${{parent.jobs.a.outputs.o}}"
    paths = []
    for declared in ({"outputs": {"o": FOLDER}}, {}):
        for given in ({**FOLDER, "path": entry}, entry):
            swept = job(trial={**trial, **declared}, outputs={"o": FOLDER})
            take = command("ls ${{inputs.i}}", inputs={"i": given})
            paths.append(pipeline(tmp_path / str(len(paths)) / "pipeline.yaml", {"a": swept, "b": take}))
    answers = ask_azure(paths)
    assert [answers[str(path)][1] for path in paths] == [True, True, True, False]
    assert [dry_run(path) for path in paths[:3]] == [""] * 3
    fault = dry_run(paths[3])
    assert "job b: input i: Azure does not find the type" in fault
    assert "under trial.outputs of job a" in fault
