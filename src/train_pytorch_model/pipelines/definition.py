"""Pipelines and their components: typed steps and how they are connected."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Union

if TYPE_CHECKING:
    from train_pytorch_model.pipelines.sweep_definition import Sweep

DATA_TYPES = ("uri_folder", "uri_file", "mltable", "mlflow_model", "custom_model", "triton_model")
"""Types of folders, except for `uri_file`."""
LITERAL_TYPES = {"integer": int, "number": float, "boolean": bool, "string": str}


def local_path(text: str) -> str:
    """Return the path of a `file:` reference; other text is returned as it is."""
    return re.sub(r"^file:(//(?=/))?", "", text)


class PipelineError(Exception):
    """A fault in a YAML file; the message names the file."""


def raise_for(faults: list[str], where: object) -> None:
    """Raise one error for all faults, if there are any.

    Raises:
        PipelineError: with each fault after the place.
    """
    if faults:
        raise PipelineError("; ".join(f"{where}: {fault}" for fault in faults))


@dataclass(frozen=True)
class Port:
    """An input or an output of a component or of a pipeline."""

    type: str
    """One of DATA_TYPES or LITERAL_TYPES."""
    optional: bool = False
    default: Any = None
    minimum: Optional[float] = None
    maximum: Optional[float] = None
    choices: tuple[str, ...] = ()

    @property
    def is_data(self) -> bool:
        """Whether it is a folder or a file rather than a literal."""
        return self.type in DATA_TYPES

    @property
    def is_file(self) -> bool:
        """Whether it is a file."""
        return self.type == "uri_file"


@dataclass(frozen=True)
class Interface:
    """The typed inputs and outputs of a component."""

    where: str
    """Where it is defined, for messages: its file, or the file and the job that contain it."""
    name: str
    inputs: dict[str, Port]
    outputs: dict[str, Port]


@dataclass(frozen=True)
class Component(Interface):
    """A command with typed inputs and outputs."""

    command: str
    folder: Path
    """The folder of the file that defines it."""
    code: Optional[Path]
    """The folder of code, or the only file of it; the command runs in a copy."""
    includes: tuple[Path, ...]
    """Files and folders that are copied beside the code."""
    num_processes: Optional[int]
    """Processes per node for `distribution: pytorch`; otherwise None."""
    num_nodes: int
    is_deterministic: bool
    shared_memory: Optional[str]
    """A number with a unit, such as `16g`."""
    is_inline: bool = False
    """Whether it is a command in a job, whose inputs are not declared as optional or required."""
    environment: dict[str, str] = field(default_factory=dict)
    """Environment variables of its processes; the values may contain expressions."""
    notes: tuple[str, ...] = ()
    """What Azure ignores of it."""


@dataclass(frozen=True)
class PipelineInput:
    """A reference to an input of the pipeline."""

    name: str


@dataclass(frozen=True)
class StepOutput:
    """A reference to the output of another step."""

    step: str
    output: str


@dataclass(frozen=True)
class LocalData:
    """A folder or a file."""

    path: str
    """An absolute path without links, the address of a file, or the URI of data that is not supported."""
    type: str = "uri_folder"
    """One of DATA_TYPES."""


@dataclass(frozen=True)
class Literal:
    """A number, a boolean or a string."""

    value: Any


Given = Union[LocalData, Literal]
"""A value of an input."""
Source = Union[PipelineInput, StepOutput, Given]
"""What an input of a step is bound to."""


@dataclass(frozen=True)
class Node:
    """One component in a pipeline."""

    name: str
    """The name of its job. In a pipeline component, the name of the component's job and a dot come first."""
    component: Interface
    inputs: dict[str, Source]
    """Sources of the inputs that have one."""


@dataclass(frozen=True)
class Step(Node):
    """A command in a pipeline."""

    component: Component
    outputs: dict[str, str] = field(default_factory=dict)
    """The outputs that are outputs of the pipeline, with their names there."""
    environment: dict[str, str] = field(default_factory=dict)
    """Environment variables of the job; the values may contain expressions of its inputs and outputs."""
    timeout: Optional[float] = None
    """Seconds after which it is stopped."""
    notes: tuple[str, ...] = ()
    """What is not used here, or not by Azure."""
    sweep: Optional[Sweep] = None
    """What makes it a sweep; its command is then that of the trials, with example values of the search space."""

    @property
    def needs(self) -> set[str]:
        """Names of the steps that it depends on."""
        return {source.step for source in self.inputs.values() if isinstance(source, StepOutput)}


@dataclass(frozen=True)
class Pipeline:
    """Steps and how their inputs and outputs are connected."""

    path: Path
    name: str
    inputs: dict[str, Optional[Given]]
    """Values of the inputs; None for an input without a value."""
    outputs: tuple[str, ...]
    steps: dict[str, Step]
    nested: tuple[Node, ...] = ()
    """Pipeline components, whose jobs are among the steps."""
    force: bool = False
    """Whether every step runs, changed or not."""
    unused: tuple[str, ...] = ()
    """Fields of it and its jobs that Azure uses and this machine does not."""
    notes: tuple[str, ...] = ()
    """What else is not used here, or not by Azure."""

    @property
    def data(self) -> list[LocalData]:
        """All folders and files that it takes."""
        sources = [*self.inputs.values(), *(source for step in self.steps.values() for source in step.inputs.values())]
        return [source for source in sources if isinstance(source, LocalData)]

    def sorter(self) -> TopologicalSorter[str]:
        """Return a new sorter of the names of the steps; its `prepare` raises an error for a cycle."""
        return TopologicalSorter({name: sorted(step.needs & set(self.steps)) for name, step in self.steps.items()})

    def generations(self) -> list[list[str]]:
        """Group the names of the steps: each step only depends on steps of earlier groups.

        Raises:
            graphlib.CycleError: if steps depend on each other.
        """
        order = list(self.steps)
        sorter, groups = self.sorter(), []
        sorter.prepare()
        while sorter.is_active():
            ready = sorter.get_ready()
            groups.append(sorted(ready, key=order.index))
            sorter.done(*ready)
        return groups
