"""What azure-ai-ml accepts in the YAML of a pipeline job and of a command component, as JSON schemas.

Its schemas are not published in this form; the tests compare these with its verdicts.
"""

from __future__ import annotations

from typing import Any

from train_pytorch_model.pipelines.definition import DATA_TYPES, LITERAL_TYPES

Schema = dict[str, Any]
"""A JSON schema of draft 7. A `title` says what is expected, for messages."""

_TEXT: Schema = {"type": "string", "title": "text"}
_FILLED_TEXT: Schema = {"type": "string", "minLength": 1, "title": "text"}
_SCALAR: Schema = {"type": ["string", "number", "boolean"], "title": "a text, a number or a boolean"}
_NUMBER: Schema = {
    "type": ["number", "string"],
    "pattern": r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$",
    "title": "a number",
}
_INTEGER: Schema = {"type": ["integer", "string"], "pattern": r"^\s*[-+]?\d+\s*$|\$\{\{", "title": "an integer"}
_TRUE, _FALSE = ("t", "true", "y", "yes", "on", "1"), ("f", "false", "n", "no", "off", "0")
_BOOLEAN: Schema = {
    "type": ["boolean", "integer", "string"],
    "enum": [word for text in _TRUE + _FALSE for word in (text, text.capitalize(), text.upper())] + [True, False, 0, 1],
    "title": "true or false",
}
_OBJECT: Schema = {"type": "object", "title": "a mapping"}
_TEXTS: Schema = {**_OBJECT, "additionalProperties": {"type": ["string", "null"], "title": "text"}}
_MODES = ("ro_mount", "rw_mount", "mount", "download", "upload", "direct", "eval_mount", "eval_download", "link")


def _choice(*words: str, hint: str = "") -> Schema:
    """One of some words, in upper or lower case."""
    title = (f"one of {', '.join(words)}" if len(words) > 1 else words[0]) + hint
    return {"type": "string", "pattern": rf"(?i)^({'|'.join(words)})$", "title": title}


def _exact_choice(*words: str) -> Schema:
    return {"enum": list(words), "title": f"one of {', '.join(words)}"}


def _fields(known: Schema, required: tuple[str, ...] = (), *, is_open: bool = False) -> Schema:
    """A mapping with these fields, and with others if it is open."""
    return {**_OBJECT, "properties": known, "required": list(required), "additionalProperties": is_open}


def _any(*names: str) -> Schema:
    """Fields with any value."""
    return {name: {} for name in names}


def _by_type(cases: dict[tuple[str, ...], Schema], otherwise: Schema) -> Schema:
    """A mapping whose schema depends on its field `type`, in upper or lower case."""
    chosen = otherwise
    for words, schema in cases.items():
        has_type = {"properties": {"type": _choice(*words)}, "required": ["type"]}
        chosen = {"if": has_type, "then": schema, "else": chosen}
    return {**_OBJECT, **chosen}


_DATA: Schema = {"path": _FILLED_TEXT, "datastore": _TEXT, "path_on_compute": _TEXT}
_DATA_TYPE = _choice(*DATA_TYPES, hint="; a text, a number or a boolean is written as it is, without a type")
_INPUT_MODES = ("download", "ro_mount", "direct")
_VALUE: Schema = {
    "if": {"type": "object"},
    "then": {
        "if": {"required": ["value"]},
        "then": _fields({"value": _SCALAR}),
        "else": _by_type(
            {
                ("mltable",): _fields(
                    {**_DATA, "type": _DATA_TYPE, "mode": _choice(*_INPUT_MODES, "eval_mount", "eval_download")}
                )
            },
            _fields({**_DATA, "type": _DATA_TYPE, "mode": _choice(*_INPUT_MODES)}),
        ),
    },
    "else": _SCALAR,
}
_VALUES: Schema = {**_OBJECT, "additionalProperties": _VALUE}
_OUTPUT = _fields(
    {
        "name": _TEXT,
        "version": {"type": ["string", "number"], "title": "a version"},
        "mode": _choice("mount", "upload", "rw_mount", "direct"),
        "type": _choice(*DATA_TYPES),
        "path": _TEXT,
    }
)
_STEP_OUTPUTS: Schema = {
    **_OBJECT,
    "additionalProperties": {
        "if": {"type": "string"},
        "then": {"pattern": r"\$\{\{", "title": "a mapping or ${{parent.outputs.NAME}}"},
        "else": {"if": {"type": "null"}, "else": _OUTPUT},
    },
}
_PIPELINE_OUTPUTS: Schema = {**_OBJECT, "additionalProperties": {"if": {"type": "null"}, "else": _OUTPUT}}

_PORT: Schema = {"type": _exact_choice(*DATA_TYPES, "path"), "description": _TEXT, "mode": _exact_choice(*_MODES)}
_PARAMETER: Schema = {"type": _TEXT, "description": _TEXT, "optional": _BOOLEAN, "default": _SCALAR}
_TEXT_LIST: Schema = {"type": "array", "items": _TEXT, "title": "a list of texts"}
_COMPONENT_INPUTS: Schema = {
    **_OBJECT,
    "additionalProperties": _by_type(
        {
            ("string",): _fields({**_PARAMETER, "enum": _TEXT_LIST, "type": _exact_choice("string")}),
            ("boolean",): _fields({**_PARAMETER, "type": _exact_choice("boolean")}),
            ("integer", "number"): _fields(
                {**_PARAMETER, "min": _NUMBER, "max": _NUMBER, "type": _exact_choice("integer", "number")}
            ),
            (*DATA_TYPES, "path"): _fields({**_PORT, "optional": _BOOLEAN, "default": _TEXT}),
        },
        _fields({"type": _exact_choice(*LITERAL_TYPES, *DATA_TYPES)}, ("type",), is_open=True),
    ),
}
_COMPONENT_OUTPUTS: Schema = {
    **_OBJECT,
    "additionalProperties": _by_type(
        {(*LITERAL_TYPES,): _OBJECT},
        _fields(_PORT, ("type",)),
    ),
}

_ENVIRONMENT: Schema = {
    "if": {"type": "object"},
    "then": _fields(
        _any(
            "name",
            "version",
            "description",
            "tags",
            "properties",
            "image",
            "conda_file",
            "build",
            "inference_config",
            "os_type",
            "datastore",
        )
    ),
    "else": {
        "type": "string",
        "pattern": r"^(azureml:|file:|/subscriptions/|\$\{\{)",
        "title": "azureml:NAME:VERSION, file:PATH or a mapping",
    },
}
_RESOURCES: Schema = {
    "instance_count": _INTEGER,
    "max_instance_count": _INTEGER,
    "instance_type": {},
    "properties": _OBJECT,
    "locations": {"type": "array", "title": "a list"},
    "shm_size": _TEXT,
    "docker_args": {},
}
_DISTRIBUTION = _by_type(
    {
        ("ray",): _OBJECT,
        ("tensorflow",): _fields({"type": _TEXT, "worker_count": _INTEGER, "parameter_server_count": _INTEGER}),
        ("mpi", "pytorch"): _fields({"type": _TEXT, "process_count_per_instance": _INTEGER}),
    },
    _fields({"type": _choice("pytorch", "mpi", "tensorflow", "ray")}, ("type",), is_open=True),
)
_IDENTITY = _by_type(
    {("managed", "managed_identity"): _fields(_any("type", "client_id", "object_id", "msi_resource_id"))},
    _fields({"type": _choice("managed", "managed_identity", "aml_token", "amltoken", "user_identity")}, ("type",)),
)
_SERVICE_FIELDS = (
    "type",
    "port",
    "endpoint",
    "status",
    "error_message",
    "properties",
    "nodes",
    "ssh_public_keys",
    "log_dir",
)
_VARIABLES: Schema = {
    **_OBJECT,
    "additionalProperties": {"type": ["string", "number", "boolean", "null"], "title": "a text, a number or a boolean"},
}
_RUN: Schema = {
    "command": _TEXT,
    "environment": _ENVIRONMENT,
    "environment_variables": _VARIABLES,
    "resources": _fields(_RESOURCES),
    "distribution": _DISTRIBUTION,
    "queue_settings": _OBJECT,
}
_JOB: Schema = {
    "$schema": _TEXT,
    "compute": _TEXT,
    "identity": _IDENTITY,
    "services": {**_OBJECT, "additionalProperties": _fields(_any(*_SERVICE_FIELDS))},
    "properties": _TEXTS,
}
_NODE: Schema = {"type": _choice("command"), "limits": _fields({"timeout": _INTEGER}), "inputs": _VALUES}
_NAMED: Schema = {"name": _TEXT, "display_name": _TEXT, "experiment_name": _TEXT, "description": _TEXT, "tags": _TEXTS}
# Azure only writes these; it accepts and ignores them.
_WRITTEN: Schema = _any("id", "status", "creation_context", "log_files", "parameters")

PIPELINE = _fields(
    {
        **_WRITTEN,
        **_JOB,
        **_NAMED,
        "type": _choice("pipeline"),
        "inputs": _VALUES,
        "outputs": _PIPELINE_OUTPUTS,
        "jobs": {**_OBJECT, "additionalProperties": _OBJECT},
        "component": {},
        "settings": _fields(
            {
                "default_datastore": _TEXT,
                "default_compute": {
                    "type": "string",
                    "pattern": "^(azureml:|serverless$|/subscriptions/)",
                    "title": "azureml:NAME or serverless",
                },
                "continue_on_step_failure": _BOOLEAN,
                "force_rerun": _BOOLEAN,
            },
            is_open=True,
        ),
    }
)
COMMAND_NODE = _fields(
    {**_JOB, **_NODE, **_RUN, "outputs": _STEP_OUTPUTS, "component": {}, "comment": _TEXT, "code": {}}, is_open=True
)
COMMAND_JOB = _fields(
    {
        **_WRITTEN,
        **_JOB,
        **_NAMED,
        **_NODE,
        **_RUN,
        "code": _FILLED_TEXT,
        "outputs": _STEP_OUTPUTS,
        "parent_job_name": _TEXT,
    },
    ("command", "environment"),
)
COMPONENT = _fields(
    {
        **_RUN,
        "environment_variables": {},
        "$schema": _TEXT,
        "type": _choice("command"),
        "display_name": _TEXT,
        "description": _TEXT,
        "tags": _OBJECT,
        "properties": _OBJECT,
        "code": _FILLED_TEXT,
        "inputs": _COMPONENT_INPUTS,
        "outputs": _COMPONENT_OUTPUTS,
        "is_deterministic": _BOOLEAN,
        "resources": _fields(_RESOURCES, is_open=True),
        "additional_includes": _TEXT_LIST,
        "name": {},
        "version": {},
        "id": {},
        "creation_context": {},
        "latest_version": {},
    },
    ("command", "environment"),
    is_open=True,
)


def is_true(value: object) -> bool:
    """Return a boolean of a document, which may be written as text, such as "yes"."""
    return str(value).lower() in _TRUE
