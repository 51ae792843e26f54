"""Command templates of components: `${{inputs.x}}`, `${{outputs.y}}`, `$[[--flag ${{inputs.z}}]]`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from train_pytorch_model.pipelines.expressions import expressions, substitute

if TYPE_CHECKING:
    from collections.abc import Mapping

_OPTIONAL = re.compile(r"\$\[\[(.*?)\]\]", re.DOTALL)


def optional_inputs(command: str) -> set[str]:
    """Find the inputs that are used inside of `$[[ ]]`."""
    return {name for part in _OPTIONAL.findall(command) for name in _inputs(part)}


def required_inputs(command: str) -> set[str]:
    """Find the inputs that are used outside of `$[[ ]]`."""
    return _inputs(_OPTIONAL.sub("", command))


def is_closed(command: str) -> bool:
    """Whether each `$[[` has its `]]`."""
    return "$[[" not in _OPTIONAL.sub("", command)


def values_of(inputs: Mapping[str, str], outputs: Mapping[str, str]) -> dict[str, str]:
    """Return the value of each expression of a step, by its content, such as `inputs.x`."""
    return {
        **{f"inputs.{name}": value for name, value in inputs.items()},
        **{f"outputs.{name}": value for name, value in outputs.items()},
    }


def render(command: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> str:
    """Fill in the values of a command, as text without quotes, as Azure does.

    Args:
        command: the template.
        inputs: values of inputs, by name. A part in `$[[ ]]` is omitted if one of its values is missing.
        outputs: paths of outputs, by name.

    Returns:
        The command. An expression without a value is left as it is.
    """
    values = values_of(inputs, outputs)

    def choose(found: re.Match[str]) -> str:
        return found[1].strip() if all(name in values for name in expressions(found[1])) else ""

    return substitute(_OPTIONAL.sub(choose, command), values).strip()


def _inputs(command: str) -> set[str]:
    return {name[len("inputs.") :] for name in expressions(command) if name.startswith("inputs.")}
