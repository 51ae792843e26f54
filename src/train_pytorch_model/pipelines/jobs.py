"""Reads the jobs of a pipeline, and those of its pipeline components."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from train_pytorch_model.pipelines.azure_schema import PIPELINE_COMPONENT, PIPELINE_NODE
from train_pytorch_model.pipelines.bindings import Scope, output_notes, source_of, targets_of
from train_pytorch_model.pipelines.command_jobs import component_file, read_step
from train_pytorch_model.pipelines.component_files import input_ports, output_ports
from train_pytorch_model.pipelines.definition import (
    Interface,
    Literal,
    Node,
    PipelineError,
    Step,
    StepOutput,
    raise_for,
)
from train_pytorch_model.pipelines.expression_checks import expression_faults
from train_pytorch_model.pipelines.expressions import whole_expression
from train_pytorch_model.pipelines.schema_faults import schema_faults, unknown_fields
from train_pytorch_model.pipelines.schema_parts import is_true
from train_pytorch_model.pipelines.sweep_jobs import read_sweep
from train_pytorch_model.pipelines.yaml_files import read_yaml

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_NOT_SUPPORTED = ("parallel", "automl", "spark", "import", "data_transfer")
_NOT_SUPPORTED_FLOW = ("do_while", "if_else", "parallel_for")
_NAME = re.compile(r"[a-z_][a-z0-9_]*")


@dataclass(frozen=True)
class Jobs:
    """The jobs of a pipeline, with those of its pipeline components."""

    steps: tuple[Step, ...] = ()
    nested: tuple[Node, ...] = ()
    """Jobs that are pipeline components."""
    bound: tuple[tuple[StepOutput, StepOutput], ...] = ()
    """Outputs of pipeline components, each with the output of a job that it is."""
    notes: tuple[str, ...] = ()
    fields: frozenset[str] = frozenset()
    """The fields of the entries."""


def read_jobs(jobs: Mapping[str, Any], scope: Scope) -> Jobs:
    """Read the jobs of a pipeline or of a pipeline component.

    Args:
        jobs: the entries of the jobs, by name.
        scope: what they can refer to.

    Raises:
        PipelineError: if Azure refuses a job, or it is not supported here.
    """
    faults, found = [], []
    for name, job in jobs.items():
        try:
            found.append(_read_job(name, job, scope))
        except PipelineError as error:
            faults.append(str(error))
    writers = defaultdict(list)
    for output, source in (pair for part in found for pair in part.bound):
        writers[output].append(source.step)
    faults += [
        f"{scope.path}: the pipeline's output {output.output} is bound to outputs of several jobs: {', '.join(names)}"
        for output, names in writers.items()
        if output.step == scope.name and len(names) > 1
    ]
    faults = faults or _faults_of_undeclared_outputs(jobs, scope)
    if faults:
        raise PipelineError("; ".join(faults))
    return Jobs(
        steps=tuple(step for part in found for step in part.steps),
        nested=tuple(node for part in found for node in part.nested),
        bound=tuple(pair for part in found for pair in part.bound),
        notes=tuple(note for part in found for note in part.notes),
        fields=frozenset(field for part in found for field in part.fields),
    )


def _faults_of_undeclared_outputs(jobs: Mapping[str, Any], scope: Scope) -> list[str]:
    """Describe the inputs of commands whose type Azure does not find, as the trial of a sweep does not declare it."""
    undeclared = {
        f"parent.jobs.{name}.outputs.{output}": f"under trial.outputs of job {name}"
        for name, job in jobs.items()
        if isinstance(trial := job.get("trial"), dict)
        for output in set(job.get("outputs", {})) - set(trial.get("outputs", {}))
    }
    return [
        f"{scope.path}: job {name}: input {key}: Azure does not find the type of {entry} for a command in the job;"
        f" declare the output {place}, or write {{type: uri_folder, path: '{entry}'}}"
        for name, job in jobs.items()
        if "command" in job and "component" not in job
        for key, entry in job.get("inputs", {}).items()
        if isinstance(entry, str) and (place := undeclared.get(whole_expression(entry) or ""))
    ]


def _kind(job: Mapping[str, Any], folder: Path, where: str) -> str:
    """Return the type that a job says, or else the type that its trial or its component means."""
    if "type" in job:
        return str(job["type"]).lower()
    if "trial" in job:
        return "sweep"
    file = component_file(job, folder, where)
    return "command" if file is None else str(read_yaml(file).get("type", "command")).lower()


def _read_job(name: str, job: dict[str, Any], scope: Scope) -> Jobs:
    where = f"{scope.path}: job {name}"
    kind = _kind(job, scope.path.parent, where)
    if kind not in ("command", "pipeline", "sweep"):
        is_known = kind in (*_NOT_SUPPORTED, *_NOT_SUPPORTED_FLOW)
        fault = f"type {kind} is not supported" if is_known else f"type {kind!r} is unknown"
        raise PipelineError(f"{where}: {fault}; run-pipeline runs jobs of type command, pipeline and sweep")
    if not _NAME.fullmatch(name):
        raise PipelineError(f"{where}: its name may only contain a-z, 0-9 and _, no digit first")
    if kind == "pipeline":
        read = _read_nested(name, job, scope, where)
    else:
        step = read_sweep(name, job, scope) if kind == "sweep" else read_step(name, job, scope)
        read = Jobs(steps=(step,), notes=tuple(f"job {step.name}: {note}" for note in step.notes))
    own = tuple(
        (StepOutput(scope.name, target), StepOutput(scope.full_name(name), output))
        for output, target in targets_of(job, scope, where).items()
    )
    return replace(read, bound=own + read.bound, fields=read.fields | set(job))


def _read_nested(name: str, job: dict[str, Any], scope: Scope, where: str) -> Jobs:
    """Read a job that is a pipeline component, with the jobs of the component."""
    raise_for(schema_faults(job, PIPELINE_NODE), where)
    path = component_file(job, scope.path.parent, where)
    if path is None or job["component"].startswith("file:"):
        raise PipelineError(f"{where}: {job['component']!r} is not the path of a file, such as ./component.yaml")
    if path in (scope.path, *scope.above):
        raise PipelineError(f"{where}: the pipeline component {path} contains itself")
    document = read_yaml(path)
    component = _interface(document, path)
    sources = {key: source_of(key, entry, scope, where) for key, entry in job.get("inputs", {}).items()}
    node = Node(
        name=scope.full_name(name),
        component=component,
        inputs={key: source for key, source in sources.items() if source is not None and key in component.inputs},
    )
    missing = [
        f"the required input {key} has no value"
        for key, port in component.inputs.items()
        if key not in node.inputs and not port.optional and port.default is None
    ]
    raise_for(missing, where)
    inner = _inner_scope(node, job, scope, path, where)
    raise_for(expression_faults(document, inner.values), path)
    jobs = read_jobs(document["jobs"], inner)
    raise_for(_faults_of_optional_inputs(node.component, document["jobs"], jobs, inner), path)
    written = {output.output for output, _ in jobs.bound if output.step == node.name}
    unwritten = sorted(set(targets_of(job, scope, where)) - written)
    if unwritten:
        raise PipelineError(f"{where}: no job of {path} writes the output {', '.join(unwritten)}")
    steps = jobs.steps
    if not is_true(document.get("is_deterministic", True)):
        steps = tuple(replace(step, component=replace(step.component, is_deterministic=False)) for step in steps)
    notes = _notes(node, job, document)
    return replace(jobs, steps=steps, nested=(node, *jobs.nested), notes=(*notes, *jobs.notes))


def _notes(node: Node, job: Mapping[str, Any], document: dict[str, Any]) -> list[str]:
    """Describe what is not used of a job that is a pipeline component, and of the component."""
    unknown = unknown_fields(document, PIPELINE_COMPONENT)
    notes = [f"{node.component.where}: the field {field} is unknown and ignored" for field in unknown]
    own = [f"{field} of a pipeline component is not used" for field in job if field not in PIPELINE_NODE["properties"]]
    own += [
        f"the component has no input {key}; it is ignored, as in Azure"
        for key in job.get("inputs", {})
        if key not in node.component.inputs
    ]
    return [*notes, *(f"job {node.name}: {note}" for note in own + output_notes(job.get("outputs", {})))]


def _faults_of_optional_inputs(component: Interface, entries: Mapping[str, Any], jobs: Jobs, inner: Scope) -> list[str]:
    """Describe the required inputs of jobs that are bound to an optional input of their pipeline component."""
    optional = {f"parent.inputs.{name}": name for name, port in component.inputs.items() if port.optional}
    ports = {node.name: node.component.inputs for node in (*jobs.steps, *jobs.nested)}
    return [
        f"the optional input {optional[whole]} is bound to the required input {key} of job {name}"
        for name, job in entries.items()
        if {"component", "trial"} & set(job)
        for key, entry in job.get("inputs", {}).items()
        if (whole := whole_expression(entry) or "") in optional
        and key in (known := ports[inner.full_name(name)])
        and not known[key].optional
    ]


def _interface(document: dict[str, Any], path: Path) -> Interface:
    """Return the inputs and outputs of a pipeline component.

    Raises:
        PipelineError: if the document does not define one.
    """
    if str(document.get("type", "pipeline")).lower() != "pipeline":
        raise PipelineError(f"{path}: it is not a component of type pipeline, but of type {document['type']!r}")
    raise_for(schema_faults(document, PIPELINE_COMPONENT), path)
    if not document.get("jobs"):
        raise PipelineError(f"{path}: it has no jobs")
    return Interface(
        where=str(path),
        name=str(document.get("name")),
        inputs=input_ports(document),
        outputs=output_ports(document, str(path)),
    )


def _inner_scope(node: Node, job: Mapping[str, Any], scope: Scope, path: Path, where: str) -> Scope:
    """Return what the jobs of a pipeline component can refer to: the inputs and outputs of the component."""
    component, entries = node.component, job.get("inputs", {})
    defaults = {
        name: None if port.default is None else Literal(port.default) for name, port in component.inputs.items()
    }
    inputs = {name: node.inputs.get(name, default) for name, default in defaults.items()}
    # A literal that comes from an input of the pipeline is known by its expression.
    texts = {name: scope.values.get(whole_expression(entries.get(name)) or "") for name in inputs}
    texts.update({name: str(source.value) for name, source in inputs.items() if isinstance(source, Literal)})
    targets = {
        output: scope.targets[target]
        for output, target in targets_of(job, scope, where).items()
        if target in scope.targets
    }
    return Scope(
        path=path,
        inputs=inputs,
        values={f"parent.inputs.{name}": text for name, text in texts.items() if text is not None},
        types={name: port.type for name, port in component.outputs.items()},
        targets=targets,
        name=node.name,
        above=(scope.path, *scope.above),
    )
