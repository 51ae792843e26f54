"""Finds expressions in pipelines that Azure or this machine cannot resolve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from train_pytorch_model.pipelines.expressions import unresolved, whole_expression
from train_pytorch_model.pipelines.yaml_files import dotted, leaves

if TYPE_CHECKING:
    from collections.abc import Mapping

# Texts that Azure shows and never evaluates.
_DESCRIPTIVE = frozenset({"description", "tags", "properties", "comment"})
_KINDS = ("command", "pipeline", "sweep")
# Azure replaces these in the path of an output and in names.
_MACROS = frozenset({"name", "default_datastore", "output_name"})
_HINT = (
    "in a pipeline, ${{parent.inputs.NAME}} is the value of an input, and an input of a job can be"
    " ${{parent.jobs.JOB.outputs.NAME}} as a whole"
)
_OUTPUT_HINT = "the output of a job can be ${{parent.outputs.NAME}} as a whole, and a path can contain ${{name}}"


def is_descriptive(place: tuple[object, ...]) -> bool:
    """Whether a place in a document is a text that Azure shows and never evaluates."""
    return not _DESCRIPTIVE.isdisjoint(map(str, place))


def expression_faults(document: dict[str, Any], known: Mapping[str, str]) -> list[str]:
    """Describe the expressions that cannot be resolved, except those in commands and components.

    Args:
        document: a pipeline or a pipeline component.
        known: values of the expressions that its jobs can contain, such as `parent.inputs.x`.
    """
    faults = []
    for place, text in leaves(document):
        if not isinstance(text, str) or "${{" not in text or is_descriptive(place):
            continue
        if place[0] == "jobs" and str(document["jobs"][place[1]].get("type", "command")).lower() not in _KINDS:
            continue  # The job is refused.
        allowed: set[str] = set(known)
        if place[0] != "jobs":
            allowed = set() if place[0] == "inputs" else set(_MACROS)
        elif len(place) > 2 and place[2] in ("command", "component", "trial"):
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
