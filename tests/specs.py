"""The module's own specification, and its command with values filled in."""

from __future__ import annotations

import re
import shlex
from typing import Any

from ruamel.yaml import YAML

from tests.making import ROOT

SPEC: dict[str, Any] = YAML(typ="safe").load(ROOT / "module_spec.yaml")


COMMAND = SPEC["launcher"]["additional_arguments"]


def fill(values: dict[str, object]) -> list[str]:
    """The command line that the launcher makes of the specification; optional parts stand in brackets."""
    text = re.sub(r"\[(.*?\{inputs\.(\w+)\})\]", lambda found: found[1] if found[2] in values else "", COMMAND)
    return shlex.split(re.sub(r"\{(?:inputs|outputs)\.(\w+)\}", lambda found: str(values[found[1]]), text))
