"""Reads jobs that are sweeps."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Optional

from train_pytorch_model.pipelines.checks import faults_of_value
from train_pytorch_model.pipelines.command_jobs import read_step
from train_pytorch_model.pipelines.definition import (
    Component,
    Literal,
    LocalData,
    PipelineError,
    Port,
    Step,
    raise_for,
)
from train_pytorch_model.pipelines.early_termination import Objective, Policy
from train_pytorch_model.pipelines.expressions import expressions, substitute
from train_pytorch_model.pipelines.sampling import BAYESIAN_KINDS, missing_library
from train_pytorch_model.pipelines.schema_faults import schema_faults
from train_pytorch_model.pipelines.search_space import Distribution, read_distribution
from train_pytorch_model.pipelines.sweep_definition import Limits, Sampling, Sweep
from train_pytorch_model.pipelines.sweep_schema import COMMON_FIELDS, SWEEP
from train_pytorch_model.tracking import has_mlflow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from train_pytorch_model.pipelines.bindings import Scope

_MAX_TRIALS = 1000
# Quantiles at which the values of a distribution are compared with the input that takes them.
_PROBED = (0.0, 0.37, 1.0)


def read_sweep(name: str, job: dict[str, Any], scope: Scope) -> Step:
    """Return the step that a sweep job defines.

    Args:
        name: the name of the job.
        job: the entry of the job.
        scope: what it can refer to.

    Raises:
        PipelineError: if Azure refuses the job, or it is not supported here.
    """
    where = f"{scope.path}: job {name}"
    own = {key: _substituted(job[key], scope.values) if key != "trial" else job[key] for key in job if key in _FIELDS}
    faults = ["a sweep has the field trial instead of component"] if "component" in job else []
    raise_for([*faults, *schema_faults(own, SWEEP)], where)
    sweep = _sweep(own, where)
    common = {key: value for key, value in job.items() if key in COMMON_FIELDS}
    step = read_step(name, {**common, "type": "command", "component": own["trial"]}, scope, field="trial")
    component = _with_entries(step, job) if isinstance(own["trial"], dict) else step.component
    component = _with_search_space(component, sweep, where)
    raise_for(_faults_of_values(sweep, component), where)
    unknown = [key for key in job if key not in COMMON_FIELDS and key not in _FIELDS]
    notes = [f"the field {key} of a sweep is unknown and ignored" for key in unknown]
    notes += [
        f"the value of input {key} is not used, because search_space has {key}"
        for key in step.inputs
        if key in sweep.search_space
    ]
    notes += [
        f"the trial has no input {key}, and its command does not contain ${{{{search_space.{key}}}}}; only its"
        f" environment variable AZUREML_SWEEP_{key} has the value"
        for key in sweep.search_space
        if key not in component.inputs
    ]
    examples = {key: Literal(value) for key, value in sweep.example().items() if key in component.inputs}
    return replace(
        step, component=component, inputs={**step.inputs, **examples}, notes=(*step.notes, *notes), sweep=sweep
    )


_FIELDS = frozenset(SWEEP["properties"])


def _substituted(value: Any, known: Mapping[str, str]) -> Any:
    """Return a part of a document in which the inputs of the pipeline are replaced by their values."""
    if isinstance(value, dict):
        return {key: _substituted(item, known) for key, item in value.items()}
    if isinstance(value, list):
        return [_substituted(item, known) for item in value]
    return substitute(value, known) if isinstance(value, str) else value


def _sweep(job: Mapping[str, Any], where: str) -> Sweep:
    if not has_mlflow():
        raise PipelineError(
            f"{where}: a sweep needs MLflow, which this Python does not have; install this package with the extra"
            " tracking"
        )
    algorithm = job["sampling_algorithm"]
    algorithm = {"type": algorithm} if isinstance(algorithm, str) else algorithm
    kind = algorithm["type"].lower()
    space = _search_space(job["search_space"], _log_base(algorithm.get("logbase", "e"), where), where)
    allowed = {"grid": ("choice",), "bayesian": BAYESIAN_KINDS}.get(kind)
    raise_for(
        [
            f"search_space.{name}: {kind} sampling takes {', '.join(allowed or ())}, but got {distribution.kind}"
            for name, distribution in space.items()
            if allowed and distribution.kind not in allowed
        ],
        where,
    )
    sweep = Sweep(
        search_space=space,
        sampling=Sampling(
            kind, int(algorithm.get("seed", 0)), is_sobol=str(algorithm.get("rule", "")).lower() == "sobol"
        ),
        objective=Objective(job["objective"]["primary_metric"], job["objective"]["goal"].lower() == "maximize"),
        policy=_policy(job.get("early_termination"), where),
        limits=_limits(job["limits"], where),
    )
    if library := missing_library(sweep):
        raise PipelineError(
            f"{where}: {kind} sampling needs {library}, which this Python does not have; install this package with the"
            " extra sweep, or take random sampling"
        )
    return sweep


def _search_space(entries: Mapping[str, Any], base: float, where: str) -> dict[str, Distribution]:
    faults, space = [], {}
    for name, entry in entries.items():
        try:
            space[name] = read_distribution(entry, base)
        except ValueError as error:
            faults.append(f"search_space.{name}: {error}")
    raise_for(faults, where)
    return space


def _log_base(value: Any, where: str) -> float:
    try:
        base = math.e if str(value).strip().lower() == "e" else float(value)
    except ValueError:
        base = 0.0
    if not 0 < base < math.inf or base == 1:
        raise PipelineError(
            f"{where}: sampling_algorithm.logbase is {value!r}, but must be e or a positive number, not 1"
        )
    return base


def _policy(entry: Optional[Mapping[str, Any]], where: str) -> Optional[Policy]:
    if entry is None:
        return None
    kind = {"medianstopping": "median_stopping", "truncationselection": "truncation_selection"}
    name = entry["type"].lower()
    # Azure's SDK writes 0 for the slack that is not given.
    given = {key: float(entry.get(key) or 0) for key in ("slack_factor", "slack_amount")}
    slack = {key: value for key, value in given.items() if value != 0}
    policy = Policy(
        kind=kind.get(name, name),
        # Azure takes 0, the default of its SDK, as 1.
        evaluation_interval=int(entry.get("evaluation_interval") or 0) or 1,
        delay_evaluation=int(entry.get("delay_evaluation") or 0),
        truncation_percentage=int(entry.get("truncation_percentage", 0)),
        **slack,
    )
    faults = []
    if policy.kind == "bandit" and (len(slack) != 1 or not 0 < next(iter(slack.values())) < math.inf):
        faults.append("early_termination: bandit needs either slack_factor or slack_amount, a number above 0")
    if policy.kind == "truncation_selection" and not 1 <= policy.truncation_percentage <= 99:
        faults.append(f"early_termination.truncation_percentage is {policy.truncation_percentage}, not from 1 to 99")
    if policy.evaluation_interval < 0 or policy.delay_evaluation < 0:
        faults.append("early_termination: evaluation_interval and delay_evaluation cannot be negative")
    raise_for(faults, where)
    return policy


def _limits(entry: Mapping[str, Any], where: str) -> Limits:
    given = {name: int(value) for name, value in entry.items()}
    faults = [
        f"limits.{name} is {given[name]}, but must be from 1 to {_MAX_TRIALS}"
        for name in ("max_total_trials", "max_concurrent_trials")
        if name in given and not 1 <= given[name] <= _MAX_TRIALS
    ]
    faults += [
        f"limits.{name} is {given[name]}, but must be a positive number of seconds"
        for name in ("timeout", "trial_timeout")
        if name in given and given[name] < 1
    ]
    raise_for(faults, where)
    return Limits(**given)


def _with_entries(step: Step, job: Mapping[str, Any]) -> Component:
    """Return the component of a trial in the job, with ports for the entries that it does not declare, as in Azure."""
    declared = step.component
    inputs = {
        name: Port(source.type if isinstance(source, LocalData) else "")  # The checks accept every value for "".
        for name, source in step.inputs.items()
        if name not in declared.inputs
    }
    outputs = {
        name: Port(str(entry.get("type", "uri_folder")).lower() if isinstance(entry, dict) else "uri_folder")
        for name, entry in job.get("outputs", {}).items()
        if name not in declared.outputs
    }
    return replace(declared, inputs={**declared.inputs, **inputs}, outputs={**declared.outputs, **outputs})


def _with_search_space(component: Component, sweep: Sweep, where: str) -> Component:
    """Return the component of the trials, with an input for each `${{search_space.NAME}}` in its command."""
    as_inputs = {f"search_space.{name}": f"${{{{inputs.{name}}}}}" for name in sweep.search_space}
    if not set(as_inputs) & set(expressions(component.command)):
        return component
    command = substitute(component.command, as_inputs)
    named = {name[len("inputs.") :] for name in expressions(command) if name.startswith("inputs.")}
    added = {
        name: Port("", optional=True, default="")  # It has a value within $[[ ]] and outside.
        for name in sweep.search_space
        if name in named and name not in component.inputs
    }
    return replace(component, where=f"{where}: trial", command=command, inputs={**component.inputs, **added})


def _faults_of_values(sweep: Sweep, component: Component) -> list[str]:
    """Describe the values of the search space that the inputs of the trial do not accept."""
    faults = []
    for name, distribution in sweep.search_space.items():
        port = component.inputs.get(name)
        values = distribution.values or [distribution.value(quantile) for quantile in _PROBED]
        if port is None:
            continue
        if port.is_data:
            faults.append(f"search_space.{name}: the input {name} of the trial is a file or a folder, not a value")
            continue
        found = [fault for value in values for fault in faults_of_value(value, port)]
        hint = "; quniform with an integer q, randint and choice give integers" if port.type == "integer" else ""
        faults += (
            [f"search_space.{name}: the input of the trial does not accept its values: {found[0]}{hint}"]
            if found
            else []
        )
    return faults
