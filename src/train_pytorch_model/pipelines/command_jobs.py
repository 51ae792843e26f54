"""Reads jobs that are commands: of a component, or written in the job."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from train_pytorch_model.pipelines.azure_schema import COMMAND_JOB, COMMAND_NODE
from train_pytorch_model.pipelines.bindings import Scope, output_notes, source_of, target_of, targets_of
from train_pytorch_model.pipelines.component_files import (
    code_path,
    component_of,
    num_processes,
    positive,
    read_component,
    variables,
)
from train_pytorch_model.pipelines.definition import (
    Component,
    LocalData,
    PipelineError,
    Port,
    Source,
    Step,
    local_path,
    raise_for,
)
from train_pytorch_model.pipelines.environments import environment_notes
from train_pytorch_model.pipelines.expressions import substitute, whole_expression
from train_pytorch_model.pipelines.schema_faults import schema_faults, unknown_fields
from train_pytorch_model.pipelines.yaml_files import is_remote

if TYPE_CHECKING:
    from collections.abc import Mapping


def read_step(name: str, job: dict[str, Any], scope: Scope, *, field: str = "component") -> Step:
    """Return the step that a job defines.

    Args:
        name: the name of the job.
        job: the entry of the job.
        scope: what it can refer to.
        field: the field that has the component, for messages.

    Raises:
        PipelineError: if Azure refuses the job, or it is not supported here.
    """
    where = f"{scope.path}: job {name}"
    folder = scope.path.parent
    if not isinstance(job.get("component", {}), (str, dict)) or not {"component", "command"} & set(job):
        raise PipelineError(f"{where}: it must name the file of its component, or have a command")
    schema = COMMAND_NODE if "component" in job else COMMAND_JOB
    raise_for(schema_faults(job, schema), where)
    notes = environment_notes(job.get("environment"), where, folder)
    sources = {key: source_of(key, entry, scope, where) for key, entry in job.get("inputs", {}).items()}
    component = _component(job, folder, where, field) if "component" in job else _inline(job, scope, where, sources)
    component, timeout = _configured(component, job, scope.values, where)
    targets = targets_of(job, scope, where)
    notes += [*component.notes, *(f"the field {field} is unknown and ignored" for field in unknown_fields(job, schema))]
    if "component" in job:
        notes += [f"{field} is ignored; the component has its own" for field in ("command", "code") if field in job]
    if component.num_nodes > 1 and component.num_processes is None:
        notes.append("resources.instance_count is not used without a distribution; the command runs once")
    notes += output_notes(job.get("outputs", {}))
    return Step(
        name=scope.full_name(name),
        component=component,
        inputs={key: source for key, source in sources.items() if source is not None},
        outputs={key: scope.targets[target] for key, target in targets.items() if target in scope.targets},
        environment={
            key: substitute(text, scope.values) for key, text in variables(job.get("environment_variables")).items()
        },
        timeout=timeout,
        notes=tuple(notes),
    )


def component_file(job: Mapping[str, Any], folder: Path, where: str) -> Optional[Path]:
    """Return the file of a job's component; None if the component is in the job.

    Args:
        job: the entry of the job.
        folder: what the path of the component is relative to.
        where: where the job is, for messages.

    Raises:
        PipelineError: if the component is registered in a workspace or a registry.
    """
    given = job.get("component")
    if not isinstance(given, str):
        return None
    if is_remote(given) or given.startswith("/subscriptions/"):
        raise PipelineError(
            f"{where}: {given} is a registered component, in a workspace or a registry, which is not supported;"
            " give the file of the component"
        )
    return Path(os.path.realpath(folder / local_path(given)))


def _component(job: dict[str, Any], folder: Path, where: str, field: str) -> Component:
    file = component_file(job, folder, where)
    component = component_of(job["component"], f"{where}: {field}", folder) if file is None else read_component(file)
    types = {
        name: str(entry["type"]).lower()
        for name, entry in job.get("outputs", {}).items()
        if isinstance(entry, dict) and "type" in entry and name in component.outputs
    }
    return replace(component, outputs={**component.outputs, **{name: Port(kind) for name, kind in types.items()}})


def _inline(job: dict[str, Any], scope: Scope, where: str, sources: Mapping[str, Optional[Source]]) -> Component:
    """Return the component of a command that is written in the job; the types follow from the entries."""
    ports = {
        name: Port(source.type if isinstance(source, LocalData) else "")  # The checks accept every value for "".
        for name, source in sources.items()
    }
    for name, entry in job.get("inputs", {}).items():
        if re.fullmatch(r"parent\.inputs\..*\..*", whole_expression(entry) or ""):
            raise PipelineError(
                f"{where}: input {name}: Azure does not find {entry} for a command in the job; use a component,"
                " or a name without a dot"
            )
    types = {}
    for name, entry in job.get("outputs", {}).items():
        own = entry.get("type") if isinstance(entry, dict) else None
        types[name] = str(own or scope.types.get(target_of(entry) or "") or "uri_folder").lower()
    return Component(
        where=where,
        name=where,
        inputs=ports,
        outputs={name: Port(kind) for name, kind in types.items()},
        command=job["command"].strip(),
        folder=scope.path.parent,
        code=code_path(job.get("code"), where, scope.path.parent),
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
