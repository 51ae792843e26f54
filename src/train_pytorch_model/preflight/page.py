"""Prints the result of a check, as a page or as JSON."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import asdict
from typing import IO, TYPE_CHECKING

from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from train_pytorch_model.data.model_task import MULTICLASS, MULTILABEL
from train_pytorch_model.text.wording import bytes_in_words, seconds_in_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from train_pytorch_model.preflight.result import CheckResult, DatasetFound

# Of more classes, only the largest and the smallest are shown.
_MAX_SHOWN = 40
_SHOWN_AT_EACH_END = 15
_BAR_WIDTH = 24
_TASKS = {MULTICLASS: "one class per image", MULTILABEL: "none, one or several labels per image"}


def print_result(result: CheckResult, *, is_json: bool) -> None:
    """Print the result of a check on stdout, as a page or as one JSON object."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # labels that stdout cannot encode must not end the page
        sys.stdout.reconfigure(errors="backslashreplace")
    (print_json if is_json else print_page)(result, sys.stdout)


def print_json(result: CheckResult, file: IO[str]) -> None:
    """Print one JSON object: the fields of `CheckResult`, and `ok`."""
    file.write(json.dumps({"ok": not result.problems, **asdict(result)}) + "\n")


def print_page(result: CheckResult, file: IO[str]) -> None:
    """Print a page as wide as the terminal, or 80 columns."""
    console = Console(file=file, highlight=False)
    console.print(Group(*_page(result, has_blocks=not console.options.ascii_only)))


def _page(result: CheckResult, *, has_blocks: bool) -> list[RenderableType]:
    parts: list[RenderableType] = [_facts(result)]
    if result.training:
        parts += [
            Text(f"\nImages per {_noun(result)}", style="bold"),
            _classes(result.training, result.validation, _noun(result), has_blocks=has_blocks),
        ]
    if result.warnings:
        parts += [Text("\nWarnings", style="bold yellow"), *_listed(result.warnings)]
    if result.problems:
        messages = [f"{problem.id} ({problem.code}): {problem.message}" for problem in result.problems]
        parts += [Text("\nProblems", style="bold red"), *_listed(messages)]
        parts.append(Text("\nTraining cannot start. Fix the problems above and run check again.", style="red"))
    else:
        parts.append(Text("\nTraining can start.", style="green"))
    return parts


def _noun(result: CheckResult) -> str:
    return "label" if result.task == MULTILABEL else "class"


def _listed(texts: Sequence[str]) -> list[RenderableType]:
    return [Padding(Text(f"- {text}"), (0, 0, 0, 1)) for text in texts]


def _facts(result: CheckResult) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    if result.task:
        table.add_row("Task", f"{result.task}: {_TASKS[result.task]}")
    for name, dataset in (("Training", result.training), ("Validation", result.validation)):
        if dataset:
            table.add_row(name, Text(_dataset(dataset)))
            if dataset.geometry:
                table.add_row("", Text(dataset.geometry))
    if result.model:
        model = result.model
        new = f"initialized: {', '.join(model.new_weights)}" if model.new_weights else "all from the model"
        table.add_row("Model", Text(f"{model.network}, {model.weights:,} weights ({new}), from {model.path}"))
        if model.pretrained:
            table.add_row("Pretrained", Text(model.pretrained))
    if result.chosen:
        chosen = result.chosen
        table.add_row("Device", Text(chosen.device + (", with a CUDA graph" if chosen.cuda_graph else "")))
        table.add_row("Precision", chosen.precision)
        table.add_row("Image store", chosen.image_store)
    for need in result.memory:
        free = "" if need.free_bytes is None else f", {bytes_in_words(need.free_bytes)} free"
        table.add_row("Needs", f"{need.what}: {bytes_in_words(need.needed_bytes)} of {need.place}{free}")
    if result.start:
        table.add_row("Start", Text(result.start))
    if result.estimate:
        estimate = result.estimate
        total, start, epoch = map(
            seconds_in_words, (estimate.total_seconds, estimate.start_seconds, estimate.epoch_seconds)
        )
        table.add_row("Time", f"about {total} for all epochs: {start} until the first step, {epoch} per epoch")
    return table


def _dataset(dataset: DatasetFound) -> str:
    size = f" of {dataset.width}x{dataset.height} pixels" if dataset.width and not dataset.geometry else ""
    unreadable = f", {dataset.unreadable:,} more cannot be read" if dataset.unreadable else ""
    num_bytes = f"{bytes_in_words(dataset.file_bytes)} in files, {bytes_in_words(dataset.decoded_bytes)} decoded"
    without = f", {dataset.without_labels:,} of them without a label" if dataset.without_labels else ""
    return f"{dataset.images:,} images{size}{without}{unreadable}; {num_bytes}; in {dataset.path}"


def _classes(training: DatasetFound, validation: DatasetFound | None, noun: str, *, has_blocks: bool) -> RenderableType:
    order = list(training.counts)
    if len(order) > _MAX_SHOWN:
        order.sort(key=lambda name: -training.counts[name])
    largest = max(training.counts.values(), default=0) or 1
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
    table.add_column(noun, overflow="ellipsis", no_wrap=True, max_width=28)
    table.add_column("training", justify="right")
    table.add_column("validation", justify="right")
    table.add_column("", no_wrap=True)
    for place, name in enumerate(order):
        if _SHOWN_AT_EACH_END <= place < len(order) - _SHOWN_AT_EACH_END and len(order) > _MAX_SHOWN:
            if place == _SHOWN_AT_EACH_END:
                table.add_row(Text(f"and {len(order) - 2 * _SHOWN_AT_EACH_END:,} more", style="dim"))
            continue
        count = training.counts[name]
        bar = ("█" if has_blocks else "#") * max(1 if count else 0, round(_BAR_WIDTH * count / largest))
        counted = validation.counts.get(name) if validation else None
        table.add_row(Text(name), f"{count:,}", "-" if counted is None else f"{counted:,}", Text(bar, style="blue"))
    return table
