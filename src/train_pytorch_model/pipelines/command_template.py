"""Command templates of components: `${{inputs.x}}`, `${{outputs.y}}`, `$[[--flag ${{inputs.z}}]]`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_PLACEHOLDER = re.compile(r"\$\{\{\s*(inputs|outputs)\.(\w+)\s*\}\}")
_OPTIONAL = re.compile(r"\$\[\[(.*?)\]\]", re.DOTALL)


def placeholders(command: str) -> set[tuple[str, str]]:
    """Find the pairs ("inputs" or "outputs", name) that a command uses."""
    return {(found[1], found[2]) for found in _PLACEHOLDER.finditer(command)}


def optional_inputs(command: str) -> set[str]:
    """Find the inputs that are used inside of `$[[ ]]`."""
    return {name for part in _OPTIONAL.findall(command) for kind, name in placeholders(part) if kind == "inputs"}


def required_inputs(command: str) -> set[str]:
    """Find the inputs that are used outside of `$[[ ]]`."""
    return {name for kind, name in placeholders(_OPTIONAL.sub("", command)) if kind == "inputs"}


def render(command: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> str:
    """Fill in the values of a command, as text without quotes, as Azure does.

    Args:
        command: the template.
        inputs: values of inputs, by name. A part in `$[[ ]]` is omitted if one of its values is missing.
        outputs: paths of outputs, by name.

    Returns:
        The command.

    Raises:
        KeyError: if a value outside of `$[[ ]]` is missing.
    """
    values = {"inputs": inputs, "outputs": outputs}

    def choose(found: re.Match[str]) -> str:
        is_given = all(name in values[kind] for kind, name in placeholders(found[1]))
        return found[1].strip() if is_given else ""

    chosen = _OPTIONAL.sub(choose, command)
    return _PLACEHOLDER.sub(lambda found: values[found[1]][found[2]], chosen).strip()
