"""Says in words what a JSON schema refuses in a document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jsonschema

from train_pytorch_model.pipelines.yaml_files import dotted

if TYPE_CHECKING:
    from train_pytorch_model.pipelines.schema_parts import Schema


def schema_faults(document: object, schema: Schema) -> list[str]:
    """Describe everything in a document that azure-ai-ml refuses.

    Args:
        document: a YAML document or a part of it.
        schema: one of those of `azure_schema`.
    """
    errors = jsonschema.Draft7Validator(schema).iter_errors(document)
    return list(dict.fromkeys(fault for error in errors for fault in _faults_of(error)))


def unknown_fields(document: dict[str, Any], schema: Schema) -> list[str]:
    """List the fields that azure-ai-ml accepts and ignores."""
    return [name for name in document if name not in schema["properties"]]


def _faults_of(error: jsonschema.ValidationError) -> list[str]:
    place = dotted(tuple(map(str, error.absolute_path)))
    within = f"{place}: " if place else ""
    if error.validator == "additionalProperties":
        unknown = [name for name in error.instance if name not in error.schema["properties"]]
        known = ", ".join(error.schema["properties"])
        hint = " (only the input of a component has one)" if unknown == ["default"] else ""
        return [f"{within}unknown field {name!r}{hint}; the fields are {known}" for name in unknown]
    if error.validator == "required":
        missing = [name for name in error.validator_value if name not in error.instance]
        return [f"{within}the field {name} is missing" for name in missing]
    return [f"{place or 'the document'} is {error.instance!r}, but must be {error.schema['title']}"]
