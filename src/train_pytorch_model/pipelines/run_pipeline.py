"""Runs a pipeline of Azure Machine Learning on this machine."""

from __future__ import annotations

import fcntl
import logging
import shutil
import signal
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from train_pytorch_model.errors import ModuleError, UserError
from train_pytorch_model.pipelines import reuse
from train_pytorch_model.pipelines.checks import faults_of_pipeline
from train_pytorch_model.pipelines.command_template import render
from train_pytorch_model.pipelines.definition import (
    Literal,
    LocalData,
    Pipeline,
    PipelineError,
    PipelineInput,
    Step,
    StepOutput,
    read_pipeline,
)
from train_pytorch_model.pipelines.graph_plot import draw_graph
from train_pytorch_model.pipelines.step_run import StepPlan, run_step

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from train_pytorch_model.console.progress import ProgressDisplay

logger = logging.getLogger(__name__)

GRAPH_FILE = "graph.svg"
_MARK_FILE = ".pipeline-run"


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
        The folder of each output of the pipeline, by name. A dry run does not write them.

    Raises:
        ModuleError: if the pipeline cannot run, with all its faults; or the error of the step that failed.
    """
    try:
        definition = _with_values(read_pipeline(pipeline), inputs)
    except PipelineError as error:
        raise UserError(str(error)) from error
    faults = faults_of_pipeline(definition)
    if faults:
        raise UserError("The pipeline cannot run: " + "; ".join(faults))
    run = _Run(definition, output_path.resolve(), force=force)
    for line in graph_lines(definition):
        logger.info("%s", line)
    outputs = {name: output_path / "outputs" / name for name in definition.outputs}
    if dry_run:
        for name, step in definition.steps.items():
            logger.info("%s: %s", name, run.plan(step).command)
        return outputs
    with _locked(output_path, definition):
        try:
            run.all_steps(display)
        finally:
            draw_graph(definition, run.states, output_path / GRAPH_FILE)
    for name, path in outputs.items():
        logger.info("Output %s: %s", name, path)
    return outputs


@contextmanager
def _locked(folder: Path, pipeline: Pipeline) -> Iterator[None]:
    """Lock the folder of the run, which must be new, empty, or the folder of an earlier run that has ended.

    Raises:
        UserError: if it is not, or an input overlaps with it.
    """
    for source in (*pipeline.inputs.values(), *(s for step in pipeline.steps.values() for s in step.inputs.values())):
        if isinstance(source, LocalData):
            path = (pipeline.path.parent / source.path).resolve()
            if folder.resolve() in (path, *path.parents) or path in folder.resolve().parents:
                raise UserError(f"The input {path} overlaps with the folder {folder}. Give another --output-path.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _MARK_FILE).is_file():
        raise UserError(f"{folder} contains files that are not from an earlier run. Give another --output-path.")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _MARK_FILE).open("a", encoding="utf-8") as mark:
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"Another run is using {folder}. Give another --output-path.") from error
        yield


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM and SIGHUP too, so that steps end with this process. For the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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


def _with_values(pipeline: Pipeline, values: Mapping[str, str]) -> Pipeline:
    unknown = sorted(set(values) - set(pipeline.inputs))
    if unknown:
        raise PipelineError(
            f"{pipeline.path}: there is no input {', '.join(unknown)}; there is {', '.join(pipeline.inputs) or 'none'}"
        )
    folders = {
        source.name
        for step in pipeline.steps.values()
        for name, source in step.inputs.items()
        if isinstance(source, PipelineInput) and name in step.component.inputs and step.component.inputs[name].is_folder
    }
    given = {
        name: LocalData(str(Path(value).resolve())) if name in folders else Literal(value)
        for name, value in values.items()
    }
    return replace(pipeline, inputs={**pipeline.inputs, **given})


class _Run:
    """One run: its folders and the states of its steps."""

    def __init__(self, pipeline: Pipeline, folder: Path, *, force: bool) -> None:
        self.states: dict[str, str] = {}
        """State of each step: "run", "reused", "failed" or "not run"."""
        self._pipeline = pipeline
        self._folder = folder
        self._force = force
        self._is_cancelled = threading.Event()

    def all_steps(self, display: ProgressDisplay) -> None:
        """Run each step as soon as those that it depends on are done; independent steps run in parallel."""
        self.states = dict.fromkeys(self._pipeline.steps, "not run")
        sorter = self._pipeline.sorter()
        sorter.prepare()
        running: dict[Future[None], Step] = {}
        error: ModuleError | None = None
        with ThreadPoolExecutor(len(self.states)) as pool:
            try:
                while (sorter.is_active() and error is None) or running:
                    for name in sorter.get_ready() if error is None else ():
                        step = self._pipeline.steps[name]
                        running[pool.submit(self._step, step, display)] = step
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        step = running.pop(future)
                        try:
                            future.result()
                            sorter.done(step.name)
                        except ModuleError as fault:
                            self._is_cancelled.set()
                            # A step that was cancelled because another one had failed is not at fault.
                            error = error or fault
                            self.states[step.name] = "failed" if error is fault else "not run"
                        except Exception:
                            self.states[step.name] = "failed"
                            raise
            except BaseException:
                self._is_cancelled.set()
                raise
        if error is not None:
            raise error

    def plan(self, step: Step) -> StepPlan:
        """Plan the command, the folder and the variables of a step."""
        folder = self._folder / "steps" / step.name
        inputs = self._input_values(step)
        outputs = {name: str(path) for name, path in self._outputs(step).items()}
        variables = {f"AZURE_ML_INPUT_{name}": value for name, value in inputs.items()}
        variables.update({f"AZURE_ML_OUTPUT_{name}": value for name, value in outputs.items()})
        variables.update(step.environment)
        return StepPlan(
            step.name, step.component, render(step.component.command, inputs, outputs), folder, variables, self._folder
        )

    def _step(self, step: Step, display: ProgressDisplay) -> None:
        plan, outputs = self.plan(step), self._outputs(step)
        inputs = {name: reuse.fingerprint(Path(value)) for name, value in self._input_folders(step).items()}
        key = reuse.step_key(step.component, plan.command, inputs, plan.variables, self._folder)
        if step.component.is_deterministic and not self._force and reuse.is_finished(plan.folder, key, outputs):
            self.states[step.name] = "reused"
            logger.info("%s: unchanged since its last successful run; its outputs are reused.", step.name)
            return
        reuse.begin(plan.folder)
        for path in outputs.values():
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(parents=True)  # Azure mounts existing folders too
        started = time.perf_counter()
        with display.step(step.name):
            logger.info("%s: started; log: %s", step.name, plan.log)
            run_step(plan, self._is_cancelled)
        if self._is_cancelled.is_set():
            return
        self.states[step.name] = "run"
        reuse.finish(plan.folder, key, outputs)
        logger.info("%s: done in %.1f s.", step.name, time.perf_counter() - started)

    def _outputs(self, step: Step) -> dict[str, Path]:
        own = self._folder / "steps" / step.name / "outputs"
        return {
            name: self._folder / "outputs" / step.outputs[name] if name in step.outputs else own / name
            for name in step.component.outputs
        }

    def _input_values(self, step: Step) -> dict[str, str]:
        """Each input as the text that Azure writes into a command; its default if no value is given."""
        folders = self._input_folders(step)
        values: dict[str, str] = {}
        for name, port in step.component.inputs.items():
            source = self._resolved(step, name)
            if name in folders:
                values[name] = folders[name]
            elif isinstance(source, Literal):
                values[name] = str(source.value)
            elif port.default is not None:
                values[name] = str(port.default)
        return values

    def _input_folders(self, step: Step) -> dict[str, str]:
        folders = {}
        for name in step.component.inputs:
            source = self._resolved(step, name)
            if isinstance(source, StepOutput):
                folders[name] = str(self._outputs(self._pipeline.steps[source.step])[source.output])
            elif isinstance(source, LocalData):
                folders[name] = str((self._pipeline.path.parent / source.path).resolve())
        return folders

    def _resolved(self, step: Step, name: str) -> object:
        source = step.inputs.get(name)
        return self._pipeline.inputs[source.name] if isinstance(source, PipelineInput) else source
