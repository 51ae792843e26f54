"""Many inputs, one after another, for as long as was asked, and what came of them."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.internal.conjecture import providers

from tests.fuzzing.recipes import Recipe
from tests.fuzzing.runner import Finding, Outcome, Runner
from tests.fuzzing.strategies import recipes

_INPUTS_A_ROUND = 250
_INPUTS_TO_SPARE = 20
_PROGRESS_SECONDS = 30.0
# A finding is made small for so long, and then told as small as it is.
_SHRINK_SECONDS = 45.0
_NUM_SLOWEST = 3


class Campaign:
    """Runs inputs and counts."""

    def __init__(self, runner: Runner, print_line: Callable[[str], None]) -> None:
        """Begin to count.

        Args:
            runner: of the inputs.
            print_line: shows progress and findings.
        """
        self.findings: dict[str, Finding] = {}
        self.num_inputs = 0
        self.endings: Counter[str] = Counter()
        self.commands: Counter[str] = Counter()
        self._runner = runner
        self._print = print_line
        self._slowest: list[tuple[float, Recipe]] = []
        self._largest: tuple[int, Recipe | None] = (0, None)
        self._num_again = 0
        self._seen: set[str] = set()
        self._started = self._printed = time.monotonic()

    def run_for(self, minutes: float, first_seed: int) -> None:
        """Run inputs of one seed after another until the time is over."""
        end = time.monotonic() + 60 * minutes
        number = first_seed
        while time.monotonic() < end:
            self._round(number, _INPUTS_A_ROUND, lambda: time.monotonic() > end, is_real=False)
            number += 1

    def run_count(self, count: int, first_seed: int, *, is_real: bool = False) -> None:
        """Run so many inputs."""
        wanted = self.num_inputs + count
        number = first_seed
        while self.num_inputs < wanted:
            # Hypothesis begins with the simplest, which may have been run before.
            count = wanted - self.num_inputs + _INPUTS_TO_SPARE
            self._round(number, count, lambda: self.num_inputs >= wanted, is_real=is_real)
            number += 1

    def _round(self, number: int, count: int, is_over: Callable[[], bool], *, is_real: bool) -> None:
        """Some inputs, to the first finding; what was found before is no news."""
        # Or a number in the package's own code would be drawn too, and every change of it gives other inputs.
        providers._get_local_constants = lambda: providers._local_constants
        told: dict[str, Finding] = {}
        deadline = [float("inf")]

        @seed(number)
        @settings(
            max_examples=count,
            database=None,
            deadline=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
            print_blob=False,
        )
        @given(recipes())
        def run(recipe: Recipe) -> None:
            name = repr(recipe)
            if name in told:
                raise told[name]
            if name in self._seen or (not told and is_over()) or time.monotonic() > deadline[0]:
                return
            self._seen.add(name)
            try:
                self._count(recipe, self._runner.run(recipe, real=is_real))
            except Finding as finding:
                self.num_inputs += 1
                if self._signature(finding) in self.findings:
                    self._num_again += 1
                    return
                if not told:
                    deadline[0] = time.monotonic() + (0.0 if is_real else _SHRINK_SECONDS)
                told[name] = finding
                raise
            self._show_progress()

        try:
            run()
        except Finding as finding:
            self.findings[self._signature(finding)] = finding
            self._print(f"FINDING {len(self.findings)}: {finding}")

    def _count(self, recipe: Recipe, outcome: Outcome) -> None:
        self.num_inputs += 1
        self.endings[outcome.ending] += 1
        self.commands[recipe.command] += 1
        export = dict(recipe.flags).get("export")
        kinds = {f"--export {export}": export, "a failing call": recipe.failing_call}
        kinds[f"{recipe.num_processes} processes"] = recipe.num_processes > 1
        self.commands.update(f"{recipe.command}, {kind}" for kind, is_so in kinds.items() if is_so)
        self._slowest = sorted([*self._slowest, (outcome.seconds, recipe)], key=lambda entry: -entry[0])[:_NUM_SLOWEST]
        self._largest = max(self._largest, (outcome.peak_bytes, recipe), key=lambda entry: entry[0])

    def _show_progress(self) -> None:
        now = time.monotonic()
        if now - self._printed > _PROGRESS_SECONDS:
            self._printed = now
            self._print(self._summary())

    def _summary(self) -> str:
        seconds = time.monotonic() - self._started
        return (
            f"{self.num_inputs} inputs in {seconds:.0f} s ({self.num_inputs / seconds:.1f} a second), "
            f"{self.endings['well']} ended well, {len(self.findings)} findings"
        )

    @staticmethod
    def _signature(finding: Finding) -> str:
        """What tells one fault from another: what was seen, without its numbers and names."""
        return re.sub(r"'[^']*'|\d+|[0-9a-f]{8,}", "#", finding.what)[:200]

    def table(self) -> str:
        """What was seen."""
        lines = [self._summary(), "", "| ended | inputs |", "| --- | --- |"]
        lines += [f"| {name} | {count} |" for name, count in self.endings.most_common()]
        lines += ["", "| command | inputs |", "| --- | --- |"]
        lines += [f"| {name} | {count} |" for name, count in self.commands.most_common()]
        lines += ["", *(f"slow: {seconds:.1f} s, {recipe!r}" for seconds, recipe in self._slowest)]
        lines += [f"largest: {self._largest[0] / 2**20:.0f} MB, {self._largest[1]!r}"]
        lines += [f"\n{len(self.findings)} findings, met again {self._num_again} times"]
        lines += [f"- {finding.what}\n  {finding.recipe!r}" for finding in self.findings.values()]
        return "\n".join(lines)
