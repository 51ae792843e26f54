"""Pipelines that tests write and run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ruamel.yaml import YAML

from tests.making import error_text
from train_pytorch_model.cli.main import main

FOLDER: dict[str, object] = {"type": "uri_folder"}


def write_yaml(path: Path, document: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(document, file)
    return path


def component(path: Path, command: str, inputs: dict[str, object], outputs: Iterable[str] = (), **more: object) -> Path:
    """Write a component whose outputs are folders, or of their given types; `more` adds and replaces fields."""
    ports = outputs if isinstance(outputs, dict) else {name: {"type": "uri_folder"} for name in outputs}
    document = {
        "type": "command",
        "name": path.stem,
        "inputs": inputs,
        "outputs": ports,
        "environment": "azureml:any:1",
        "command": command,
        **more,
    }
    return write_yaml(path, document)


def command(text: str, **more: object) -> dict[str, object]:
    """Return a job that has its command in itself."""
    return {"type": "command", "environment": "azureml:any:1", "command": text, **more}


def pipeline(path: Path, jobs: dict[str, object], **more: object) -> Path:
    return write_yaml(path, {"type": "pipeline", "jobs": jobs, **more})


def run(path: Path, folder: Path, *flags: str) -> int:
    """Run a pipeline in `folder/run` and return the exit code."""
    outputs = ("--outputs-path", str(folder / "outputs_of_command"))
    return main(["run-pipeline", str(path), "--output-path", str(folder / "run"), *outputs, *flags])


def message(folder: Path) -> str:
    return error_text(folder / "outputs_of_command")
