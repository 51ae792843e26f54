"""Expressions in texts of pipelines and components, such as `${{parent.inputs.x}}`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

_EXPRESSION = re.compile(r"\$\{\{\s*([^{}]*?)\s*\}\}")


def expressions(text: str) -> list[str]:
    """Find the content of each expression, such as `parent.inputs.x`."""
    return _EXPRESSION.findall(text)


def whole_expression(value: object) -> Optional[str]:
    """Return the content of a text that is one expression and nothing else; otherwise None."""
    found = _EXPRESSION.fullmatch(value) if isinstance(value, str) else None
    return None if found is None else found[1]


def substitute(text: str, values: Mapping[str, str]) -> str:
    """Replace each expression that has a value by the value, and leave the others as they are.

    Args:
        text: a text with any number of expressions.
        values: the value of each expression, by its content.
    """
    return _EXPRESSION.sub(lambda found: values.get(found[1], found[0]), text)


def unresolved(text: str, known: Container[str], hint: str) -> list[str]:
    """Describe each expression of a text that is not known, and each that has no end.

    Args:
        text: a text with any number of expressions.
        known: the content of the expressions that are allowed.
        hint: what to write instead, for the messages.
    """
    names = [f"${{{{{name}}}}} cannot be resolved here" for name in expressions(text) if name not in known]
    rest = _EXPRESSION.sub("", text)
    if "${{" in rest:
        names.append(f"{rest[rest.index('${{') :].splitlines()[0]!r} begins an expression that no }}}} ends")
    return [f"{name}; {hint}" for name in names]
