"""What the inputs and outputs of jobs are bound to, in a pipeline or in a pipeline component."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional

from train_pytorch_model.pipelines.definition import (
    Given,
    Literal,
    LocalData,
    PipelineError,
    Source,
    StepOutput,
    local_path,
)
from train_pytorch_model.pipelines.expressions import substitute, whole_expression
from train_pytorch_model.pipelines.yaml_files import is_remote

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_STEP_OUTPUT = re.compile(r"parent\.jobs\.([^.]+)\.outputs\.(.+)")


@dataclass(frozen=True)
class Scope:
    """What the jobs of a pipeline or of a pipeline component can refer to."""

    path: Path
    """The file of the jobs."""
    inputs: Mapping[str, Optional[Source]]
    """What its inputs are bound to; None for an optional input without a value."""
    values: Mapping[str, str]
    """Values of the expressions that its texts can contain, such as `parent.inputs.x`."""
    types: Mapping[str, Optional[str]]
    """Types of its outputs; None for an output that is declared without one."""
    targets: Mapping[str, str]
    """The outputs that are outputs of the whole pipeline, with their names there."""
    name: str = ""
    """The name of the job whose component it is; empty for the pipeline."""
    above: tuple[Path, ...] = ()
    """The files of pipelines that it is part of."""

    def full_name(self, job: str) -> str:
        """Return the name of a job among those of all pipeline components."""
        return f"{self.name}.{job}" if self.name else job


def data_or_literal(entry: Any, folder: Path) -> Optional[Given]:
    """Return the value of an input: data for a mapping with a path, a literal for a scalar, None without a value.

    Args:
        entry: the entry in the YAML file.
        folder: what a path is relative to.
    """
    if not isinstance(entry, dict):
        return Literal(entry)
    if "value" in entry:
        return Literal(entry["value"])
    return _data(entry["path"], str(entry.get("type", "uri_folder")).lower(), folder) if "path" in entry else None


def source_of(key: str, entry: Any, scope: Scope, where: str) -> Optional[Source]:
    """Return what an input of a job is bound to; None for an optional input of a component that has no value.

    Args:
        key: the name of the input.
        entry: its entry in the YAML file.
        scope: the pipeline, or the pipeline component, of the job.
        where: where the job is, for messages.

    Raises:
        PipelineError: if what it is bound to does not exist or is not supported.
    """
    text = entry.get("path") if isinstance(entry, dict) else entry
    whole = whole_expression(text) or ""
    if whole.startswith("parent.inputs."):
        name = whole[len("parent.inputs.") :]
        if name not in scope.inputs:
            raise PipelineError(f"{where}: input {key}: {whole} is not declared")
        return scope.inputs[name]
    if found := _STEP_OUTPUT.fullmatch(whole):
        return StepOutput(scope.full_name(found[1]), found[2])
    if whole.startswith("parent.jobs."):
        raise PipelineError(
            f"{where}: input {key}: {text} is not supported; only ${{{{parent.jobs.JOB.outputs.NAME}}}} is"
        )
    if isinstance(entry, dict) and "path" in entry:
        entry = {**entry, "path": substitute(entry["path"], scope.values)}
    given = data_or_literal(entry, scope.path.parent)
    if isinstance(given, Literal) and isinstance(given.value, str):
        return Literal(substitute(given.value, scope.values))
    return given


def targets_of(job: Mapping[str, Any], scope: Scope, where: str) -> dict[str, str]:
    """Return the outputs of a job that are outputs of its pipeline or pipeline component, with their names there.

    Raises:
        PipelineError: if such an output is not declared.
    """
    targets = {name: target for name, entry in job.get("outputs", {}).items() if (target := target_of(entry))}
    for name, target in targets.items():
        if target not in scope.types:
            raise PipelineError(
                f"{where}: output {name} is bound to the pipeline's output {target}, which is not declared"
            )
    return targets


def target_of(entry: Any) -> Optional[str]:
    """Return NAME if an output is bound to `parent.outputs.NAME`; otherwise None."""
    whole = whole_expression(entry.get("path") if isinstance(entry, dict) else entry) or ""
    return whole[len("parent.outputs.") :] if whole.startswith("parent.outputs.") else None


def output_notes(outputs: Mapping[str, Any]) -> list[str]:
    """Describe what is not used of the outputs of a job or a pipeline."""
    notes = []
    for name, entry in outputs.items():
        if isinstance(entry, dict) and "path" in entry and target_of(entry) is None:
            notes.append(f"outputs.{name}.path is not used; the output is written to the folder of the run")
        if isinstance(entry, dict) and "name" in entry:
            notes.append(f"outputs.{name}.name is not used; nothing is registered")
    return notes


def _data(path: str, kind: str, folder: Path) -> LocalData:
    return LocalData(path if is_remote(path) else os.path.realpath(folder / local_path(path)), kind)
