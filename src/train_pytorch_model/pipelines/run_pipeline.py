"""Run a pipeline of Azure Machine Learning on this machine."""

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
from train_pytorch_model.pipelines.graph_picture import draw_graph
from train_pytorch_model.pipelines.step_run import StepPlan, run_step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from train_pytorch_model.console.progress import ProgressDisplay

logger = logging.getLogger(__name__)

GRAPH_FILE = "graph.svg"
_MARK_FILE = ".pipeline-run"


def run_pipeline(
    path: Path, values: dict[str, str], output_path: Path, *, display: ProgressDisplay, dry_run: bool, force: bool
) -> None:
    """Run every step of a pipeline whose inputs or code have changed since it last ended well.

    Args:
        path: of the pipeline's YAML.
        values: of its inputs, by name; a folder is relative to where the command is given.
        output_path: gets `outputs/<name>` for each output of the pipeline, and `steps/<name>` with the log of each.
        display: shows how far it is.
        dry_run: check, and print the graph and the commands, but run nothing.
        force: run every step.

    Raises:
        ModuleError: for a pipeline that cannot run, with all that is wrong; or the error of the step that failed.
    """
    try:
        pipeline = _with_values(read_pipeline(path), values)
    except PipelineError as error:
        raise UserError(str(error)) from error
    faults = faults_of_pipeline(pipeline)
    if faults:
        raise UserError("The pipeline cannot run: " + "; ".join(faults))
    run = _Run(pipeline, output_path.resolve(), force=force)
    for line in graph_lines(pipeline):
        logger.info("%s", line)
    if dry_run:
        for name in pipeline.steps:
            logger.info("%s: %s", name, run.plan(pipeline.steps[name]).command)
        return
    with _owned(output_path, pipeline), _ended_by_signals():
        try:
            run.all_steps(display)
        finally:
            draw_graph(pipeline, run.states, output_path / GRAPH_FILE)
    for name in pipeline.outputs:
        logger.info("Output %s: %s", name, output_path / "outputs" / name)


@contextmanager
def _owned(folder: Path, pipeline: Pipeline) -> Iterator[None]:
    """Hold the folder of the run, which is new, empty, or that of an earlier run, and that no other run is at work in.

    Raises:
        UserError: when it is none of these, or an input lies in it.
    """
    for source in (*pipeline.inputs.values(), *(s for step in pipeline.steps.values() for s in step.inputs.values())):
        if isinstance(source, LocalData):
            path = (pipeline.path.parent / source.path).resolve()
            if folder.resolve() in (path, *path.parents) or path in folder.resolve().parents:
                raise UserError(f"The input {path} is, holds or lies in {folder}. Give another --output-path.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _MARK_FILE).is_file():
        raise UserError(f"{folder} holds files that are no earlier run's. Give another --output-path.")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _MARK_FILE).open("a", encoding="utf-8") as mark:
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"Another run is at work in {folder}. Give another --output-path.") from error
        yield


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let what ends this process end its steps too, as an interrupt at the keyboard does."""
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
    """The graph in words, a line a step, each after those that it takes from."""
    lines = []
    for step in in_order(pipeline):
        sources = [
            f"{name} from {source.step}.{source.output}"
            if isinstance(source, StepOutput)
            else f"{name} from the pipeline's {source.name}"
            for name, source in step.inputs.items()
            if isinstance(source, (StepOutput, PipelineInput))
        ]
        lines.append(f"{step.name}: {', '.join(sources) or 'takes no input of others'}")
    return lines


def in_order(pipeline: Pipeline) -> list[Step]:
    """The steps, each after those that it takes from."""
    done: list[Step] = []
    waiting = list(pipeline.steps.values())
    while waiting:
        step = next(step for step in waiting if step.needs <= {other.name for other in done})
        waiting.remove(step)
        done.append(step)
    return done


def _with_values(pipeline: Pipeline, values: dict[str, str]) -> Pipeline:
    unknown = sorted(set(values) - set(pipeline.inputs))
    if unknown:
        raise PipelineError(
            f"{pipeline.path}: it has no input {', '.join(unknown)}; it has {', '.join(pipeline.inputs) or 'none'}"
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
    """One run: where things lie, and which steps have ended how."""

    def __init__(self, pipeline: Pipeline, folder: Path, *, force: bool) -> None:
        self.states: dict[str, str] = {}
        """What has become of each step: "run", "reused", "failed" or "not run"."""
        self._pipeline = pipeline
        self._folder = folder
        self._force = force
        self._is_cancelled = threading.Event()

    def all_steps(self, display: ProgressDisplay) -> None:
        """Run the steps in their order, side by side where none waits for another."""
        waiting = in_order(self._pipeline)
        self.states = {step.name: "not run" for step in waiting}
        under_way: dict[Future[None], Step] = {}
        error: ModuleError | None = None
        with ThreadPoolExecutor(len(waiting)) as pool:
            try:
                while (waiting and error is None) or under_way:
                    done = {name for name, state in self.states.items() if state in ("run", "reused")}
                    for step in [step for step in waiting if step.needs <= done] if error is None else []:
                        waiting.remove(step)
                        under_way[pool.submit(self._step, step, display)] = step
                    for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                        step = under_way.pop(future)
                        try:
                            future.result()
                        except ModuleError as fault:
                            self._is_cancelled.set()
                            # A step that was ended because another had failed has no fault of its own.
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
        """What a step is to run."""
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
            logger.info("%s: nothing has changed since it last ended well; its outputs are used again.", step.name)
            return
        reuse.begin(plan.folder)
        for path in outputs.values():
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(parents=True)  # as Azure mounts them
        started = time.perf_counter()
        with display.step(step.name):
            logger.info("%s: started; its log is %s.", step.name, plan.log)
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
        """Each input's text as Azure writes it into a command; a default where none is given."""
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
