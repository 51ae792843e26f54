"""What tests hold fuzzing to: a short run, all findings, and misbehaviours that must be found.

It runs in a process of its own, since a process that forks must never have run threads of PyTorch, and pytest's has.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.fuzzing.campaign import Campaign
from tests.fuzzing.findings import FINDINGS
from tests.fuzzing.recipes import Recipe
from tests.fuzzing.runner import Finding, Runner
from tests.making import main

NUM_INPUTS = 60
_SEED = 20
_RECIPE = Recipe("train")


def _value(argv: list[str], flag: str) -> Path:
    return Path(next(word for word in argv if word.startswith(f"--{flag}=")).partition("=")[2])


def _fail_with(error: str, code: int, kind: str, argv: list[str]) -> int:
    report = _value(argv, "outputs-path") / "module_statistics" / "error_info.json"
    report.parent.mkdir(parents=True)
    report.write_text(json.dumps({"Exception": {"ErrorId": error, "ErrorCode": code, "ExceptionType": kind}}))
    return 1


def _named(argv: list[str]) -> int:
    return _fail_with("UserError", 2000, "ModuleException", argv)


def _raise(argv: list[str]) -> int:
    raise ValueError("nobody caught this")


def _hang(argv: list[str]) -> int:
    time.sleep(60)
    return 0


def _take_memory(argv: list[str]) -> int:
    return len(bytearray(b"x") * 2**30) * 0


def _write_outside(argv: list[str]) -> int:
    (_value(argv, "trained-model-path").parent / "outside" / "new").write_text("x")
    return _named(argv)


def _change_an_input(argv: list[str]) -> int:
    (_value(argv, "train-data-path") / "images.lst").write_text("x")
    return _named(argv)


def _remove_an_input(argv: list[str]) -> int:
    (_value(argv, "train-data-path") / "images.lst").unlink()
    return _named(argv)


def _leave_half_an_output(argv: list[str]) -> int:
    _value(argv, "trained-model-path").mkdir()
    return _named(argv)


def _write_no_model(argv: list[str]) -> int:
    _value(argv, "trained-model-path").mkdir()
    return 0


def _lose_a_file(argv: list[str]) -> int:
    code = main(argv)
    (_value(argv, "trained-model-path") / "model").unlink()
    return code


def _leave_a_process(argv: list[str]) -> int:
    subprocess.Popen(["sleep", "60"])
    return _named(argv)


MISBEHAVIOURS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "prints a traceback": (_raise, "printed a traceback"),
    "hangs": (_hang, "is not over"),
    "takes memory": (_take_memory, "took "),
    "writes outside": (_write_outside, "wrote outside/new"),
    "changes an input": (_change_an_input, "changed train/images.lst"),
    "removes an input": (_remove_an_input, "removed train/images.lst"),
    "leaves half an output": (_leave_half_an_output, "wrote written"),
    "writes no model": (_write_no_model, "not whole"),
    "loses a file": (_lose_a_file, "not whole"),
    "leaves a process": (_leave_a_process, "left a process"),
    "has no name for its error": (
        lambda argv: _fail_with("KeyError", 1000, "LibraryException", argv),
        "ended with no error of a name",
    ),
    "does not say why": (lambda argv: 1, "left no error_info.json"),
    "ends with another code": (lambda argv: 75, "ended with 75"),
    "blames the usage": (lambda argv: 2, "not for its usage"),
    "dies": (lambda argv: os.abort(), "ended with -6"),  # type: ignore[func-returns-value]
}


def prove() -> dict[str, dict[str, str]]:
    """What was found, by what it was found in; empty texts where nothing was."""
    with Runner() as runner:
        found = {
            "findings": {name: _found(runner, recipe) for name, recipe in FINDINGS.items()},
            "misbehaviours": {},
            "valid": {command: _found(runner, Recipe(command)) for command in ("train", "check")},
        }
        for name, (misbehave, _) in MISBEHAVIOURS.items():
            limits = {"max_seconds": 1.0} if name == "hangs" else {"max_bytes": 2**30} if name == "takes memory" else {}
            with Runner(main=misbehave, bases=runner.bases, **limits) as other:
                found["misbehaviours"][name] = _found(other, _RECIPE)
        campaign = Campaign(runner, lambda line: None)
        campaign.run_count(NUM_INPUTS, _SEED)
        found["campaign"] = {
            "inputs": str(campaign.num_inputs),
            "found": "\n".join(map(str, campaign.findings.values())),
        }
    return found


def _found(runner: Runner, recipe: Recipe) -> str:
    try:
        runner.run(recipe)
    except Finding as finding:
        return str(finding)
    return ""


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(prove()))
