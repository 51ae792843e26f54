"""Finds the faults of components and pipelines before anything runs.

Azure's own local validation misses most of them, and the job then fails minutes later on a cluster.
"""

from __future__ import annotations

import math
import re
from graphlib import CycleError
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train_pytorch_model.pipelines.command_template import is_closed, optional_inputs, required_inputs, values_of
from train_pytorch_model.pipelines.definition import (
    LITERAL_TYPES,
    LocalData,
    PipelineInput,
    StepOutput,
)
from train_pytorch_model.pipelines.expressions import expressions, unresolved
from train_pytorch_model.pipelines.web_files import is_web
from train_pytorch_model.pipelines.yaml_files import is_remote

if TYPE_CHECKING:
    from train_pytorch_model.pipelines.definition import Component, Interface, Node, Pipeline, Port, Source, Step

_COMMAND_HINT = "a command contains ${{inputs.NAME}} and ${{outputs.NAME}}"
_VARIABLE_HINT = "a variable contains ${{inputs.NAME}}, ${{outputs.NAME}} and ${{parent.inputs.NAME}}"
_PORT_NAME = re.compile(r"[\w-][\w.-]*")
_PIPELINE_INPUT = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*(\.[a-zA-Z_][a-zA-Z0-9_]*)*")
_PIPELINE_OUTPUT = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_SHARED_MEMORY = re.compile(r"^\d+[bkmg]$", re.IGNORECASE)
# A path is written into commands without quotes.
_SPECIAL_CHARACTER = re.compile(r"[^\w./+:@%,=-]")


def faults_of_component(component: Component) -> list[str]:
    """Describe every fault of a component."""
    faults = [
        f"the name {name!r} of an input or output may only contain letters, digits, and _ - ."
        for name in (*component.inputs, *component.outputs)
        if not _PORT_NAME.fullmatch(name)
    ]
    faults += _faults_of_ports(component)
    faults += _faults_of_command(component)
    if component.code is not None and not component.code.exists():
        faults.append(f"the code {component.code} does not exist")
    faults += _faults_of_includes(component)
    if component.shared_memory is not None and not _SHARED_MEMORY.match(str(component.shared_memory)):
        faults.append(f"shm_size {component.shared_memory!r} is not a number with the unit b, k, m or g")
    return [f"{component.where}: {fault}" for fault in faults]


def _faults_of_ports(component: Interface) -> list[str]:
    return [f"input {name}: {fault}" for name, port in component.inputs.items() for fault in _faults_of_port(port)]


def _faults_of_port(port: Port) -> list[str]:
    if port.is_data:
        return [] if port.default is None else ["a folder or a file cannot have a default"]
    faults = []
    if port.minimum is not None and port.maximum is not None and port.minimum > port.maximum:
        faults.append(f"min {port.minimum} is above max {port.maximum}")
    if port.default is not None:
        faults += [f"the default {fault}" for fault in faults_of_value(port.default, port)]
    return faults


def _faults_of_command(component: Component) -> list[str]:
    known = values_of(dict.fromkeys(component.inputs, ""), dict.fromkeys(component.outputs, ""))
    named = expressions(component.command)
    faults = [f"the command uses ${{{{{name}}}}}, which is not declared" for name in sorted(set(named) - set(known))]
    faults += [f"the command: {fault}" for fault in unresolved(component.command, named, _COMMAND_HINT)]
    faults += [
        f"the command: ${{{name}}} is a shell variable, and no name of one contains a dot; write ${{{{{name}}}}}"
        for name in re.findall(r"\$\{((?:parent|inputs|outputs)\.[\w.]+)\}", component.command)
    ]
    for name, value in component.environment.items():
        faults += [f"environment_variables.{name}: {fault}" for fault in unresolved(value, known, _COMMAND_HINT)]
    if not is_closed(component.command):
        faults.append("the command contains $[[ without ]]")
    if component.is_inline:
        return faults
    for name in sorted(required_inputs(component.command) & set(component.inputs)):
        if component.inputs[name].optional and component.inputs[name].default is None:
            faults.append(f"the optional input {name} is outside of $[[ ]] in the command")
    for name in sorted(optional_inputs(component.command) & set(component.inputs)):
        if not component.inputs[name].optional:
            faults.append(f"the required input {name} is inside of $[[ ]] in the command")
    return faults


def _faults_of_includes(component: Component) -> list[str]:
    faults = []
    for source in component.includes:
        folder = source.with_suffix("") if source.suffix == ".zip" else source
        if not source.exists() and folder.is_dir():
            faults.append(f"additional_includes: {source} stands for a folder to compress, which is not supported")
        elif not source.exists():
            faults.append(f"additional_includes: {source} does not exist")
        elif component.code is not None and (component.code / source.name).exists():
            beside = component.code / source.name
            if not (beside.is_symlink() and beside.resolve() == source):
                faults.append(f"additional_includes: the code contains {source.name} already")
    return faults


def faults_of_value(value: Any, port: Port) -> list[str]:
    """Describe why a literal, or its text, is not a valid value of an input; empty if it is valid."""
    kind = LITERAL_TYPES.get(port.type, str)
    if isinstance(value, str) and kind is not str:
        value = _parsed(value, kind)
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    is_number = is_whole or (isinstance(value, float) and math.isfinite(value))
    is_finite = not isinstance(value, float) or math.isfinite(value)
    is_right = {
        bool: isinstance(value, bool),
        int: is_whole or (is_number and value.is_integer()),
        float: is_number,
        str: value is not None and is_finite and not isinstance(value, (list, dict)) and "\0" not in str(value),
    }
    if not is_right[kind]:
        return [f"{value!r} is not of type {port.type or 'string'}"]
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
    components = {step.component.where: step.component for step in pipeline.steps.values()}
    faults = [fault for component in components.values() for fault in faults_of_component(component)]
    nested = {node.component.where: node.component for node in pipeline.nested}
    faults += [f"{where}: {fault}" for where, component in nested.items() for fault in _faults_of_ports(component)]
    own = [
        f"the name {name!r} of an input may only contain letters, digits and _, in parts with a dot between them"
        for name in pipeline.inputs
        if not _PIPELINE_INPUT.fullmatch(name)
    ]
    own += [
        f"the name {name!r} of an output may only contain letters, digits and _"
        for name in pipeline.outputs
        if not _PIPELINE_OUTPUT.fullmatch(name)
    ]
    for name, source in pipeline.inputs.items():
        if source is None:
            own.append(f"the pipeline's input {name} has no value; give one with --input {name}=…")
        elif isinstance(source, LocalData):
            own += [f"input {name}: {fault}" for fault in _faults_of_data(source, name)]
    for node in (*pipeline.nested, *pipeline.steps.values()):
        own += [f"job {node.name}: {fault}" for fault in _faults_of_inputs(node, pipeline)]
    for step in pipeline.steps.values():
        own += [f"job {step.name}: {fault}" for fault in _faults_of_outputs(step) + _faults_of_variables(step)]
    return faults + [f"{pipeline.path}: {fault}" for fault in own + _faults_of_order(pipeline)]


def faults_of_path(path: Path) -> list[str]:
    """Describe why a path cannot be written into a command without quotes; empty if it can."""
    if _SPECIAL_CHARACTER.search(str(path)):
        return [f"{path} contains a character that is special to a shell; give a path without it"]
    return []


def _faults_of_data(data: LocalData, name: str = "") -> list[str]:
    if is_web(data.path):
        kind = f"a file (type: uri_file) can be downloaded, but {data.path!r} is of type {data.type}"
        return [] if data.type == "uri_file" else [f"only {kind}"]
    if is_remote(data.path):
        remedy = f"give a local path with --input {name}=…" if name else "give a local path"
        return [f"{data.path!r} is not on this machine, which is not supported; {remedy}"]
    path = Path(data.path)
    if not path.exists():
        return [f"{path} does not exist"]
    if data.type in ("uri_file", "uri_folder") and path.is_file() != (data.type == "uri_file"):
        return [f"{path} is a {'file' if path.is_file() else 'folder'}, but its type is {data.type}"]
    return faults_of_path(path)


def _faults_of_inputs(node: Node, pipeline: Pipeline) -> list[str]:
    ports = node.component.inputs
    faults = [f"the component has no input {name}" for name in node.inputs if name not in ports]
    for name, port in ports.items():
        if name not in node.inputs and not port.optional and port.default is None:
            faults.append(f"the required input {name} has no value")
    for name, source in node.inputs.items():
        if name in ports:
            faults += [f"input {name}: {fault}" for fault in _faults_of_source(source, ports[name], pipeline)]
    return faults


def _faults_of_outputs(step: Step) -> list[str]:
    return [f"the component has no output {name}" for name in step.outputs if name not in step.component.outputs]


def _faults_of_variables(step: Step) -> list[str]:
    known = values_of(dict.fromkeys(step.component.inputs, ""), dict.fromkeys(step.component.outputs, ""))
    faults = []
    for name, value in {**step.component.environment, **step.environment}.items():
        faults += [f"environment_variables.{name}: {fault}" for fault in unresolved(value, known, _VARIABLE_HINT)]
        if not name or "=" in name or "\0" in name + value:
            faults.append(f"environment_variables.{name}: the name is empty, or contains = or a null character")
    return faults


def _faults_of_source(source: Source, port: Port, pipeline: Pipeline) -> list[str]:
    if isinstance(source, PipelineInput):
        given = pipeline.inputs[source.name]
        if given is None:  # faults_of_pipeline reports it, and faults of its path too
            return []
        if isinstance(given, LocalData):
            return _faults_of_kind(given.type, port)
        source = given
    if isinstance(source, StepOutput):
        step = pipeline.steps.get(source.step)
        if any(source.step == node.name and source.output in node.component.outputs for node in pipeline.nested):
            return [f"no job of {source.step} writes parent.jobs.{source.step}.outputs.{source.output}"]
        if step is None or source.output not in step.component.outputs:
            return [f"parent.jobs.{source.step}.outputs.{source.output} is not declared"]
        output = step.component.outputs[source.output]
        if output.is_file and port.is_data and port.type and not port.is_file:
            return [f"it is of type {port.type}, but parent.jobs.{source.step}.outputs.{source.output} is a file"]
        return _faults_of_kind(output.type, port)
    if isinstance(source, LocalData):
        return _faults_of_data(source) or _faults_of_kind(source.type, port)
    if port.is_data:
        return [f"expected a {'file' if port.is_file else 'folder'}, but got {source.value!r}"]
    return faults_of_value(source.value, port)


def _faults_of_kind(kind: str, port: Port) -> list[str]:
    """Describe why data of a type cannot be the value of an input; empty if it can."""
    if port.type in LITERAL_TYPES:
        return [f"expected a value of type {port.type}, but got a {'file' if kind == 'uri_file' else 'folder'}"]
    return ["expected a file, but got a folder"] if port.is_file and kind != "uri_file" else []


def _faults_of_order(pipeline: Pipeline) -> list[str]:
    try:
        pipeline.sorter().prepare()
    except CycleError as error:
        return [f"the jobs {' -> '.join(error.args[1])} form a cycle"]
    return []
