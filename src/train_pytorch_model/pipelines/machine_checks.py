"""Finds what would make a step fail on this machine: the folder of the run, commands, code that cannot be read."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from train_pytorch_model.data.file_systems import is_system_name
from train_pytorch_model.pipelines.checks import faults_of_path
from train_pytorch_model.pipelines.programs import missing_program, search_path
from train_pytorch_model.pipelines.snapshot import snapshot_files
from train_pytorch_model.pipelines.web_files import is_web

if TYPE_CHECKING:
    from train_pytorch_model.pipelines.definition import Pipeline
    from train_pytorch_model.pipelines.step_run import StepPlan

MARK_FILE = ".pipeline-run"


def faults_of_run_folder(folder: Path, pipeline: Pipeline) -> list[str]:
    """Describe why a run cannot use a folder, which must be new, empty, or the folder of an earlier run.

    Args:
        folder: the folder, an absolute path without links.
        pipeline: the pipeline, without faults.
    """
    faults = []
    for data in pipeline.data:
        path = Path(data.path)
        if not is_web(data.path) and (folder in (path, *path.parents) or path in folder.parents):
            faults.append(f"The input {path} overlaps with the folder {folder}. Give another --output-path.")
    if any(step.component.outputs for step in pipeline.steps.values()):
        faults += faults_of_path(folder)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        faults.append(f"{existing} is a file. Give another --output-path.")
    elif not os.access(existing, os.W_OK | os.X_OK):
        faults.append(f"{existing} cannot be written to. Give another --output-path.")
    elif existing == folder and not (folder / MARK_FILE).is_file() and not _is_empty(folder):
        faults.append(f"{folder} contains files that are not from an earlier run. Give another --output-path.")
    return faults


def _is_empty(folder: Path) -> bool:
    return all(is_system_name(entry.name) for entry in folder.iterdir())


def faults_of_plan(plan: StepPlan) -> list[str]:
    """Describe why a step cannot run here: its command is not valid bash, or its program or code is not there."""
    faults = _faults_of_command(plan.command) or _faults_of_programs(plan)
    return [f"job {plan.name}: {fault}" for fault in faults + _faults_of_code(plan)]


def _faults_of_command(command: str) -> list[str]:
    try:
        checked = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, errors="replace")
    except (OSError, ValueError) as error:  # no bash, or a command that is too long or contains a null character
        return [f"the command cannot be started: {error}"]
    said = checked.stderr.strip().splitlines()
    return [f"the command is not valid bash: {said[0] if said else command}"] if checked.returncode else []


def _faults_of_programs(plan: StepPlan) -> list[str]:
    path = search_path(plan.variables.get("PATH", os.environ.get("PATH", "")))
    missing = missing_program(plan.command, path)
    return [f"the command needs {missing}, which this machine does not have; install it"] if missing else []


def _faults_of_code(plan: StepPlan) -> list[str]:
    try:
        files = snapshot_files(plan.component, plan.run_folder)
    except (OSError, ValueError) as error:
        return [str(error)]
    return [f"the file {path} of the code cannot be read" for path in files.values() if not os.access(path, os.R_OK)]
