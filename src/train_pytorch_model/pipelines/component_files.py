"""Reads command components, from files or from a mapping in a pipeline."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from train_pytorch_model.pipelines.azure_schema import COMPONENT
from train_pytorch_model.pipelines.definition import (
    DATA_TYPES,
    LITERAL_TYPES,
    Component,
    PipelineError,
    Port,
    local_path,
    raise_for,
)
from train_pytorch_model.pipelines.environments import environment_notes
from train_pytorch_model.pipelines.expression_checks import is_descriptive
from train_pytorch_model.pipelines.expressions import unresolved
from train_pytorch_model.pipelines.schema_faults import schema_faults, unknown_fields
from train_pytorch_model.pipelines.schema_parts import is_true
from train_pytorch_model.pipelines.yaml_files import dotted, is_remote, leaves, read_yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

_IGNORED_VARIABLES = "Azure ignores the environment_variables of a component; put them into the job"
# float() raises an error for larger integers.
_FLOAT_LIMIT = 2**1023


def read_component(path: Path) -> Component:
    """Read a command component.

    Raises:
        PipelineError: if the file does not exist, is not YAML, or does not define a command component.
    """
    return component_of(read_yaml(path), str(path), path.parent)


def component_of(document: dict[str, Any], where: str, folder: Path) -> Component:
    """Return the component that a document defines.

    Args:
        document: the component.
        where: where the document is, for messages.
        folder: what its paths are relative to.

    Raises:
        PipelineError: if it is not a command component, or Azure refuses it.
    """
    kind = str(document.get("type", "command")).lower()
    if kind != "command" or ("type" not in document and "command" not in document):
        described = f" but of type {document['type']!r}" if "type" in document else " as it has no command"
        raise PipelineError(f"{where}: it is not a component of type command,{described}, which alone is supported")
    raise_for(schema_faults(document, COMPONENT), where)
    faults = [
        f"{dotted(place)}: {fault}"
        for place, text in leaves(document)
        if isinstance(text, str) and place[0] not in ("command", "environment_variables") and not is_descriptive(place)
        for fault in unresolved(text, {}, "only the command may contain expressions")
    ]
    raise_for(faults, where)
    environment = environment_notes(document["environment"], where, folder)
    resources = document.get("resources", {})
    return Component(
        where=where,
        name=str(document.get("name")),
        inputs=input_ports(document),
        outputs=output_ports(document, where),
        command=document["command"].strip(),
        folder=folder,
        code=code_path(document.get("code"), where, folder),
        includes=tuple(
            Path(os.path.realpath(folder / local_path(text))) for text in document.get("additional_includes", ())
        ),
        num_processes=num_processes(document.get("distribution"), None, where),
        num_nodes=positive(resources.get("instance_count", 1), "resources.instance_count", where),
        is_deterministic=is_true(document.get("is_deterministic", True)),
        shared_memory=resources.get("shm_size"),
        environment=variables(document.get("environment_variables")),
        notes=(
            *environment,
            *(f"{where}: the field {field} is unknown and ignored" for field in unknown_fields(document, COMPONENT)),
            *((_IGNORED_VARIABLES,) if "environment_variables" in document else ()),
        ),
    )


def input_ports(document: Mapping[str, Any]) -> dict[str, Port]:
    """Return the inputs that a component declares."""
    return {name: _input_port(entry) for name, entry in document.get("inputs", {}).items()}


def output_ports(document: Mapping[str, Any], where: str) -> dict[str, Port]:
    """Return the outputs that a component declares.

    Raises:
        PipelineError: if one is a literal.
    """
    return {name: _output_port(name, entry, where) for name, entry in document.get("outputs", {}).items()}


def num_processes(distribution: Optional[Mapping[str, Any]], default: Optional[int], where: str) -> Optional[int]:
    """Return the processes per node of a distribution; the default if there is none.

    Raises:
        PipelineError: if it is of another type than pytorch, or the number is not positive.
    """
    if distribution is None:
        return default
    if str(distribution["type"]).lower() != "pytorch":
        kind = distribution["type"]
        raise PipelineError(f"{where}: only distribution pytorch is supported, but got {kind!r}")
    count = distribution.get("process_count_per_instance", default or 1)
    return positive(count, "distribution.process_count_per_instance", where)


def positive(value: object, name: str, where: str) -> int:
    """Return a positive integer, which may be text.

    Raises:
        PipelineError: if it is not one.
    """
    text = str(value).strip()
    number = int(float(text)) if text.replace(".0", "").lstrip("+").isdigit() else 0
    if number < 1:
        raise PipelineError(f"{where}: {name} is {value!r}, which is not a positive integer")
    return number


def code_path(code: Optional[str], where: str, folder: Path) -> Optional[Path]:
    """Return the absolute path of code.

    Raises:
        PipelineError: if it is in a workspace or a Git repository.
    """
    if code is None:
        return None
    if is_remote(code):
        raise PipelineError(f"{where}: the code {code!r} is not on this machine, which is not supported")
    return Path(os.path.realpath(folder / local_path(code)))


def variables(entries: Optional[Mapping[str, Any]]) -> dict[str, str]:
    """Return environment variables as texts, without those that are null."""
    return {name: str(value) for name, value in (entries or {}).items() if value is not None}


def _input_port(entry: Mapping[str, Any]) -> Port:
    kind = "uri_folder" if entry["type"] == "path" else entry["type"]
    default = entry.get("default")
    return Port(
        type=kind,
        optional=is_true(entry.get("optional", False)),
        default=default if default is None or kind in DATA_TYPES else _default(default, kind),
        minimum=_number(entry.get("min")),
        maximum=_number(entry.get("max")),
        choices=tuple(entry.get("enum", ())),
    )


def _default(default: Any, kind: str) -> Any:
    """Convert a default as azure-ai-ml does, which writes the integer 3 as `3.0` for a number and for a string."""
    if kind == "boolean":
        return {"true": True, "false": False}.get(str(default).lower(), default)
    if kind == "integer" and isinstance(default, float) and default.is_integer():
        return int(default)
    if isinstance(default, int) and not isinstance(default, bool) and abs(default) < _FLOAT_LIMIT and kind != "integer":
        return str(float(default)) if kind == "string" else float(default)
    return default


def _number(value: Any) -> Optional[float]:
    return float(value) if isinstance(value, str) else value


def _output_port(name: str, entry: Mapping[str, Any], where: str) -> Port:
    if entry["type"] in LITERAL_TYPES:
        raise PipelineError(f"{where}: output {name} is of type {entry['type']}, which is not supported; use uri_file")
    return Port("uri_folder" if entry["type"] == "path" else entry["type"])
