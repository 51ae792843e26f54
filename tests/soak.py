"""`make soak`: kills the real command again and again, in every phase, and holds what it ends with against bits.

A chain is one training: killed while it decodes, within an epoch, while a checkpoint is written and while the output is
written, and then left alone. Its weights and metrics must be those of a run that nobody disturbed.
"""

from __future__ import annotations

import argparse
import logging
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.jobs import Job, results, train_job
from tests.making import Inputs

Run = tuple[int, str, str]
"""The number of processes, the precision and the recipe."""
RUNS: list[Run] = [
    *((1, "float32", "classic"), (1, "bfloat16", "finetune"), (2, "float32", "finetune"), (2, "bfloat16", "scratch")),
    *((1, "float32", "scratch"), (1, "bfloat16", "classic"), (2, "float32", "classic"), (2, "bfloat16", "finetune")),
    *((1, "float32", "large"), (2, "bfloat16", "large")),
]


class Soak:
    """Chains of kills, and what came of them."""

    def __init__(self, path: Path, seed: int) -> None:
        self.inputs = Inputs(path).make(per_class=150)
        self.moments = random.Random(seed)
        self.kills: Counter[tuple[str, int]] = Counter()
        self.resumed: Counter[tuple[str, int]] = Counter()
        self.equal: Counter[int] = Counter()
        self.chains: Counter[int] = Counter()
        self.expected: dict[Run, tuple[bytes, bytes]] = {}

    def start(self, run: Run) -> Job:
        count, precision, recipe = run
        flags = {"epochs": 2, "batch_size": 16 // count, "precision": precision, "checkpoint_minutes": 0}
        flags |= {"recipe": recipe, "image_size": 32}
        return train_job(self.inputs, count, **flags)

    def clear(self) -> None:
        for path in (self.inputs.trained, self.inputs.outputs):
            shutil.rmtree(path, ignore_errors=True)

    def phases(self) -> dict[str, tuple[Callable[[Job], object], float]]:
        """What tells that a phase has come, and up to how many seconds later to kill."""

        def is_new(pattern: str) -> Callable[[Job], object]:
            return lambda job: set(self.inputs.path.glob(pattern)) - self.left_over

        return {
            "decoding": (lambda job: "Image store" in job.log(), 0.1),
            "within an epoch": (lambda job: "Training shufflenet" in job.log(), 1.5),
            "writing a checkpoint": (is_new("outputs/checkpoints/*.writing"), 0.003),
            "writing the output": (is_new(".trained.writing-*"), 0.01),
        }

    def run_chain(self, run: Run, num_kills: int) -> None:
        count = run[0]
        if run not in self.expected:
            self.clear()
            assert self.start(run).wait() == [0] * count
            self.expected[run] = results(self.inputs)
        self.clear()
        # The one phase that every run comes to is the last of the chain.
        phases = list(self.phases().items())[:num_kills]
        before: tuple[str, int] | None = None
        for phase, (has_come, spread) in phases:
            self.left_over = {
                *self.inputs.path.glob("outputs/checkpoints/*.writing"),
                *self.inputs.path.glob(".trained.*"),
            }
            job = self.start(run)
            assert job.until(lambda job=job, has_come=has_come: has_come(job)), f"{phase} never came:\n{job.log()}"
            time.sleep(self.moments.random() * spread)
            job.send(signal.SIGKILL)
            job.wait()
            self._note(before, job)
            self.kills[phase, count] += 1
            before = (phase, count)
            assert not self.inputs.trained.exists() or results(self.inputs) == self.expected[run]
        job = self.start(run)
        codes = job.wait()
        self._note(before, job)
        self.chains[count] += 1
        is_equal = codes == [0] * count and results(self.inputs) == self.expected[run]
        self.equal[count] += is_equal
        if not is_equal:
            print(f"NOT EQUAL {run}, exit codes {codes}:\n{job.log()}")

    def _note(self, before: tuple[str, int] | None, job: Job) -> None:
        if before is not None and "Resuming from the checkpoint" in job.log():
            self.resumed[before] += 1

    def table(self) -> str:
        lines = [
            "| killed while | processes | kills | next start went on from a checkpoint |",
            "| --- | --- | --- | --- |",
        ]
        for phase in self.phases():
            for count in (1, 2):
                key = (phase, count)
                lines.append(f"| {phase} | {count} | {self.kills[key]} | {self.resumed[key]} |")
        for count in (1, 2):
            lines.append(
                f"\n{self.equal[count]} of {self.chains[count]} trainings in {count} process(es) equal to the bit."
            )
        return "\n".join(lines)


def main() -> int:
    """Kill as often as asked, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--processes", type=int, choices=(1, 2), help="Trainings in so many alone.")
    arguments = parser.parse_args()
    runs = [run for run in RUNS if arguments.processes in (None, run[0])]
    logging.disable(logging.WARNING)
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="soak-") as path:
        soak = Soak(Path(path), arguments.seed)
        number = 0
        try:
            while soak.kills.total() < arguments.kills:
                soak.run_chain(runs[number % len(runs)], min(4, arguments.kills - soak.kills.total()))
                number += 1
                print(f"{soak.kills.total()} kills", flush=True)
        finally:  # however it ends, with what it has seen
            print(soak.table())
    return 0 if soak.equal == soak.chains else 1


if __name__ == "__main__":
    sys.exit(main())
