"""Finds the faults of components and pipelines before anything runs.

Azure's own local validation misses most of them, and the job then fails minutes later on a cluster.
"""

from __future__ import annotations

import math
import re
from graphlib import CycleError
from typing import TYPE_CHECKING, Any

from train_pytorch_model.pipelines.command_template import optional_inputs, placeholders, required_inputs
from train_pytorch_model.pipelines.definition import (
    LITERAL_TYPES,
    LocalData,
    PipelineInput,
    StepOutput,
)

if TYPE_CHECKING:
    from pathlib import Path

    from train_pytorch_model.pipelines.definition import Component, Pipeline, Port, Source, Step

_NAME = re.compile(r"^[a-z][a-z0-9_]*$")
_SHARED_MEMORY = re.compile(r"^\d+[bkmg]$", re.IGNORECASE)


def faults_of_component(component: Component) -> list[str]:
    """Describe every fault of a component."""
    faults = []
    if not _NAME.match(component.name):
        faults.append(f"the name {component.name!r} may only contain a-z, 0-9 and _")
    for name, port in component.inputs.items():
        faults += [f"input {name}: {fault}" for fault in _faults_of_port(port)]
    faults += _faults_of_command(component)
    if component.code is not None and not component.code.is_dir():
        faults.append(f"the code folder {component.code} does not exist")
    if component.shared_memory is not None and not _SHARED_MEMORY.match(str(component.shared_memory)):
        faults.append(f"shm_size {component.shared_memory!r} is not a number with the unit b, k, m or g")
    return [f"{component.path}: {fault}" for fault in faults]


def _faults_of_port(port: Port) -> list[str]:
    if port.is_folder:
        return [] if port.default is None else ["a folder cannot have a default"]
    faults = []
    if port.minimum is not None and port.maximum is not None and port.minimum > port.maximum:
        faults.append(f"min {port.minimum} is above max {port.maximum}")
    if port.default is not None:
        faults += [f"the default {fault}" for fault in faults_of_value(port.default, port)]
    return faults


def _faults_of_command(component: Component) -> list[str]:
    faults = []
    known = {("inputs", name) for name in component.inputs} | {("outputs", name) for name in component.outputs}
    named = placeholders(component.command)
    faults += [f"the command uses {kind}.{name}, which is not declared" for kind, name in sorted(named - known)]
    for name in sorted(required_inputs(component.command) & set(component.inputs)):
        if component.inputs[name].optional:
            faults.append(f"the optional input {name} is outside of $[[ ]] in the command")
    for name in sorted(optional_inputs(component.command) & set(component.inputs)):
        if not component.inputs[name].optional:
            faults.append(f"the required input {name} is inside of $[[ ]] in the command")
    return faults


def faults_of_value(value: Any, port: Port) -> list[str]:
    """Describe why a literal, or its text, is not a valid value of an input; empty if it is valid."""
    kind = LITERAL_TYPES[port.type]
    if isinstance(value, str) and kind is not str:
        value = _parsed(value, kind)
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    is_number = is_whole or (isinstance(value, float) and math.isfinite(value))
    is_right = {
        bool: isinstance(value, bool),
        int: is_whole or (is_number and value.is_integer()),
        float: is_number,
        str: value is not None and not isinstance(value, (list, dict)),
    }
    if not is_right[kind]:
        return [f"{value!r} is not of type {port.type}"]
    faults = []
    if port.minimum is not None and value < port.minimum:
        faults.append(f"{value!r} is below min {port.minimum}")
    if port.maximum is not None and value > port.maximum:
        faults.append(f"{value!r} is above max {port.maximum}")
    if port.choices and str(value) not in port.choices and value not in port.choices:
        faults.append(f"{value!r} is not one of {', '.join(port.choices)}")
    return faults


def _parsed(text: str, kind: type) -> Any:
    if kind is bool:
        return {"true": True, "false": False}.get(text.strip().lower(), text)
    try:
        return int(text) if kind is int else float(text)
    except ValueError:
        return text


def faults_of_pipeline(pipeline: Pipeline) -> list[str]:
    """Describe every fault of a pipeline and of its components."""
    components = {step.component.path: step.component for step in pipeline.steps.values()}
    faults = [fault for component in components.values() for fault in faults_of_component(component)]
    for name, source in pipeline.inputs.items():
        if source is None:
            faults.append(f"{pipeline.path}: the pipeline's input {name} has no value; give one with --input {name}=…")
        elif isinstance(source, LocalData):
            faults += [f"{pipeline.path}: input {name}: {fault}" for fault in _faults_of_data(source, pipeline.path)]
    for step in pipeline.steps.values():
        faults += [f"{pipeline.path}: job {step.name}: {fault}" for fault in _faults_of_step(step, pipeline)]
    return faults + _faults_of_order(pipeline)


def _faults_of_data(data: LocalData, pipeline_path: Path) -> list[str]:
    if re.match(r"^(azureml|https?|wasbs?|abfss?):", data.path):
        return [f"{data.path!r} is not on this machine; give a local folder"]
    path = (pipeline_path.parent / data.path).resolve()
    if not path.exists():
        return [f"{path} does not exist"]
    if re.search(r"[^\w./+:@%,=-]", str(path)):
        return [f"{path} contains a character that is special to a shell; give a path without it"]
    return []


def _faults_of_step(step: Step, pipeline: Pipeline) -> list[str]:
    ports = step.component.inputs
    faults = [f"the component has no input {name}" for name in step.inputs if name not in ports]
    faults += [f"the component has no output {name}" for name in step.outputs if name not in step.component.outputs]
    faults += [
        f"output {name} is bound to the pipeline's output {target}, which is not declared"
        for name, target in step.outputs.items()
        if target not in pipeline.outputs
    ]
    for name, port in ports.items():
        if name not in step.inputs and not port.optional and port.default is None:
            faults.append(f"the required input {name} has no value")
    for name, source in step.inputs.items():
        if name in ports:
            faults += [f"input {name}: {fault}" for fault in _faults_of_source(source, ports[name], pipeline)]
    return faults


def _faults_of_source(source: Source, port: Port, pipeline: Pipeline) -> list[str]:
    if isinstance(source, PipelineInput):
        if source.name not in pipeline.inputs:
            return [f"parent.inputs.{source.name} is not declared"]
        given = pipeline.inputs[source.name]
        if given is None:  # faults_of_pipeline reports it, and faults of its folder too
            return []
        if isinstance(given, LocalData):
            return [] if port.is_folder else [f"expected a value of type {port.type}, but got a folder"]
        source = given
    if isinstance(source, StepOutput):
        step = pipeline.steps.get(source.step)
        if step is None or source.output not in step.component.outputs:
            return [f"parent.jobs.{source.step}.outputs.{source.output} is not declared"]
        return [] if port.is_folder else [f"expected a value of type {port.type}, but got a folder"]
    if isinstance(source, LocalData):
        return _faults_of_data(source, pipeline.path)
    if port.is_folder:
        return [f"expected a folder, but got {source.value!r}"]
    return faults_of_value(source.value, port)


def _faults_of_order(pipeline: Pipeline) -> list[str]:
    try:
        pipeline.sorter().prepare()
    except CycleError as error:
        return [f"{pipeline.path}: the jobs {' -> '.join(error.args[1])} form a cycle"]
    return []
