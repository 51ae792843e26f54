"""What azure-ai-ml accepts in the YAML of a sweep job of a pipeline, besides the fields of a command job."""

from __future__ import annotations

from train_pytorch_model.pipelines.schema_parts import (
    NUMBER,
    TEXT,
    WHOLE_NUMBER,
    Schema,
    by_type,
    choice,
    fields,
)

_INTERVALS: Schema = {
    name: {**WHOLE_NUMBER, "type": [*WHOLE_NUMBER["type"], "null"]}
    for name in ("evaluation_interval", "delay_evaluation")
}
_SLACK: Schema = {**NUMBER, "type": [*NUMBER["type"], "null"]}
_RANDOM: Schema = {
    "seed": WHOLE_NUMBER,
    "rule": choice("random", "sobol"),
    "logbase": {"type": ["number", "string"], "title": "a number or e"},
}
_ALGORITHMS = choice("random", "grid", "bayesian")
_CHOSEN: Schema = {
    "type": ["number", "string", "object"],
    "title": "a number or a text (in quotes if YAML takes it as a boolean)",
}
_BOUNDS: Schema = {"min_value": NUMBER, "max_value": NUMBER}
_NORMAL: Schema = {"mu": NUMBER, "sigma": NUMBER}


def _of(known: Schema, *required: str) -> Schema:
    return fields({"type": TEXT, **known}, ("type", *required))


_DISTRIBUTION = by_type(
    {
        ("choice",): _of(
            {
                "values": {
                    "type": "array",
                    "items": _CHOSEN,
                    "title": "a list",
                }
            },
            "values",
        ),
        ("randint",): _of({"upper": WHOLE_NUMBER}, "upper"),
        ("uniform", "loguniform"): _of(_BOUNDS, *_BOUNDS),
        ("quniform", "qloguniform"): _of({**_BOUNDS, "q": NUMBER}, *_BOUNDS, "q"),
        ("normal", "lognormal"): _of(_NORMAL, *_NORMAL),
        ("qnormal", "qlognormal"): _of({**_NORMAL, "q": NUMBER}, *_NORMAL, "q"),
    },
    fields(
        {
            "type": choice(
                "choice",
                "randint",
                "uniform",
                "loguniform",
                "quniform",
                "qloguniform",
                "normal",
                "lognormal",
                "qnormal",
                "qlognormal",
            )
        },
        ("type",),
        is_open=True,
    ),
)
_POLICY = by_type(
    {
        ("bandit",): _of({**_INTERVALS, "slack_factor": _SLACK, "slack_amount": _SLACK}),
        ("median_stopping", "medianstopping"): _of(_INTERVALS),
        ("truncation_selection", "truncationselection"): _of(
            {**_INTERVALS, "truncation_percentage": WHOLE_NUMBER}, "truncation_percentage"
        ),
    },
    fields({"type": choice("bandit", "median_stopping", "truncation_selection")}, ("type",), is_open=True),
)

SWEEP = fields(
    {
        "trial": {"type": ["string", "object"], "minLength": 1, "title": "the file of a component or a mapping"},
        "sampling_algorithm": {
            "if": {"type": "object"},
            "then": by_type(
                {("random",): _of(_RANDOM), ("grid", "bayesian"): _of({})},
                fields({"type": _ALGORITHMS}, ("type",), is_open=True),
            ),
            "else": _ALGORITHMS,
        },
        "search_space": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": _DISTRIBUTION,
            "title": "a mapping of at least one name to its values",
        },
        "objective": fields(
            {"goal": choice("minimize", "maximize"), "primary_metric": TEXT}, ("goal", "primary_metric")
        ),
        "early_termination": _POLICY,
        "limits": fields(
            {
                "max_concurrent_trials": WHOLE_NUMBER,
                "max_total_trials": WHOLE_NUMBER,
                "timeout": WHOLE_NUMBER,
                "trial_timeout": WHOLE_NUMBER,
            },
            ("max_total_trials",),
        ),
    },
    ("trial", "sampling_algorithm", "search_space", "objective", "limits"),
    is_open=True,
)
COMMON_FIELDS = frozenset(
    {
        "$schema",
        "type",
        "compute",
        "identity",
        "inputs",
        "outputs",
        "properties",
        "comment",
        "queue_settings",
        "resources",
    }
)
"""The fields of a sweep that a command job has too."""
