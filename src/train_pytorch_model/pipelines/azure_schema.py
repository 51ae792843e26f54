"""What azure-ai-ml accepts in the YAML of a pipeline job and of components, as JSON schemas.

Its schemas are not published in this form; the tests compare these with its verdicts.
"""

from __future__ import annotations

from train_pytorch_model.pipelines.definition import DATA_TYPES, LITERAL_TYPES
from train_pytorch_model.pipelines.schema_parts import (
    BOOLEAN,
    FILLED_TEXT,
    INTEGER,
    MODES,
    NUMBER,
    OBJECT,
    SCALAR,
    TEXT,
    TEXTS,
    Schema,
    any_values,
    by_type,
    choice,
    exact_choice,
    fields,
)

_DATA: Schema = {"path": FILLED_TEXT, "datastore": TEXT}
_DATA_TYPE = choice(*DATA_TYPES, hint="; a text, a number or a boolean is written as it is, without a type")
_INPUT_MODES = ("download", "ro_mount", "direct")
_VALUE: Schema = {
    "if": {"type": "object"},
    "then": {
        "if": {"required": ["value"]},
        "then": fields({"value": SCALAR}),
        "else": by_type(
            {
                ("mltable",): fields(
                    {**_DATA, "type": _DATA_TYPE, "mode": choice(*_INPUT_MODES, "eval_mount", "eval_download")}
                )
            },
            fields({**_DATA, "type": _DATA_TYPE, "mode": choice(*_INPUT_MODES)}),
        ),
    },
    "else": SCALAR,
}
_VALUES: Schema = {**OBJECT, "additionalProperties": _VALUE}
_OUTPUT = fields(
    {
        "name": TEXT,
        "version": {"type": ["string", "number"], "title": "a version"},
        "mode": choice("mount", "upload", "rw_mount", "direct"),
        "type": choice(*DATA_TYPES),
        "path": TEXT,
    }
)
_STEP_OUTPUTS: Schema = {
    **OBJECT,
    "additionalProperties": {
        "if": {"type": "string"},
        "then": {"pattern": r"\$\{\{", "title": "a mapping or ${{parent.outputs.NAME}}"},
        "else": {"if": {"type": "null"}, "else": _OUTPUT},
    },
}
_PIPELINE_OUTPUTS: Schema = {**OBJECT, "additionalProperties": {"if": {"type": "null"}, "else": _OUTPUT}}

_PORT: Schema = {"type": exact_choice(*DATA_TYPES, "path"), "description": TEXT, "mode": exact_choice(*MODES)}
_PARAMETER: Schema = {"type": TEXT, "description": TEXT, "optional": BOOLEAN, "default": SCALAR}
_TEXT_LIST: Schema = {"type": "array", "items": TEXT, "title": "a list of texts"}
_COMPONENT_INPUTS: Schema = {
    **OBJECT,
    "additionalProperties": by_type(
        {
            ("string",): fields({**_PARAMETER, "enum": _TEXT_LIST, "type": exact_choice("string")}),
            ("boolean",): fields({**_PARAMETER, "type": exact_choice("boolean")}),
            ("integer", "number"): fields(
                {**_PARAMETER, "min": NUMBER, "max": NUMBER, "type": exact_choice("integer", "number")}
            ),
            (*DATA_TYPES, "path"): fields({**_PORT, "optional": BOOLEAN, "default": TEXT}),
        },
        fields({"type": exact_choice(*LITERAL_TYPES, *DATA_TYPES)}, ("type",), is_open=True),
    ),
}
_COMPONENT_OUTPUTS: Schema = {
    **OBJECT,
    "additionalProperties": by_type(
        {(*LITERAL_TYPES,): OBJECT},
        fields(_PORT, ("type",)),
    ),
}

_ENVIRONMENT: Schema = {
    "if": {"type": "object"},
    "then": fields(
        any_values(
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
        "pattern": r"^(azureml:|file:|\$\{\{)",
        "title": "azureml:NAME:VERSION, file:PATH or a mapping",
    },
}
_RESOURCES: Schema = {
    "instance_count": INTEGER,
    "max_instance_count": INTEGER,
    "instance_type": {},
    "properties": OBJECT,
    "locations": {"type": "array", "title": "a list"},
    "shm_size": TEXT,
    "docker_args": {},
}
_DISTRIBUTION = by_type(
    {
        ("ray",): OBJECT,
        ("tensorflow",): fields({"type": TEXT, "worker_count": INTEGER, "parameter_server_count": INTEGER}),
        ("mpi", "pytorch"): fields({"type": TEXT, "process_count_per_instance": INTEGER}),
    },
    fields({"type": choice("pytorch", "mpi", "tensorflow", "ray")}, ("type",), is_open=True),
)
_IDENTITY = by_type(
    {("managed", "managed_identity"): fields(any_values("type", "client_id", "object_id", "msi_resource_id"))},
    fields({"type": choice("managed", "managed_identity", "aml_token", "amltoken", "user_identity")}, ("type",)),
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
    **OBJECT,
    "additionalProperties": {"type": ["string", "number", "boolean", "null"], "title": "a text, a number or a boolean"},
}
_RUN: Schema = {
    "command": TEXT,
    "environment": _ENVIRONMENT,
    "environment_variables": _VARIABLES,
    "resources": fields(_RESOURCES),
    "distribution": _DISTRIBUTION,
    "queue_settings": fields(
        {
            "job_tier": choice("spot", "basic", "standard", "premium", "null"),
            "priority": choice("low", "medium", "high"),
        }
    ),
}
_JOB: Schema = {
    "$schema": TEXT,
    "compute": TEXT,
    "identity": _IDENTITY,
    "services": {**OBJECT, "additionalProperties": fields(any_values(*_SERVICE_FIELDS))},
    "properties": TEXTS,
}
_NODE: Schema = {"type": choice("command"), "limits": fields({"timeout": INTEGER}), "inputs": _VALUES}
_NAMED: Schema = {"name": TEXT, "display_name": TEXT, "experiment_name": TEXT, "description": TEXT, "tags": TEXTS}
# Azure only writes these; it accepts and ignores them.
_WRITTEN: Schema = any_values("id", "status", "creation_context", "log_files", "parameters")

_NOT_SUPPORTED: Schema = {"type": "null", "title": "left out, because run-pipeline does not support it"}

PIPELINE = fields(
    {
        **_WRITTEN,
        **_JOB,
        **_NAMED,
        "type": exact_choice("pipeline"),
        "inputs": _VALUES,
        "outputs": _PIPELINE_OUTPUTS,
        "jobs": {**OBJECT, "additionalProperties": OBJECT},
        "component": {},
        "settings": fields(
            {
                "default_datastore": {"type": "string", "pattern": "^azureml:", "title": "azureml:NAME"},
                "default_compute": {
                    "type": "string",
                    "pattern": "^(azureml:|(?i:serverless)$)",
                    "title": "azureml:NAME or serverless",
                },
                "on_init": _NOT_SUPPORTED,
                "on_finalize": _NOT_SUPPORTED,
                "continue_on_step_failure": BOOLEAN,
                "force_rerun": BOOLEAN,
            },
            is_open=True,
        ),
    }
)
COMMAND_NODE = fields(
    {**_JOB, **_NODE, **_RUN, "outputs": _STEP_OUTPUTS, "component": {}, "comment": TEXT, "code": {}}, is_open=True
)
COMMAND_JOB = fields(
    {
        **_WRITTEN,
        **_JOB,
        **_NAMED,
        **_NODE,
        **_RUN,
        "code": FILLED_TEXT,
        "outputs": _STEP_OUTPUTS,
        "parent_job_name": TEXT,
    },
    ("command", "environment"),
)
_COMPONENT: Schema = {
    "$schema": TEXT,
    "display_name": TEXT,
    "description": TEXT,
    "tags": OBJECT,
    "properties": OBJECT,
    "inputs": _COMPONENT_INPUTS,
    "outputs": _COMPONENT_OUTPUTS,
    "is_deterministic": BOOLEAN,
    **any_values("name", "version", "id", "creation_context", "latest_version"),
}
COMPONENT = fields(
    {
        **_COMPONENT,
        **_RUN,
        "environment_variables": {},
        "type": choice("command"),
        "code": FILLED_TEXT,
        "resources": fields(_RESOURCES, is_open=True),
        "additional_includes": _TEXT_LIST,
    },
    ("command", "environment"),
    is_open=True,
)


PIPELINE_NODE = fields(
    {
        "$schema": TEXT,
        "type": choice("pipeline"),
        "component": FILLED_TEXT,
        "inputs": _VALUES,
        "outputs": _STEP_OUTPUTS,
        "properties": TEXTS,
        "comment": TEXT,
    },
    ("component",),
    is_open=True,
)
PIPELINE_COMPONENT = fields(
    {
        **_COMPONENT,
        "type": choice("pipeline"),
        "jobs": {**OBJECT, "additionalProperties": OBJECT},
    },
    is_open=True,
)
