"""Reads pipelines from the YAML of `az ml job create`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from train_pytorch_model.pipelines.azure_schema import PIPELINE, is_true
from train_pytorch_model.pipelines.component_files import is_descriptive
from train_pytorch_model.pipelines.definition import (
    Given,
    Literal,
    LocalData,
    Pipeline,
    PipelineError,
    PipelineInput,
    Step,
)
from train_pytorch_model.pipelines.expressions import unresolved, whole_expression
from train_pytorch_model.pipelines.job_entries import data_or_literal, is_command, output_notes, read_step
from train_pytorch_model.pipelines.schema_faults import schema_faults
from train_pytorch_model.pipelines.yaml_files import dotted, leaves, read_yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

# Azure replaces these in the path of an output and in names.
_MACROS = frozenset({"name", "default_datastore", "output_name"})
_HINT = (
    "in a pipeline, ${{parent.inputs.NAME}} is the value of an input, and an input of a job can be"
    " ${{parent.jobs.JOB.outputs.NAME}} as a whole"
)
_OUTPUT_HINT = "the output of a job can be ${{parent.outputs.NAME}} as a whole, and a path can contain ${{name}}"
_UNUSED = ("compute", "environment", "identity", "services", "queue_settings")


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
    if str(document.get("type")).lower() != "pipeline":
        raise PipelineError(f"{path}: expected type pipeline, but got {document.get('type')!r}")
    _raise_for(schema_faults(document, PIPELINE), path)
    if document.get("component") and document.get("jobs"):
        raise PipelineError(f"{path}: it has both jobs and a component, which Azure refuses")
    if not document.get("jobs"):
        is_nested = "component" in document
        raise PipelineError(
            f"{path}: it has no jobs" + ("; a pipeline component is not supported" if is_nested else "")
        )
    inputs = _inputs(document, values or {}, path)
    known = {f"parent.inputs.{name}": str(given.value) for name, given in inputs.items() if isinstance(given, Literal)}
    _raise_for(_expression_faults(document, known), path)
    outputs = {name: entry or {} for name, entry in document.get("outputs", {}).items()}
    unused = [field for field in _UNUSED if any(field in part for part in (document, *document["jobs"].values()))]
    notes = output_notes(outputs)
    faults, steps = [], {}
    for name, job in document["jobs"].items():
        try:
            steps[name] = read_step(name, job, path, known, outputs)
            notes += [f"job {name}: {note}" for note in steps[name].notes]
        except PipelineError as error:
            faults.append(str(error))
    if faults:
        raise PipelineError("; ".join(faults))
    settings = document.get("settings", {})
    if is_true(settings.get("continue_on_step_failure", False)):
        notes.append("settings.continue_on_step_failure: here, a job that fails stops the others")
    return Pipeline(
        path=path,
        name=str(document.get("display_name") or document.get("experiment_name") or path.stem),
        inputs=_as_data(inputs, values or {}, steps),
        outputs=tuple(outputs),
        steps=steps,
        force=is_true(settings.get("force_rerun", False)),
        unused=tuple(unused),
        notes=tuple(notes),
    )


def _raise_for(faults: list[str], path: Path) -> None:
    if faults:
        raise PipelineError("; ".join(f"{path}: {fault}" for fault in faults))


def _inputs(document: dict[str, Any], values: Mapping[str, str], path: Path) -> dict[str, Optional[Given]]:
    declared = document.get("inputs", {})
    unknown = sorted(set(values) - set(declared))
    if unknown:
        raise PipelineError(f"{path}: there is no input {', '.join(unknown)}; there is {', '.join(declared) or 'none'}")
    given = {name: data_or_literal(entry) for name, entry in declared.items()}
    for name, value in values.items():
        is_data = isinstance(declared[name], dict) and "value" not in declared[name]
        given[name] = _local(value) if is_data else Literal(value)
    return given


def _local(value: str) -> LocalData:
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


def _expression_faults(document: dict[str, Any], known: Mapping[str, str]) -> list[str]:
    """Describe the expressions that cannot be resolved, except those in commands and components."""
    faults = []
    for place, text in leaves(document):
        if not isinstance(text, str) or "${{" not in text or is_descriptive(place):
            continue
        if place[0] == "jobs" and not is_command(document["jobs"][place[1]]):
            continue
        allowed: set[str] = set(known)
        if place[0] != "jobs":
            allowed = set() if place[0] == "inputs" else set(_MACROS)
        elif len(place) > 2 and place[2] in ("command", "component"):
            continue
        elif len(place) > 3 and place[2] == "inputs" and place[-1] in (place[3], "path"):
            # Whether what is bound as a whole exists is checked with the graph.
            whole = whole_expression(text) or ""
            allowed |= {whole} if whole.startswith(("parent.inputs.", "parent.jobs.")) else set()
        elif len(place) > 3 and place[2] == "outputs" and place[-1] in (place[3], "path"):
            whole = whole_expression(text) or ""
            allowed = {whole} if whole.startswith("parent.outputs.") else set(_MACROS)
        elif len(place) > 3 and place[2] == "environment_variables":
            continue  # They may contain the inputs and outputs of the component, which is not read yet.
        elif place[2] in ("display_name", "experiment_name", "name"):
            allowed |= _MACROS
        hint = _OUTPUT_HINT if "outputs" in (place[0], place[min(2, len(place) - 1)]) else _HINT
        faults += [f"{dotted(place)}: {fault}" for fault in unresolved(text, allowed, hint)]
    return faults
