"""Starts `python -m MODULE …` in a process of its own, forked from one that has PyTorch and the package imported.

Each start of Python imports them for 4.5 s; a fork takes 0.02 s. The child has an environment, a working directory and
outputs of its own, ends with the exit code of the module and can be killed like any other process. Where a claim is
about the start itself (what is imported, variables that Python or OpenMP reads), tests start Python afresh.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parent.parent
# Python, or a library when it is loaded, reads these once: a forked process would not notice them.
_READ_AT_START = ("PYTHON", "OMP_", "MKL_", "ONEDNN_", "ATEN_", "LD_")


class Forked:
    """A forked process, with what subprocess.Popen offers."""

    def __init__(
        self, words: Sequence[str], environment: Mapping[str, str], cwd: Path, stdout: Path, stderr: Path, first: str
    ) -> None:
        """Start it.

        Args:
            words: the module and its arguments.
            environment: all of its variables.
            cwd: its working directory.
            stdout: file that it writes to.
            stderr: file that it writes to; may be the same.
            first: Python code that it runs before the module.
        """
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.preloaded"])
        with _server_environment():
            forkserver.ensure_running()
        self._process = context.Process(
            target=_be_child, args=(list(words), dict(environment), str(cwd), str(stdout), str(stderr), first)
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code once the process has ended."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired([], timeout or 0.0)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens once the process has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):  # its exit code may arrive after its end
                os.kill(self.pid, number)


def run_forked(
    words: Sequence[str], environment: Mapping[str, str], cwd: Path, first: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run `python -m` to its end.

    Args:
        words: the module and its arguments.
        environment: all of its variables.
        cwd: its working directory.
        first: Python code that the process runs before the module.
    """
    with tempfile.TemporaryDirectory() as folder:
        stdout, stderr = Path(folder) / "stdout", Path(folder) / "stderr"
        code = Forked(words, environment, cwd, stdout, stderr, first).wait()
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in (stdout, stderr)]
    return subprocess.CompletedProcess(list(words), code, *texts)


def needs_a_start(own: Mapping[str, str]) -> bool:
    """Say whether these variables are read only when Python starts."""
    return any(name.startswith(_READ_AT_START) for name in own)


@contextmanager
def _server_environment() -> Iterator[None]:
    """Let the process that forks find the tests, and have no threads, which a fork would lose."""
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _be_child(
    words: list[str], environment: dict[str, str], cwd: str, stdout: str, stderr: str, first: str
) -> NoReturn:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    for number, path in ((1, stdout), (2, stderr)):
        handle = os.open(path, flags)
        os.dup2(handle, number)
        os.close(handle)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = [words[0], *words[1:]]
    sys.path.insert(0, cwd)
    exec(first, {})
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    sys.exit(0)
