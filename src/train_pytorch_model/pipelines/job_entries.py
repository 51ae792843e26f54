"""Reads the jobs of a pipeline: commands of components and commands written in the job."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from train_pytorch_model.pipelines.azure_schema import COMMAND_JOB, COMMAND_NODE
from train_pytorch_model.pipelines.component_files import (
    check_environment,
    code_path,
    component_of,
    num_processes,
    positive,
    read_component,
    variables,
)
from train_pytorch_model.pipelines.definition import (
    Component,
    Given,
    Literal,
    LocalData,
    PipelineError,
    PipelineInput,
    Port,
    Source,
    Step,
    StepOutput,
    local_path,
)
from train_pytorch_model.pipelines.expressions import substitute, whole_expression
from train_pytorch_model.pipelines.schema_faults import schema_faults, unknown_fields
from train_pytorch_model.pipelines.yaml_files import is_remote

if TYPE_CHECKING:
    from collections.abc import Mapping

_NOT_SUPPORTED = ("pipeline", "sweep", "parallel", "automl", "spark", "import", "data_transfer")
_NOT_SUPPORTED_FLOW = ("do_while", "if_else", "parallel_for")
_STEP_OUTPUT = re.compile(r"parent\.jobs\.([^.]+)\.outputs\.(.+)")


def read_step(name: str, job: dict[str, Any], path: Path, known: Mapping[str, str], outputs: Mapping[str, Any]) -> Step:
    """Return the step that a job of a pipeline defines.

    Args:
        name: the name of the job.
        job: the entry of the job.
        path: the file of the pipeline.
        known: values of the expressions that a job can contain, such as `parent.inputs.x`.
        outputs: entries of the pipeline's outputs, by name.

    Raises:
        PipelineError: if Azure refuses the job, or it is not supported here.
    """
    where = f"{path}: job {name}"
    kind = str(job.get("type", "command")).lower()
    if kind in (*_NOT_SUPPORTED, *_NOT_SUPPORTED_FLOW):
        raise PipelineError(f"{where}: type {kind} is not supported; run-pipeline runs jobs of type command")
    if not is_command(job):
        raise PipelineError(f"{where}: type {job['type']!r} is unknown; run-pipeline runs jobs of type command")
    if not isinstance(job.get("component", {}), (str, dict)) or not {"component", "command"} & set(job):
        raise PipelineError(f"{where}: it must name the file of its component, or have a command")
    schema = COMMAND_NODE if "component" in job else COMMAND_JOB
    faults = schema_faults(job, schema)
    if faults:
        raise PipelineError("; ".join(f"{where}: {fault}" for fault in faults))
    check_environment(job.get("environment"), where, path.parent)
    sources = {key: _source(key, entry, known, where) for key, entry in job.get("inputs", {}).items()}
    component = _component(job, path, where) if "component" in job else _inline(job, path, where, sources, outputs)
    component, timeout = _configured(component, job, known, where)
    targets = {key: _target(entry) for key, entry in job.get("outputs", {}).items()}
    notes = [*component.notes, *(f"the field {field} is unknown and ignored" for field in unknown_fields(job, schema))]
    if "component" in job:
        notes += [f"{field} is ignored; the component has its own" for field in ("command", "code") if field in job]
    if component.num_nodes > 1 and component.num_processes is None:
        notes.append("resources.instance_count is not used without a distribution; the command runs once")
    notes += output_notes(job.get("outputs", {}))
    return Step(
        name=name,
        component=component,
        inputs={key: source for key, source in sources.items() if source is not None},
        outputs={key: target for key, target in targets.items() if target is not None},
        environment={key: substitute(text, known) for key, text in variables(job.get("environment_variables")).items()},
        timeout=timeout,
        notes=tuple(notes),
    )


def is_command(job: Mapping[str, Any]) -> bool:
    """Whether a job is of type command, which is the default."""
    return str(job.get("type", "command")).lower() == "command"


def data_or_literal(entry: Any) -> Optional[Given]:
    """Return the value of an input: data for a mapping with a path, a literal for a scalar, None without a value."""
    if not isinstance(entry, dict):
        return Literal(entry)
    if "value" in entry:
        return Literal(entry["value"])
    return LocalData(entry["path"], str(entry.get("type", "uri_folder")).lower()) if "path" in entry else None


def output_notes(outputs: Mapping[str, Any]) -> list[str]:
    """Describe what is not used of the outputs of a job or a pipeline."""
    notes = []
    for name, entry in outputs.items():
        if isinstance(entry, dict) and "path" in entry and _target(entry) is None:
            notes.append(f"outputs.{name}.path is not used; the output is written to the folder of the run")
        if isinstance(entry, dict) and "name" in entry:
            notes.append(f"outputs.{name}.name is not used; nothing is registered")
    return notes


def _source(key: str, entry: Any, known: Mapping[str, str], where: str) -> Optional[Source]:
    text = entry.get("path") if isinstance(entry, dict) else entry
    whole = whole_expression(text) or ""
    if whole.startswith("parent.inputs."):
        return PipelineInput(whole[len("parent.inputs.") :])
    if found := _STEP_OUTPUT.fullmatch(whole):
        return StepOutput(found[1], found[2])
    if whole.startswith("parent.jobs."):
        raise PipelineError(
            f"{where}: input {key}: {text} is not supported; only ${{{{parent.jobs.JOB.outputs.NAME}}}} is"
        )
    given = data_or_literal(entry)
    if isinstance(given, LocalData):
        return replace(given, path=substitute(given.path, known))
    return Literal(substitute(given.value, known)) if given is not None and isinstance(given.value, str) else given


def _target(entry: Any) -> Optional[str]:
    whole = whole_expression(entry.get("path") if isinstance(entry, dict) else entry) or ""
    return whole[len("parent.outputs.") :] if whole.startswith("parent.outputs.") else None


def _component(job: dict[str, Any], path: Path, where: str) -> Component:
    given = job["component"]
    if isinstance(given, dict):
        component = component_of(given, f"{where}: component", path.parent)
    elif is_remote(given) or given.startswith("/subscriptions/"):
        raise PipelineError(
            f"{where}: {given} is a registered component, in a workspace or a registry, which is not supported;"
            " give the file of the component"
        )
    else:
        component = read_component(Path(os.path.realpath(path.parent / local_path(given))))
    types = {
        name: str(entry["type"]).lower()
        for name, entry in job.get("outputs", {}).items()
        if isinstance(entry, dict) and "type" in entry and name in component.outputs
    }
    return replace(component, outputs={**component.outputs, **{name: Port(kind) for name, kind in types.items()}})


def _inline(
    job: dict[str, Any], path: Path, where: str, sources: Mapping[str, Optional[Source]], outputs: Mapping[str, Any]
) -> Component:
    """Return the component of a command that is written in the job; the types follow from the entries."""
    ports = {
        name: Port(source.type if isinstance(source, LocalData) else "")  # The checks accept every value for "".
        for name, source in sources.items()
    }
    types = {}
    for name, entry in job.get("outputs", {}).items():
        declared = outputs.get(_target(entry) or "") if not isinstance(entry, dict) or "type" not in entry else entry
        types[name] = str((declared or {}).get("type", "uri_folder")).lower()
    return Component(
        where=where,
        name=where,
        inputs=ports,
        outputs={name: Port(kind) for name, kind in types.items()},
        command=job["command"].strip(),
        folder=path.parent,
        code=code_path(job.get("code"), where, path.parent),
        includes=(),
        num_processes=None,
        num_nodes=1,
        is_deterministic=True,
        shared_memory=None,
        is_inline=True,
    )


def _configured(
    component: Component, job: dict[str, Any], known: Mapping[str, str], where: str
) -> tuple[Component, Optional[float]]:
    """Return the component with the job's distribution and resources, and the job's timeout in seconds."""
    resources, limits = job.get("resources", {}), job.get("limits", {})

    def count(fields: Mapping[str, Any], name: str, default: Any) -> Any:
        value = fields.get(name, default)
        return substitute(value, known) if isinstance(value, str) else value

    distribution = dict(job["distribution"]) if "distribution" in job else None
    if distribution is not None and "process_count_per_instance" in distribution:
        distribution["process_count_per_instance"] = count(distribution, "process_count_per_instance", 1)
    timeout = count(limits, "timeout", None)
    configured = replace(
        component,
        num_processes=num_processes(distribution, component.num_processes, where),
        num_nodes=positive(count(resources, "instance_count", component.num_nodes), "resources.instance_count", where),
        shared_memory=resources.get("shm_size", component.shared_memory),
    )
    return configured, None if timeout is None else positive(timeout, "limits.timeout", where)
