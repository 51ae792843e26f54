"""Everything that only a GPU can show, in one command: `make gpu`.

It runs tests/gpu, then the benchmark of steps with the smallest case first, writes each result to RESULTS.md as soon as
it is known, and prints a table of promises. It needs PyTorch, torchvision, Pillow, scikit-learn and pytest. What needs
another package that is not installed, such as azureml-designer-core, is reported as not run.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import torch

from benchmarks import steps
from benchmarks.results import table, write_section

_ROOT = Path(__file__).parent.parent
_PACKAGES = (
    *("torch", "torchvision", "numpy", "pillow", "scikit-learn", "pandas", "pyarrow", "triton"),
    *("azureml-designer-core", "azureml-core"),
)
# Tests take this fraction of the time at most.
_FRACTION_OF_TESTS = 0.5
# Of a process that runs tests, with its CUDA context.
_BYTES_OF_WORKER = 8 * 2**30
# What is promised for a batch size of 16, for the networks with many small kernels.
_GOALS = {"ours / textbook": 4.0, "ours / limit": 0.9}
_GOAL_NETWORKS = ("resnet50", "densenet201")


def main() -> int:
    """Run everything; return 1 if a promise is broken, else 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="Time for everything. Default: %(default)s.")
    deadline = time.monotonic() + 60 * parser.parse_args().minutes
    if not torch.cuda.is_available():
        print("PyTorch sees no GPU.")
        return 1
    print(_versions(), flush=True)
    with tempfile.TemporaryDirectory(prefix="gpu-") as work_path:
        record = Path(work_path) / "tests.jsonl"
        _run_tests(record, _FRACTION_OF_TESTS * (deadline - time.monotonic()))
        promises = _promises_of_tests(record)
        _write(promises)
        rows: list[list[str]] = []
        paths = steps.make_images(Path(work_path))
        for case, images in steps.cases():
            seconds = deadline - time.monotonic()
            row = steps.measure_case(case, paths[images], seconds) if seconds > 0 else [str(case)]
            rows.append(row + [""] * (len(steps.HEAD) - len(row)))
            print(rows[-1], flush=True)
            steps.write(rows)
            promises += _promises_of_row(rows[-1])
            _write(promises)
    print(table(_HEAD, promises))
    return int(any(verdict == "broken" for *_, verdict in promises))


_HEAD = ("promise", "seen", "verdict")


def _versions() -> str:
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    found = [torch.cuda.get_device_name(), f"Python {sys.version.split()[0]}"]
    found += [f"CUDA {torch.version.cuda}", f"cuDNN {cudnn}"]
    for name in _PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)


def _run_tests(record: Path, seconds: float) -> None:
    # Warnings of a PyTorch that the project is not locked to must not fail a test.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "filterwarnings=default"]
    with suppress(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("pytest-xdist")
        command += ["-n", str(_num_workers())]
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(
            [*command, "tests/gpu"], cwd=_ROOT, env={**os.environ, "GPU_TESTS_RECORD": str(record)}, timeout=seconds
        )


def _num_workers() -> int:
    """Return how many processes test at the same time. Most of the time is spent starting and choosing kernels."""
    free, _ = torch.cuda.mem_get_info()
    return max(1, min(6, len(os.sched_getaffinity(0)) // 2, free // _BYTES_OF_WORKER))


def _promises_of_tests(record: Path) -> list[list[str]]:
    """Return a row for each test function, whose name is the promise."""
    outcomes: dict[str, dict[str, str]] = defaultdict(dict)
    reasons: dict[str, str] = {}
    for name in _names_of_tests():
        outcomes[name] = {}
    for line in record.read_text(encoding="utf-8").splitlines() if record.exists() else []:
        row = json.loads(line)
        name, _, _ = row["test"].rpartition("::")[2].partition("[")
        outcomes[name][row["test"]] = row["outcome"]
        if row["outcome"] != "passed":
            reasons[name] = row["reason"].replace("|", " ")[:200]
    rows = []
    for name, of_tests in outcomes.items():
        passed = sum(outcome == "passed" for outcome in of_tests.values())
        is_broken = "failed" in of_tests.values()
        verdict = "broken" if is_broken else "kept" if of_tests and passed == len(of_tests) else "not run"
        seen = f"{passed} of {len(of_tests)} tests" if of_tests else "no result"
        seen += f": {reasons[name]}" if name in reasons else ""
        rows.append([name.removeprefix("test_").replace("_", " "), seen, verdict])
    return rows


def _names_of_tests() -> list[str]:
    lines = [
        line for path in sorted((_ROOT / "tests" / "gpu").glob("test_*.py")) for line in path.open(encoding="utf-8")
    ]
    return [line.removeprefix("def ").partition("(")[0] for line in lines if line.startswith("def test_")]


def _promises_of_row(row: list[str]) -> list[list[str]]:
    """Return a row for each goal that this row of the benchmark decides."""
    values = dict(zip(steps.HEAD, row))
    network, _, rest = values["network"].partition(" ")
    if network not in _GOAL_NETWORKS or not rest.endswith("batch 16"):
        return []
    rows = []
    for column, goal in _GOALS.items():
        seen = values[column]
        verdict = "not run" if not seen else "kept" if float(seen) >= goal else "broken"
        rows.append([f"{values['network']}: {column} is at least {goal}", seen, verdict])
    return rows


def _write(promises: list[list[str]]) -> None:
    write_section("gpu", f"{_versions()}.\n\n{table(_HEAD, promises)}", "make gpu")


if __name__ == "__main__":
    sys.exit(main())
