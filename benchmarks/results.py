"""Writes the tables of RESULTS.md between markers; the text around them does not change."""

from __future__ import annotations

import datetime
import os
import platform
import re
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch
import torchvision

if TYPE_CHECKING:
    from collections.abc import Sequence

RESULTS = Path(__file__).parent / "RESULTS.md"


def kind() -> str:
    """Return "gpu" or "cpu", the device that the tables of this machine are for."""
    return "gpu" if torch.cuda.is_available() else "cpu"


def write_section(name: str, text: str, command: str = "") -> None:
    """Replace the text between the markers of a section.

    Args:
        name: of the section.
        text: the new content.
        command: that measured it; `python -m benchmarks NAME` by default.
    """
    section = f"{name} {kind()}"
    begin, end = f"<!-- {section} -->", f"<!-- end of {section} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    found = RESULTS.read_text(encoding="utf-8")
    if not pattern.search(found):
        raise RuntimeError(f"{RESULTS} has no markers {begin} … {end}")
    block = f"{begin}\n{_machine(command or f'python -m benchmarks {name}')}\n\n{text}\n{end}"
    RESULTS.write_text(pattern.sub(lambda _: block, found), encoding="utf-8")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> str:
    """Return the ratio of two medians."""
    return f"{median(numerator) / median(denominator):.2f}"


def _machine(command: str) -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    return (
        f"Measured on {datetime.datetime.now(tz=datetime.timezone.utc):%Y-%m-%d} by `{command}`: "
        f"{device}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}, "
        f"torch {torch.__version__}, torchvision {torchvision.__version__}."
    )


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")
    flags = next((line for line in lines if line.startswith("flags")), "")
    return model + (" with AMX" if "amx_bf16" in flags else "")
