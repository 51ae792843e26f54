"""Reads pipelines and their components from the YAML of `az ml job create`: the keys that define what runs."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Optional

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from train_pytorch_model.pipelines.definition import (
    FOLDER_TYPES,
    LITERAL_TYPES,
    Component,
    Given,
    Literal,
    LocalData,
    Pipeline,
    PipelineError,
    PipelineInput,
    Port,
    Source,
    Step,
    StepOutput,
)

if TYPE_CHECKING:
    from pathlib import Path

_PARENT_INPUT = re.compile(r"^\$\{\{\s*parent\.inputs\.(\w+)\s*\}\}$")
_PARENT_OUTPUT = re.compile(r"^\$\{\{\s*parent\.outputs\.(\w+)\s*\}\}$")
_STEP_OUTPUT = re.compile(r"^\$\{\{\s*parent\.jobs\.(\w+)\.outputs\.(\w+)\s*\}\}$")


def read_pipeline(path: Path) -> Pipeline:
    """Read a pipeline job.

    Raises:
        PipelineError: if a file does not exist, is not YAML, or does not define a pipeline or a component.
    """
    document = _read_yaml(path)
    if document.get("type") != "pipeline":
        raise PipelineError(f"{path}: expected type pipeline, but got {document.get('type')!r}")
    inputs = {name: _pipeline_input(value) for name, value in _mapping(document, "inputs", path).items()}
    jobs = _mapping(document, "jobs", path)
    if not jobs:
        raise PipelineError(f"{path}: it has no jobs")
    steps = {name: _read_step(name, job, path) for name, job in jobs.items()}
    name = str(document.get("display_name") or document.get("experiment_name") or path.stem)
    return Pipeline(path, name, inputs, tuple(_mapping(document, "outputs", path)), steps)


def read_component(path: Path) -> Component:
    """Read a command component.

    Raises:
        PipelineError: if the file does not exist, is not YAML, or does not define a command component.
    """
    document = _read_yaml(path)
    if document.get("type", "command") != "command" or not isinstance(document.get("command"), str):
        raise PipelineError(f"{path}: it is not a component of type command")
    distribution = _mapping(document, "distribution", path)
    if distribution and str(distribution.get("type")).lower() != "pytorch":
        raise PipelineError(f"{path}: only distribution pytorch is supported, but got {distribution.get('type')!r}")
    resources = _mapping(document, "resources", path)
    code = document.get("code")
    return Component(
        path=path,
        name=str(document.get("name")),
        inputs={name: _port(entry, path) for name, entry in _mapping(document, "inputs", path).items()},
        outputs={name: _port(entry, path) for name, entry in _mapping(document, "outputs", path).items()},
        command=document["command"].strip(),
        code=None if code is None else (path.parent / str(code)).resolve(),
        num_processes=_count(distribution, "process_count_per_instance", 1, path) if distribution else None,
        num_nodes=_count(resources, "instance_count", 1, path) or 1,
        is_deterministic=bool(document.get("is_deterministic", True)),
        shared_memory=resources.get("shm_size"),
    )


def _read_step(name: str, job: Any, path: Path) -> Step:
    if not isinstance(job, dict) or not isinstance(job.get("component"), str):
        raise PipelineError(f"{path}: job {name!r} must name the file of its component")
    component = read_component((path.parent / job["component"]).resolve())
    distribution, resources = (_mapping(job, key, path) for key in ("distribution", "resources"))
    if distribution or resources:
        num_processes = _count(distribution, "process_count_per_instance", component.num_processes, path)
        component = replace(
            component,
            num_processes=num_processes,
            num_nodes=_count(resources, "instance_count", component.num_nodes, path) or 1,
            shared_memory=resources.get("shm_size", component.shared_memory),
        )
    inputs = {key: _step_input(value) for key, value in _mapping(job, "inputs", path).items()}
    outputs = {}
    for output, value in _mapping(job, "outputs", path).items():
        text = value.get("path") if isinstance(value, dict) else value
        found = _PARENT_OUTPUT.match(text) if isinstance(text, str) else None
        if found:
            outputs[output] = found[1]
    return Step(
        name=name,
        component=component,
        inputs={key: source for key, source in inputs.items() if source is not None},
        outputs=outputs,
        environment={key: str(value) for key, value in _mapping(job, "environment_variables", path).items()},
    )


def _step_input(value: Any) -> Optional[Source]:
    text = value.get("path") if isinstance(value, dict) else value
    if isinstance(text, str):
        if found := _PARENT_INPUT.match(text):
            return PipelineInput(found[1])
        if found := _STEP_OUTPUT.match(text):
            return StepOutput(found[1], found[2])
    return _pipeline_input(value)


def _pipeline_input(value: Any) -> Optional[Given]:
    if not isinstance(value, dict):
        return Literal(value)
    if value.get("path") is not None:
        return LocalData(str(value["path"]))
    return Literal(value["default"]) if value.get("default") is not None else None


def _port(entry: Any, path: Path) -> Port:
    if not isinstance(entry, dict) or entry.get("type") not in (*FOLDER_TYPES, *LITERAL_TYPES):
        raise PipelineError(f"{path}: an input or output is {entry!r}, which has no known type")
    for key in ("min", "max"):
        is_number = isinstance(entry.get(key), (int, float)) and entry["type"] in ("integer", "number")
        if entry.get(key) is not None and not is_number:
            raise PipelineError(
                f"{path}: {key} is {entry[key]!r} for type {entry['type']}, but only integers and numbers have bounds"
            )
    if not isinstance(entry.get("enum") or [], list):
        raise PipelineError(f"{path}: enum is {entry['enum']!r}, which is not a list")
    return Port(
        type=entry["type"],
        optional=bool(entry.get("optional", False)),
        default=entry.get("default"),
        minimum=entry.get("min"),
        maximum=entry.get("max"),
        choices=tuple(str(choice) for choice in entry.get("enum") or ()),
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        document = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, YAMLError, RecursionError) as error:
        raise PipelineError(f"{path} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise PipelineError(f"{path} does not contain a mapping")
    return document


def _mapping(document: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    value = document.get(key) or {}
    if not isinstance(value, dict):
        raise PipelineError(f"{path}: {key} is not a mapping")
    return {str(name): item for name, item in value.items()}


def _count(document: dict[str, Any], key: str, default: Optional[int], path: Path) -> Optional[int]:
    value = document.get(key, default)
    if value is not None and (not isinstance(value, int) or value < 1):
        raise PipelineError(f"{path}: {key} is {value!r}, which is not a positive integer")
    return value
