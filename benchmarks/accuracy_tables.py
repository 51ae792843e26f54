"""Tables of accuracies, and the goals that they decide."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from benchmarks.results import table

PROGRAMS = ("auto", "classic", "head", "fastai", "loop")
_MIN_GAINS = {"classic": 0.05, "fastai": 0.03}
_MAX_FRACTION_OF_SECONDS = 1 / 3
_MAX_LOSS_TO_HEAD = 0.01


@dataclass(frozen=True)
class Run:
    """One run of a program on a set, from a file of weights."""

    data: str
    """The folder of the sets."""
    photos: str
    """The name of the set."""
    network: str
    seed: int
    program: str

    def __str__(self) -> str:
        return f"{self.photos}, {self.network}, seed {self.seed}, {self.program}"


@dataclass(frozen=True)
class Result:
    """What came of a run."""

    accuracy: float
    balanced_accuracy: float
    seconds: float
    """From the start of the process to the written model."""
    preparing_seconds: float
    """For the untrained model, which this package makes of the weights in a process before; 0 for other programs."""
    num_images: tuple[int, ...]
    """Of training, validation and test."""


Cell = tuple[str, str]
"""A set and a network."""
Results = Mapping[Run, Result]


def text_of(results: Results) -> str:
    """Return the tables of the results."""
    return f"{_about(results)}\n\n{_accuracies(results)}\n\n{table(('goal', 'seen', 'verdict'), goals_of(results))}"


def goals_of(results: Results) -> list[list[str]]:
    """Return a row for each goal: what it is, what was seen, and whether it is kept."""
    rows = []
    for program, goal in _MIN_GAINS.items():
        gains = _gains_on(results, program)
        seen = f"{fmean(gains.values()):+.3f} in the mean of {_counted(gains)}" if gains else ""
        name = f"auto is at least {goal} more accurate than {program}, in the mean of sets and networks"
        rows.append([name, seen, _verdict(bool(gains) and round(fmean(gains.values()), 9) >= goal, seen)])
    pairs = _pairs(results, "fastai")
    seconds = [sum(pair[index].seconds for pair in pairs.values()) for index in (0, 1)]
    seen = f"{seconds[0] / seconds[1]:.2f} in {len(pairs)} runs each" if pairs else ""
    is_kept = bool(pairs) and seconds[0] <= _MAX_FRACTION_OF_SECONDS * seconds[1]
    rows.append(["auto takes at most a third of the time of fastai, in total", seen, _verdict(is_kept, seen)])
    gains = _gains_on(results, "head")
    worst = min(gains, key=lambda cell: gains[cell], default=("", ""))
    seen = f"{gains[worst]:+.3f} on {' with '.join(worst)}, the lowest of {_counted(gains)}" if gains else ""
    name = f"auto is nowhere more than {_MAX_LOSS_TO_HEAD} less accurate than its frozen head"
    rows.append([name, seen, _verdict(bool(gains) and round(gains[worst], 9) >= -_MAX_LOSS_TO_HEAD, seen)])
    return rows


def _verdict(is_kept: bool, seen: str) -> str:
    return "not run" if not seen else "kept" if is_kept else "broken"


def _counted(gains: Mapping[Cell, float]) -> str:
    return f"{len(gains)} pair{'s' if len(gains) > 1 else ''} of set and network"


def _pairs(results: Results, other: str) -> dict[Run, tuple[Result, Result]]:
    """The results of auto and of another program, where there are both, by the run of auto."""
    found = {}
    for run, result in results.items():
        compared = results.get(Run(run.data, run.photos, run.network, run.seed, other))
        if run.program == "auto" and compared:
            found[run] = (result, compared)
    return found


def _gains_on(results: Results, other: str) -> dict[Cell, float]:
    """How much more accurate auto is than another program, in the mean of the seeds that both have."""
    gains: dict[Cell, list[float]] = defaultdict(list)
    for run, (own, compared) in _pairs(results, other).items():
        gains[run.photos, run.network].append(own.accuracy - compared.accuracy)
    return {cell: fmean(of_seeds) for cell, of_seeds in gains.items()}


def _accuracies(results: Results) -> str:
    by_cell: dict[Cell, dict[str, dict[int, Result]]] = defaultdict(lambda: defaultdict(dict))
    for run, result in results.items():
        by_cell[run.photos, run.network][run.program][run.seed] = result
    rows = []
    for (photos, network), programs in by_cell.items():
        for program in (name for name in PROGRAMS if name in programs):
            of_seeds = [programs[program][seed] for seed in sorted(programs[program])]
            accuracies = [result.accuracy for result in of_seeds]
            rows.append(
                [
                    *(photos, network, program, f"{fmean(accuracies):.3f}"),
                    ", ".join(f"{accuracy:.3f}" for accuracy in accuracies),
                    f"{fmean(result.balanced_accuracy for result in of_seeds):.3f}",
                    f"{fmean(result.seconds for result in of_seeds):.1f}",
                ]
            )
    head = [
        "set",
        "network",
        "program",
        "accuracy (mean)",
        "of each seed",
        "balanced accuracy (mean)",
        "seconds (mean)",
    ]
    return table(head, rows)


def _about(results: Results) -> str:
    sizes = {run.photos: result.num_images for run, result in results.items()}
    images = "; ".join(f"{name}: {_in_words(counts)}" for name, counts in sizes.items())
    preparing = [result.preparing_seconds for result in results.values() if result.preparing_seconds]
    text = (
        f"Images for training, validation and test: {images}. Accuracy is that of the written model on the test "
        "images. Seconds are from the start of the process to the written model."
    )
    if preparing:
        text += f" `initialize-model`, which our programs need before, took {fmean(preparing):.1f} s more."
    return text


def _in_words(counts: Iterable[int]) -> str:
    return ", ".join(f"{count:,}" for count in counts)
