"""Runs the trials of a sweep, ends the bad ones early and finds the best one."""

from __future__ import annotations

import logging
import math
import os
import shutil
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from train_pytorch_model.errors import StepFailedError
from train_pytorch_model.pipelines import reuse
from train_pytorch_model.pipelines.early_termination import reason_to_end
from train_pytorch_model.pipelines.sampling import settings_of
from train_pytorch_model.pipelines.search_space import settings_in_words
from train_pytorch_model.pipelines.step_run import StepPlan, copy_artifacts, error_of_missing_file, make_place, run_step
from train_pytorch_model.pipelines.sweep_results import (
    error_of_missing_metric,
    error_of_sweep,
    log_best,
    log_outcome,
    write_results,
)
from train_pytorch_model.pipelines.trials import (
    CANCELLED,
    COMPLETED,
    ENDED,
    FAILED,
    RUNNING,
    TIMED_OUT,
    Trial,
    best_trial,
    joined,
    read_record,
    remove_other_trials,
    trials_folder,
    write_record,
)
from train_pytorch_model.text.masking import masked
from train_pytorch_model.tracking import LocalRuns

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from train_pytorch_model.pipelines.search_space import Value
    from train_pytorch_model.pipelines.sweep_definition import Sweep

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
# If the first trials all fail, so will the others.
_MAX_FAILED = 3


@dataclass(frozen=True)
class TrialPlan:
    """Everything that is needed to run a trial."""

    plan: StepPlan
    outputs: dict[str, Path]
    files: frozenset[str]
    """The outputs that are files."""
    taken: frozenset[str]
    """The outputs that other steps take."""
    key: str

    @property
    def missing(self) -> list[str]:
        """The files that other steps take and that are not written."""
        return sorted(name for name in self.files & self.taken if not self.outputs[name].is_file())


class SweepRun:
    """One run of a sweep: its trials and their states."""

    def __init__(
        self,
        name: str,
        sweep: Sweep,
        folder: Path,
        plan: Callable[[int, dict[str, Value]], TrialPlan],
        is_cancelled: threading.Event,
    ) -> None:
        """Start with no trial run.

        Args:
            name: the name of the step.
            sweep: the sweep.
            folder: the folder of the step, for the table, the plot and the runs of MLflow.
            plan: returns the plan of a trial with a number and settings.
            is_cancelled: ends the sweep early when it is set.
        """
        self._name, self._sweep, self._folder = name, sweep, folder
        self._plan = plan
        self._is_cancelled = is_cancelled
        self._runs = LocalRuns(folder / "mlruns", name)
        self._trials: dict[int, Trial] = {}
        self._plans: dict[int, TrialPlan] = {}
        self._running: dict[Future[None], int] = {}
        self._ends: dict[int, threading.Event] = {}
        self._started: dict[int, float] = {}
        self._evaluated: dict[int, int] = {}
        self._errors: list[StepFailedError] = []
        limits = sweep.limits
        self._deadline = time.monotonic() + (math.inf if limits.timeout is None else limits.timeout)

    def run(self) -> TrialPlan | None:
        """Run all trials and return the plan of the best one; None if the sweep was cancelled.

        Raises:
            StepFailedError: if no trial completes with a value of the primary metric.
        """
        remove_other_trials(self._folder, self._sweep.sampling_text)
        for line in self._sweep.in_words():
            logger.info("%s: %s", self._name, line)
        num_cores, num_together = os.cpu_count() or 1, self._sweep.limits.max_concurrent_trials
        if min(num_together, self._sweep.num_trials) > num_cores:
            text = "%s: limits.max_concurrent_trials is %d, but this machine has %d cores; trials slow each other down."
            logger.warning(text, self._name, num_together, num_cores)
        try:
            with ThreadPoolExecutor(self._sweep.limits.max_concurrent_trials) as pool:
                try:
                    while self._start_trials(pool):
                        done = wait(self._running, _POLL_SECONDS, FIRST_COMPLETED).done
                        self._read_values()
                        for future in done:
                            self._finish(future)
                        self._end_trials()
                except BaseException:
                    self._is_cancelled.set()
                    for event in self._ends.values():
                        event.set()
                    raise
        finally:
            write_results(self._folder, list(self._trials.values()), self._sweep, has_plot=True)
        return None if self._is_cancelled.is_set() else self._best()

    def _start_trials(self, pool: ThreadPoolExecutor) -> bool:
        """Start as many trials as may run at the same time, and return whether any is running."""
        while len(self._running) < self._sweep.limits.max_concurrent_trials and not self._is_over():
            number = len(self._trials) + 1
            recorded = read_record(trials_folder(self._folder) / str(number))
            settings = recorded.settings if recorded else settings_of(self._sweep, number, self._earlier())
            planned = self._plans[number] = self._plan(number, settings)
            if recorded is not None and recorded.key != planned.key:
                recorded = None
            if recorded is not None and self._is_kept(recorded, planned):
                self._trials[number] = recorded
                log_outcome(f"{self._name} (earlier run)", recorded, self._trials, self._sweep)
            elif recorded is not None and (trial := self._continued(recorded)) is not None:
                self._start(pool, trial, planned)
            else:
                shutil.rmtree(planned.plan.folder, ignore_errors=True)
                for output, path in planned.outputs.items():
                    make_place(path, is_file=output in planned.files)
                run_id = self._runs.start(f"trial {number}")
                texts = self._sweep.sampling_text, self._sweep.ends_text
                self._start(pool, Trial(number, settings, run_id, planned.key, *texts), planned)
        return bool(self._running)

    def _start(self, pool: ThreadPoolExecutor, trial: Trial, planned: TrialPlan) -> None:
        number = trial.number
        self._trials[number], self._started[number] = trial, time.monotonic()
        event = self._ends[number] = threading.Event()
        variables = {**planned.plan.variables, **self._runs.variables(trial.run_id)}
        if self._sweep.limits.max_concurrent_trials > 1:
            threads = max(1, (os.cpu_count() or 1) // self._sweep.limits.max_concurrent_trials)
            variables.setdefault("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", str(threads)))
        reuse.begin(planned.plan.folder)
        write_record(planned.plan.folder, trial)
        words = settings_in_words(trial.settings)
        text = "%s: trial %d of %d started: %s; log: %s"
        logger.info(text, self._name, number, self._sweep.num_trials, words, planned.plan.log)
        plan = replace(planned.plan, variables=variables)
        self._running[pool.submit(run_step, plan, event)] = number

    def _is_over(self) -> bool:
        """Whether no more trial is started."""
        has_failed = len(self._errors) >= _MAX_FAILED and not any(
            trial.points for trial in self._trials.values() if trial.state != FAILED
        )
        return (
            self._is_cancelled.is_set()
            or has_failed
            or len(self._trials) >= self._sweep.num_trials
            or time.monotonic() >= self._deadline
        )

    def _earlier(self) -> list[tuple[dict[str, Value], float | None, bool]]:
        objective = self._sweep.objective
        return [(trial.settings, trial.best(objective), trial.state == RUNNING) for trial in self._trials.values()]

    def _is_kept(self, recorded: Trial, planned: TrialPlan) -> bool:
        """Whether a trial of an earlier run does not run again."""
        if recorded.state == COMPLETED:
            return not planned.missing and reuse.is_finished(planned.plan.folder, planned.key, planned.outputs)
        return recorded.state in (ENDED, TIMED_OUT) and recorded.ends == self._sweep.ends_text

    def _continued(self, recorded: Trial) -> Trial | None:
        """Return a trial that did not reach its end as one that is started again; None if nothing of it counts."""
        logged = self._runs.values(recorded.run_id, self._sweep.objective.metric)
        if logged is None or recorded.state in (COMPLETED, FAILED):
            return None
        attempts = (*recorded.attempts, len(logged))
        points = joined(logged, attempts)
        ends = self._sweep.ends_text
        return replace(recorded, state=RUNNING, reason="", attempts=attempts, points=points, ends=ends)

    def _read_values(self) -> None:
        for number in self._running.values():
            trial = self._trials[number]
            logged = self._runs.values(trial.run_id, self._sweep.objective.metric)
            if logged is not None:
                self._trials[number] = replace(trial, points=joined(logged, trial.attempts))

    def _end_trials(self) -> None:
        """End the running trials that a policy or a limit ends. Each is asked once for every interval."""
        values = {number: trial.values for number, trial in self._trials.items()}
        policy, limits = self._sweep.policy, self._sweep.limits
        for number in self._running.values():
            if self._ends[number].is_set():
                continue
            asked = self._evaluated.get(number, 0)
            if asked > len(values[number]):  # It began again from its first step.
                asked = 0
            for interval in range(asked + 1, len(values[number]) + 1):
                self._evaluated[number] = interval
                if policy is None or not policy.applies_at(interval):
                    continue
                reason = reason_to_end(policy, self._sweep.objective, number, interval, values)
                if reason:
                    self._end(number, ENDED, f"{policy.kind} at value {interval}: {reason}")
                    break
            is_late = limits.trial_timeout is not None and self._seconds(number) >= limits.trial_timeout
            if self._is_cancelled.is_set():
                self._end(number, CANCELLED, "the pipeline ended")
            elif time.monotonic() >= self._deadline:
                self._end(number, CANCELLED, f"limits.timeout, {limits.timeout} seconds")
            elif is_late:
                self._end(number, TIMED_OUT, f"limits.trial_timeout, {limits.trial_timeout} seconds")

    def _end(self, number: int, state: str, reason: str) -> None:
        if not self._ends[number].is_set():
            self._trials[number] = replace(self._trials[number], state=state, reason=reason)
            self._ends[number].set()

    def _finish(self, future: Future[None]) -> None:
        """Take the result of a trial that has ended."""
        number = self._running.pop(future)
        trial, planned = self._trials[number], self._plans[number]
        trial = replace(trial, seconds=round(trial.seconds + self._seconds(number), 3))
        error = future.exception()
        if error is not None and not isinstance(error, StepFailedError):
            raise error
        if trial.state == RUNNING and error is None and not trial.points:
            metric, names = self._sweep.objective.metric, self._runs.names(trial.run_id)
            error = error_of_missing_metric(planned.plan.name, metric, names, planned.plan.log)
        elif trial.state == RUNNING and error is None and planned.missing:
            name = planned.missing[0]
            error = error_of_missing_file(planned.plan.name, name, planned.outputs[name], planned.plan.log)
        if trial.state == RUNNING and error is not None:
            self._errors.append(error)
            trial = replace(trial, state=FAILED, reason=masked(error.text))
        elif trial.state == RUNNING:
            copy_artifacts(planned.plan, planned.outputs)
            trial = replace(trial, state=COMPLETED)
            reuse.finish(planned.plan.folder, planned.key, planned.outputs)
        self._trials[number] = trial
        self._runs.end(trial.run_id, is_success=trial.state == COMPLETED)
        write_record(planned.plan.folder, trial)
        log_outcome(self._name, trial, self._trials, self._sweep)
        write_results(self._folder, list(self._trials.values()), self._sweep, has_plot=False)

    def _best(self) -> TrialPlan:
        trials = self._trials.values()
        best = best_trial(trials, self._sweep.objective)
        if best is None:
            raise error_of_sweep(self._name, self._errors, self._folder)
        if any(trial.state == CANCELLED for trial in trials) or len(trials) < self._sweep.num_trials:
            text = "%s: limits.timeout ended the sweep after %d of %d trials."
            num_done = sum(trial.state != CANCELLED for trial in trials)
            logger.warning(text, self._name, num_done, self._sweep.num_trials)
        log_best(self._name, best, self._sweep, self._folder)
        return self._plans[best.number]

    def _seconds(self, number: int) -> float:
        return time.monotonic() - self._started[number]
