"""Parts of the JSON schemas of pipelines: texts, numbers, booleans and mappings as azure-ai-ml takes them."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]
"""A JSON schema of draft 7. A `title` says what is expected, for messages."""

TEXT: Schema = {"type": "string", "title": "text"}
FILLED_TEXT: Schema = {"type": "string", "minLength": 1, "title": "text"}
SCALAR: Schema = {"type": ["string", "number", "boolean"], "title": "a text, a number or a boolean"}
NUMBER: Schema = {
    "type": ["number", "string"],
    "pattern": r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$",
    "title": "a number",
}
INTEGER: Schema = {"type": ["integer", "string"], "pattern": r"^\s*[-+]?\d+\s*$|\$\{\{", "title": "an integer"}
WHOLE_NUMBER: Schema = {"type": ["integer", "string"], "pattern": r"^\s*[-+]?\d+\s*$", "title": "an integer"}
TRUE, FALSE = ("t", "true", "y", "yes", "on", "1"), ("f", "false", "n", "no", "off", "0")
BOOLEAN: Schema = {
    "type": ["boolean", "integer", "string"],
    "enum": [word for text in TRUE + FALSE for word in (text, text.capitalize(), text.upper())] + [True, False, 0, 1],
    "title": "true or false",
}
OBJECT: Schema = {"type": "object", "title": "a mapping"}
TEXTS: Schema = {**OBJECT, "additionalProperties": {"type": ["string", "null"], "title": "text"}}
MODES = ("ro_mount", "rw_mount", "mount", "download", "upload", "direct", "eval_mount", "eval_download", "link")


def choice(*words: str, hint: str = "") -> Schema:
    """Return the schema of one of some words, in upper or lower case."""
    title = (f"one of {', '.join(words)}" if len(words) > 1 else words[0]) + hint
    return {"type": "string", "pattern": rf"(?i)^({'|'.join(words)})$", "title": title}


def exact_choice(*words: str) -> Schema:
    """Return the schema of one of some words, written exactly so."""
    return {"enum": list(words), "title": f"one of {', '.join(words)}"}


def fields(known: Schema, required: tuple[str, ...] = (), *, is_open: bool = False) -> Schema:
    """Return the schema of a mapping with these fields, and with others if it is open."""
    return {**OBJECT, "properties": known, "required": list(required), "additionalProperties": is_open}


def any_values(*names: str) -> Schema:
    """Return the schemas of fields with any value."""
    return {name: {} for name in names}


def by_type(cases: dict[tuple[str, ...], Schema], otherwise: Schema) -> Schema:
    """Return the schema of a mapping that depends on its field `type`, in upper or lower case."""
    chosen = otherwise
    for words, schema in cases.items():
        has_type = {"properties": {"type": choice(*words)}, "required": ["type"]}
        chosen = {"if": has_type, "then": schema, "else": chosen}
    return {**OBJECT, **chosen}


def is_true(value: object) -> bool:
    """Return a boolean of a document, which may be written as text, such as "yes"."""
    return str(value).lower() in TRUE
