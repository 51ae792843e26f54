"""How a run is started within a child: on a file system that lacks a call, and as several processes."""

from __future__ import annotations

import builtins
import fcntl
import io
import mmap
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import torch

from tests.faulty_files import failing
from tests.jobs import free_port

_CHANGED = (builtins, fcntl, io, mmap, os, shutil, tempfile, torch)
# What torchrun gives the other processes once one has failed.
_SECONDS_TO_END = 5.0


@contextmanager
def failing_file_system(call: tuple[str, ...], root: Path) -> Iterator[None]:
    """Let a call fail.

    Args:
        call: its name, the name of the error, and the folder below `root` where it fails; or nothing.
        root: the folder of the run.
    """
    if not call:
        yield
        return
    name, error, folder = call
    before = [dict(vars(module)) for module in _CHANGED]
    exec(failing(name, error, root / folder if folder else None), {})
    try:
        yield
    finally:
        for module, names in zip(_CHANGED, before):
            vars(module).update(names)


def run_ranks(main: Callable[[list[str]], int], argv: list[str], count: int) -> int:
    """Run a command as one process, or as several as torchrun starts them; return the first exit code that is not 0."""
    if count == 1:
        return _code(main, argv)
    port = free_port()
    ranks = set()
    for rank in range(count):
        process = os.fork()
        if process == 0:
            numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
            os.environ.update({name: str(number) for name, number in numbers.items()}, MASTER_ADDR="127.0.0.1")
            _end(_code(main, argv))
        ranks.add(process)
    return _await(ranks)


def _end(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _await(ranks: set[int]) -> int:
    code, end = 0, float("inf")
    while ranks:
        process, status = os.waitpid(-1, os.WNOHANG)
        if process in ranks:
            ranks.remove(process)
            if ended := os.waitstatus_to_exitcode(status):
                code = code or ended
                end = min(end, time.monotonic() + _SECONDS_TO_END)
        elif time.monotonic() > end:
            for rank in ranks:
                os.kill(rank, signal.SIGTERM)
            end = float("inf")
        else:
            time.sleep(0.01)
    return code


def _code(main: Callable[[list[str]], int], argv: list[str]) -> int:
    try:
        return main(argv)
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 70
