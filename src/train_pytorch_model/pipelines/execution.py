"""Executes the steps of a pipeline."""

from __future__ import annotations

import logging
import math
import shutil
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from train_pytorch_model.errors import ModuleError
from train_pytorch_model.pipelines import reuse
from train_pytorch_model.pipelines.command_template import render, values_of
from train_pytorch_model.pipelines.definition import Literal, LocalData, Pipeline, PipelineInput, Step, StepOutput
from train_pytorch_model.pipelines.expressions import substitute
from train_pytorch_model.pipelines.orphans import end_processes_of_run
from train_pytorch_model.pipelines.step_run import StepPlan, copy_artifacts, error_of_missing_file, make_place, run_step
from train_pytorch_model.pipelines.sweep_run import SweepRun, TrialPlan
from train_pytorch_model.pipelines.trials import runs_of_interrupted_trials, trials_folder
from train_pytorch_model.pipelines.web_files import is_web, place_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from train_pytorch_model.console.progress import ProgressDisplay
    from train_pytorch_model.pipelines.search_space import Value
    from train_pytorch_model.pipelines.sweep_definition import Sweep

logger = logging.getLogger(__name__)


class PipelineRun:
    """One run: its folders and the states of its steps."""

    def __init__(self, pipeline: Pipeline, folder: Path, *, force: bool) -> None:
        """Start with no step run.

        Args:
            pipeline: the pipeline, without faults.
            folder: the folder of the run, an absolute path.
            force: whether to run every step, changed or not.
        """
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
        known = values_of(inputs, outputs)
        for name, value in {**step.component.environment, **step.environment}.items():
            variables[name] = substitute(value, known)
        return StepPlan(
            name=step.name,
            component=step.component,
            command=render(step.component.command, inputs, outputs),
            folder=folder,
            variables=variables,
            run_folder=self._folder,
            timeout=math.inf if step.timeout is None else step.timeout,
        )

    def _step(self, step: Step, display: ProgressDisplay) -> None:
        plan, outputs = self.plan(step), self._outputs(step)
        key = self._key(step, plan, self._fingerprints(step))
        is_finished = reuse.is_finished(plan.folder, key, outputs) and not self._taken(step) & _missing(step, outputs)
        if step.component.is_deterministic and not self._force and is_finished:
            self.states[step.name] = "reused"
            logger.info("%s: unchanged since its last successful run; its outputs are reused.", step.name)
            return
        if step.sweep is not None:
            # They would write to the folders of the trials that start.
            for run_id in runs_of_interrupted_trials(plan.folder):
                end_processes_of_run(run_id)
            if self._is_new(step, plan.folder):
                shutil.rmtree(trials_folder(plan.folder), ignore_errors=True)
        reuse.begin(plan.folder)
        for name, path in outputs.items():
            make_place(path, is_file=step.component.outputs[name].is_file)
        started = time.perf_counter()
        with display.step(step.name):
            if step.sweep is None:
                logger.info("%s: started; log: %s", step.name, plan.log)
                run_step(plan, self._is_cancelled)
            else:
                self._sweep(step, step.sweep, plan.folder, outputs)
        if self._is_cancelled.is_set():
            return
        if step.sweep is None:
            copy_artifacts(plan, outputs)
        self._check_files(step, outputs, plan.log)
        self.states[step.name] = "run"
        reuse.finish(plan.folder, key, outputs)
        logger.info("%s: done in %.1f s.", step.name, time.perf_counter() - started)

    def _sweep(self, step: Step, sweep: Sweep, folder: Path, outputs: Mapping[str, Path]) -> None:
        """Run the trials of a sweep, and copy the outputs of the best one to those of the step."""
        inputs = self._fingerprints(step)

        def plan(number: int, settings: Mapping[str, Value]) -> TrialPlan:
            values = {name: Literal(value) for name, value in settings.items() if name in step.component.inputs}
            name = f"{step.name}/trials/{number}"
            trial = replace(step, name=name, inputs={**step.inputs, **values}, outputs={}, sweep=None)
            planned = self.plan(trial)
            variables = {f"AZUREML_SWEEP_{name}": str(value) for name, value in settings.items()}
            planned = replace(planned, variables={**planned.variables, **variables})
            files = frozenset(name for name, port in step.component.outputs.items() if port.is_file)
            return TrialPlan(planned, self._outputs(trial), files, self._taken(step), self._key(trial, planned, inputs))

        best = SweepRun(step.name, sweep, folder, plan, self._is_cancelled).run()
        if best is None:
            return
        for name, path in outputs.items():
            source = best.outputs[name]
            if source.is_dir():
                shutil.copytree(source, path, dirs_exist_ok=True)
            elif source.exists():
                make_place(path, is_file=True)
                shutil.copyfile(source, path)

    def _is_new(self, step: Step, folder: Path) -> bool:
        """Whether no trial of an earlier run of a sweep is kept. A sweep that was interrupted goes on."""
        if not reuse.has_record(folder):
            return self._force and not self._pipeline.force
        return self._force or not step.component.is_deterministic

    def _fingerprints(self, step: Step) -> dict[str, str]:
        return {name: reuse.fingerprint(Path(value)) for name, value in self._input_folders(step).items()}

    def _key(self, step: Step, plan: StepPlan, inputs: Mapping[str, str]) -> str:
        command = plan.command if step.sweep is None else f"{plan.command}\n{step.sweep}"
        return reuse.step_key(step.component, command, inputs, plan.variables, self._folder)

    def _check_files(self, step: Step, outputs: Mapping[str, Path], log: Path) -> None:
        """Raise an error if a file that another step takes was not written; warn of other files."""
        taken = self._taken(step)
        for name in sorted(_missing(step, outputs)):
            error = error_of_missing_file(step.name, name, outputs[name], log)
            if name in taken:
                raise error
            logger.warning("%s: %s", step.name, error.text)

    def _taken(self, step: Step) -> frozenset[str]:
        """Return the outputs of a step that other steps take."""
        return frozenset(
            source.output
            for other in self._pipeline.steps.values()
            for source in other.inputs.values()
            if isinstance(source, StepOutput) and source.step == step.name
        )

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
                is_there = not is_web(source.path)
                folders[name] = source.path if is_there else str(place_of(source.path, self._folder))
        return folders

    def _resolved(self, step: Step, name: str) -> object:
        source = step.inputs.get(name)
        return self._pipeline.inputs[source.name] if isinstance(source, PipelineInput) else source


def _missing(step: Step, outputs: Mapping[str, Path]) -> frozenset[str]:
    """Return the outputs of a step that are files and were not written."""
    ports = step.component.outputs
    return frozenset(name for name, path in outputs.items() if ports[name].is_file and not path.is_file())
