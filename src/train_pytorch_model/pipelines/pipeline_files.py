"""Reads pipelines from the YAML of `az ml job create`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, TypeVar

from train_pytorch_model.pipelines.azure_schema import PIPELINE
from train_pytorch_model.pipelines.bindings import Scope, data_or_literal, output_notes
from train_pytorch_model.pipelines.definition import (
    Given,
    Literal,
    LocalData,
    Node,
    Pipeline,
    PipelineError,
    PipelineInput,
    Source,
    Step,
    StepOutput,
    raise_for,
)
from train_pytorch_model.pipelines.expression_checks import expression_faults
from train_pytorch_model.pipelines.jobs import read_jobs
from train_pytorch_model.pipelines.schema_faults import schema_faults
from train_pytorch_model.pipelines.schema_parts import is_true
from train_pytorch_model.pipelines.yaml_files import is_remote, read_yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

AnyNode = TypeVar("AnyNode", bound=Node)
_UNUSED = ("compute", "identity", "services", "queue_settings")


def read_pipeline(path: Path, values: Optional[Mapping[str, str]] = None) -> Pipeline:
    """Read a pipeline job.

    Args:
        path: its YAML file.
        values: values of its inputs, by name, instead of those in the file.

    Raises:
        PipelineError: if a file does not exist, is not YAML, does not define a pipeline or a command component, or
            contains something that Azure refuses or that is not supported here.
    """
    document = read_yaml(path)
    if document.get("type") != "pipeline":
        kind = document.get("type")
        hint = "; write this job under the jobs of a pipeline" if kind in ("command", "sweep") else ""
        raise PipelineError(f"{path}: expected type pipeline, but got {kind!r}{hint}")
    raise_for(schema_faults(document, PIPELINE), path)
    if document.get("component") and document.get("jobs"):
        raise PipelineError(f"{path}: it has both jobs and a component, which Azure refuses")
    entries = document.get("jobs") or _job_of_component(document)
    if not entries:
        raise PipelineError(f"{path}: it has no jobs")
    inputs = _inputs(document, values or {}, path)
    known = {f"parent.inputs.{name}": str(given.value) for name, given in inputs.items() if isinstance(given, Literal)}
    raise_for(expression_faults(document, known), path)
    outputs = {name: entry or {} for name, entry in document.get("outputs", {}).items()}
    scope = Scope(
        path=path,
        inputs={name: PipelineInput(name) for name in inputs},
        values=known,
        types={name: entry.get("type") for name, entry in outputs.items()},
        targets={name: name for name in outputs},
    )
    jobs = read_jobs(entries, scope)
    bound = dict(jobs.bound)
    steps = {step.name: _with_writers(step, bound) for step in jobs.steps}
    notes = [*output_notes(outputs), *jobs.notes]
    settings = document.get("settings", {})
    if is_true(settings.get("continue_on_step_failure", False)):
        notes.append("settings.continue_on_step_failure: here, a job that fails stops the others")
    return Pipeline(
        path=path,
        name=str(document.get("display_name") or document.get("experiment_name") or path.stem),
        inputs=_as_data(inputs, values or {}, steps),
        outputs=tuple(outputs),
        steps=steps,
        nested=tuple(_with_writers(node, bound) for node in jobs.nested),
        force=is_true(settings.get("force_rerun", False)),
        unused=tuple(field for field in _UNUSED if field in jobs.fields | set(document)),
        notes=tuple(notes),
    )


def _job_of_component(document: dict[str, Any]) -> dict[str, Any]:
    """Return the only job of a pipeline that has a component instead of jobs."""
    if "component" not in document:
        return {}
    inputs = {name: f"${{{{parent.inputs.{name}}}}}" for name in document.get("inputs", {})}
    outputs = {name: f"${{{{parent.outputs.{name}}}}}" for name in document.get("outputs", {})}
    return {"component": {"type": "pipeline", "component": document["component"], "inputs": inputs, "outputs": outputs}}


def _with_writers(node: AnyNode, bound: Mapping[StepOutput, StepOutput]) -> AnyNode:
    """Bind the inputs that take an output of a pipeline component to the output of the step that writes it."""

    def writer(source: Source) -> Source:
        while isinstance(source, StepOutput) and source in bound:
            source = bound[source]
        return source

    return replace(node, inputs={name: writer(source) for name, source in node.inputs.items()})


def _inputs(document: dict[str, Any], values: Mapping[str, str], path: Path) -> dict[str, Optional[Given]]:
    declared = document.get("inputs", {})
    unknown = sorted(set(values) - set(declared))
    if unknown:
        raise PipelineError(f"{path}: there is no input {', '.join(unknown)}; there is {', '.join(declared) or 'none'}")
    given = {name: data_or_literal(entry, path.parent) for name, entry in declared.items()}
    for name, value in values.items():
        is_data = isinstance(declared[name], dict) and "value" not in declared[name]
        given[name] = _local(value) if is_data else Literal(value)
    return given


def _local(value: str) -> LocalData:
    if is_remote(value):
        return LocalData(value, "uri_file")
    path = Path(os.path.realpath(value))
    return LocalData(str(path), "uri_file" if path.is_file() else "uri_folder")


def _as_data(
    inputs: dict[str, Optional[Given]], values: Mapping[str, str], steps: Mapping[str, Step]
) -> dict[str, Optional[Given]]:
    """Take the given value of an input as a path if a step takes it as data, whatever the pipeline declares."""
    data = {
        source.name
        for step in steps.values()
        for name, source in step.inputs.items()
        if isinstance(source, PipelineInput) and name in step.component.inputs and step.component.inputs[name].is_data
    }
    return {name: _local(values[name]) if name in data & set(values) else given for name, given in inputs.items()}
