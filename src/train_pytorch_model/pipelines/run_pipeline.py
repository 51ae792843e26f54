"""Runs a pipeline of Azure Machine Learning on this machine."""

from __future__ import annotations

import logging
import os
import platform
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from train_pytorch_model.data.file_systems import locked
from train_pytorch_model.errors import UserError
from train_pytorch_model.pipelines.checks import faults_of_pipeline
from train_pytorch_model.pipelines.definition import Pipeline, PipelineError, PipelineInput, StepOutput
from train_pytorch_model.pipelines.execution import PipelineRun
from train_pytorch_model.pipelines.graph_plot import draw_graph
from train_pytorch_model.pipelines.machine_checks import MARK_FILE, faults_of_plan, faults_of_run_folder
from train_pytorch_model.pipelines.pipeline_files import read_pipeline
from train_pytorch_model.pipelines.web_files import download, fault_of_address, is_web, place_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from train_pytorch_model.console.progress import ProgressDisplay

logger = logging.getLogger(__name__)

GRAPH_FILE = "graph.svg"


def run_pipeline(
    pipeline: Path,
    *,
    inputs: Mapping[str, str],
    output_path: Path,
    dry_run: bool = False,
    force: bool = False,
    display: ProgressDisplay,
) -> dict[str, Path]:
    """Run every step of a pipeline whose inputs or code have changed since its last successful run.

    Args:
        pipeline: the YAML of a pipeline job.
        inputs: values of the pipeline's inputs, by name; a folder is relative to the current directory.
        output_path: where to write `outputs/<name>` for each output of the pipeline, `steps/<name>` for each step with
            its log, and the graph as `graph.svg`.
        dry_run: whether to only check the pipeline and log the graph and the commands.
        force: whether to run every step, changed or not.
        display: shows the progress.

    Returns:
        The folder or the file of each output of the pipeline, by name. A dry run does not write them.

    Raises:
        ModuleError: if the pipeline cannot run, with all its faults; or the error of the step that failed.
    """
    definition = _read(pipeline, inputs)
    folder = Path(os.path.realpath(output_path))
    force = force or definition.force
    run = PipelineRun(definition, folder, force=force)
    addresses = _addresses(definition, folder, force=force)
    faults = faults_of_run_folder(folder, definition)
    if not faults:
        faults = [fault for step in definition.steps.values() for fault in faults_of_plan(run.plan(step))]
        faults += [f"{pipeline}: {fault}" for address in addresses for fault in fault_of_address(address)]
    _raise_for(faults)
    _log(definition)
    outputs = {name: output_path / "outputs" / name for name in definition.outputs}
    if dry_run:
        for name, step in definition.steps.items():
            for line in step.sweep.in_words() if step.sweep else ():
                logger.info("%s: %s", name, line)
            example = " (with values in the middle of the search space)" if step.sweep else ""
            logger.info("%s%s: %s", name, example, run.plan(step).command)
        return {}
    with _locked(output_path):
        try:
            for address in addresses:
                logger.info("Downloading %s.", address)
                download(address, folder)
            run.all_steps(display)
        finally:
            try:
                draw_graph(definition, run.states, output_path / GRAPH_FILE)
            except OSError as error:
                logger.warning("%s could not be written: %s.", output_path / GRAPH_FILE, error.strerror)
    for name, path in outputs.items():
        logger.info("Output %s: %s", name, path)
    return outputs


def _read(pipeline: Path, inputs: Mapping[str, str]) -> Pipeline:
    try:
        definition = read_pipeline(pipeline, inputs)
    except PipelineError as error:
        raise UserError(str(error)) from error
    _raise_for(faults_of_pipeline(definition))
    return definition


def _raise_for(faults: list[str]) -> None:
    if faults:
        raise UserError("The pipeline cannot run: " + "; ".join(faults))


def _addresses(pipeline: Pipeline, folder: Path, *, force: bool) -> list[str]:
    """List the files to download: those that an earlier run did not, or all of them if every step is to run."""
    addresses = dict.fromkeys(data.path for data in pipeline.data if is_web(data.path))
    return [address for address in addresses if force or not place_of(address, folder).is_file()]


def _log(pipeline: Pipeline) -> None:
    """Log what is not used of a pipeline, and its graph."""
    if pipeline.unused:
        logger.info("Not used on this machine: %s.", ", ".join(pipeline.unused))
    python = platform.python_version()
    logger.warning("No environment is built: the commands run in that of this Python, %s in %s.", python, sys.prefix)
    for note in pipeline.notes:
        logger.warning("%s: %s.", pipeline.path, note)
    for line in graph_lines(pipeline):
        logger.info("%s", line)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the folder of the run.

    Raises:
        UserError: if another run is using it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK_FILE).touch()
    with ExitStack() as stack:
        try:
            reason = stack.enter_context(locked(folder / MARK_FILE))
        except BlockingIOError as error:
            raise UserError(f"Another run is using {folder}. Give another --output-path.") from error
        if reason:
            logger.warning("%s cannot be locked (%s). Do not start another run in it.", folder, reason)
        yield


def graph_lines(pipeline: Pipeline) -> list[str]:
    """Describe the graph, one line per step, each step after those that it depends on."""
    lines = []
    for step in (pipeline.steps[name] for names in pipeline.generations() for name in names):
        sources = [
            f"{name} from {source.step}.{source.output}"
            if isinstance(source, StepOutput)
            else f"{name} from the pipeline's {source.name}"
            for name, source in step.inputs.items()
            if isinstance(source, (StepOutput, PipelineInput))
        ]
        lines.append(f"{step.name}: {', '.join(sources) or 'depends on no other step'}")
    return lines
