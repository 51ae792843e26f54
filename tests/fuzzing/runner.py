"""Runs one recipe in a forked child and holds what it did against what is promised of every input.

A child has everything imported already, so that a run takes a fraction of a second instead of five. The process that
forks must never run threads of PyTorch: a child would wait for them for ever.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import importlib
import json
import os
import pkgutil
import resource
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from PIL import Image

import train_pytorch_model
from tests.fuzzing.bases import make_bases, put_bases
from tests.fuzzing.launch import failing_file_system, run_ranks
from tests.fuzzing.mutations import apply
from tests.fuzzing.recipes import SEQUENCE, Recipe
from tests.fuzzing.sequence import IN_SEQUENCE, NOT_ACCEPTED, main
from tests.making import ROOT
from train_pytorch_model.designer_core import load_image_directory
from train_pytorch_model.models.network import check_image_size, check_state, with_head
from train_pytorch_model.ports.dataset_items import read_listed_items
from train_pytorch_model.ports.image_list import file_of
from train_pytorch_model.ports.scored_table import read_scored_table
from train_pytorch_model.ports.untrained_model import read_untrained_model

_MAX_SECONDS = 10.0
# The real command imports for some five seconds, on a busy machine for more.
_START_SECONDS = 30.0
_MAX_BYTES = 2 * 2**30
# Only so that a finding does not take the machine with it.
_MAX_ADDRESSES = 32 * 2**30
_MAX_FILE_BYTES = 2**30
_HASHED_BYTES = 2**26
_LEAST_SECONDS = 0.05
_NOT_WHOLE = 99
_LIBRARY_CODE = 1000
# What may be read although its mode says no; root may all.
_CAPABILITIES_OF_FILES = 0b110
# What a run writes anew beneath its outputs, whatever lies there.
_OWN_REPORTS = ("module_statistics", "checkpoints", "metrics.jsonl", "timings.jsonl", "unreadable_images", "report")
_NUM_IN_SEQUENCE = 4
EXPORTS = ("onnx", "mlflow")
_MODULES_FILE = "modules.json"

Main = Callable[[list[str]], int]


class Finding(AssertionError):  # noqa: N818  # it is what is found
    """A promise that was not kept."""

    def __init__(self, what: str, recipe: Recipe, log: str) -> None:
        super().__init__(f"{what}\n{recipe!r}\n{log[-6000:]}")
        self.what = what
        self.recipe = recipe
        self.log = log


@dataclass(frozen=True)
class Outcome:
    """How a run ended that kept all promises."""

    ending: str
    """ "well", "usage" or the id of the error."""
    seconds: float
    peak_bytes: int
    num_applied: int


@dataclass(frozen=True)
class _Ended:
    status: int | None
    """As os.waitstatus_to_exitcode gives it; None for a run that was killed for its time."""
    seconds: float
    peak_bytes: int
    has_left_processes: bool


class Runner:
    """Runs recipes."""

    def __init__(
        self,
        *,
        main: Main = main,
        max_seconds: float = _MAX_SECONDS,
        max_bytes: int = _MAX_BYTES,
        bases: Path | None = None,
    ) -> None:
        """Make ready.

        Args:
            main: the command line that is held against its promises.
            max_seconds: that a run may take.
            max_bytes: of memory that it may take, those of the imports included.
            bases: of another runner, which has imported everything.
        """
        self._main = main
        self._max_seconds = max_seconds
        self._max_bytes = max_bytes
        memory = Path("/dev/shm")
        self._folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory if memory.is_dir() else None))
        self.bases = bases or self._make_bases()

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _make_bases(self) -> Path:
        torch.set_num_threads(1)
        Image.init()
        for module in pkgutil.walk_packages(train_pytorch_model.__path__, "train_pytorch_model."):
            if not module.name.endswith((".__main__", ".mlflow_loader", ".score")) and ".served_" not in module.name:
                importlib.import_module(module.name)
        bases = self._folder / "bases"
        bases.mkdir()
        make_bases(bases, self._run_valid)
        for command, chosen in (
            ("check", ()),
            ("score-image-model", (("model", "trained"),)),
            ("convert-to-image-directory", (("train", "folders"),)),
            ("split-image-directory", ()),
            ("apply-image-transformation", ()),
            ("evaluate-model", ()),
            ("initialize-model", ()),
            ("run-pipeline", ()),
            (SEQUENCE, (("train", "folders"),)),
        ):
            self._run_first(Recipe(command, chosen), bases)
        for export in EXPORTS:
            self._run_first(Recipe("train", flags=(("export", export),)), bases)
        _warm_up(bases / "tiny")
        # What stays for good need not be looked through, and so not be copied, in every child.
        gc.collect()
        gc.freeze()
        return bases

    def _run_first(self, recipe: Recipe, bases: Path) -> None:
        root = self._folder / "first"
        put_bases(recipe, bases, root)
        self._run_valid(recipe, root)
        shutil.rmtree(root)

    def _run_valid(self, recipe: Recipe, root: Path) -> None:
        """Run in a child, and import what that child has imported on the way."""
        modules = self._folder / _MODULES_FILE
        ended = self._fork(recipe, root, modules, max_seconds=100.0)
        if ended.status:
            raise AssertionError(f"{recipe} does not run: {_log_of(root)}")
        for name in json.loads(modules.read_text()):
            if name not in sys.modules:
                try:
                    importlib.import_module(name)
                except Exception:  # it is made by another
                    continue

    def run(self, recipe: Recipe, *, real: bool = False) -> Outcome:
        """Run a recipe.

        Args:
            recipe: of the input.
            real: whether by the real command, in a process of its own.

        Raises:
            Finding: for a promise that was not kept.
        """
        try:
            return self._run(recipe, real=real)
        except _TooSlowError:
            # Once more: another process may have had the machine.
            try:
                return self._run(recipe, real=real)
            except _TooSlowError as error:
                raise Finding(f"is not over after {error.seconds} s", recipe, error.log) from error

    def _run(self, recipe: Recipe, *, real: bool) -> Outcome:
        root = self._folder / "run"
        put_bases(recipe, self.bases, root)
        try:
            num_applied = sum([apply(mutation, root) for mutation in recipe.mutations])
            before = _listing(root)
            limit = self._max_seconds * recipe.num_processes + (_START_SECONDS if real else 0.0)
            if recipe.command == SEQUENCE:
                limit *= _NUM_IN_SEQUENCE
            ended = self._spawn(recipe, root, limit) if real else self._fork(recipe, root, None, max_seconds=limit)
            log = _log_of(root)
            if ended.status is None:
                raise _TooSlowError(limit, log)
            faults, ending = _judge(recipe, root, ended, log, before)
            if ended.peak_bytes > self._max_bytes:
                faults.append(f"took {ended.peak_bytes / 2**20:.0f} MB")
            if faults:
                raise Finding("; ".join(faults), recipe, log)
            return Outcome(ending, ended.seconds, ended.peak_bytes, num_applied)
        finally:
            _remove(root)

    def _fork(self, recipe: Recipe, root: Path, modules: Path | None, *, max_seconds: float) -> _Ended:
        sys.stdout.flush()
        sys.stderr.flush()
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            _be_child(self._main, recipe, root, modules)
        return _wait(child, started, max_seconds)

    def _spawn(self, recipe: Recipe, root: Path, max_seconds: float) -> _Ended:
        environment = {**os.environ, "TMPDIR": str(root / "tmp"), "PYTHONDONTWRITEBYTECODE": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(Path(train_pytorch_model.__path__[0]).parent), str(ROOT), environment.get("PYTHONPATH", "")]
        )
        module = "tests.fuzzing.sequence" if recipe.command == SEQUENCE else "train_pytorch_model"
        started = time.monotonic()
        with (root / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *recipe.arguments(root)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=root / "cwd",
                env=environment,
                start_new_session=True,
            )
        ended = _wait(process.pid, started, max_seconds)
        process.returncode = -1  # waited for already
        if ended.status == 0:
            try:
                _check_whole(recipe, root)
            except _NotWholeError:
                return replace(ended, status=_NOT_WHOLE)
        return ended


def _warm_up(path: Path) -> None:
    """Let PyTorch remember what it computes shapes with, which takes no threads."""
    model = read_untrained_model(path, trust_code=False)
    for set_mode in (torch.nn.Module.train, torch.nn.Module.eval):
        check_image_size(model.description, (32, 32), 2, None, set_mode)
    with_head(model.description, model.state, 3, keep_head=True)


class _TooSlowError(Exception):
    def __init__(self, seconds: float, log: str) -> None:
        super().__init__(log)
        self.seconds = seconds
        self.log = log


def _wait(child: int, started: float, max_seconds: float) -> _Ended:
    handle = os.pidfd_open(child)
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    left = max_seconds
    while not (is_over := bool(poll.poll(1000 * left))):
        # On a busy machine, a child waits for a core too; the time that it had one is what is promised.
        left = max_seconds + min(_seconds_without_core(child), 5 * max_seconds) - (time.monotonic() - started)
        if left < _LEAST_SECONDS:
            break
    os.close(handle)
    seconds = time.monotonic() - started
    if not is_over:
        os.kill(child, signal.SIGKILL)
    _, status, used = os.wait4(child, 0)
    has_left_processes = False
    try:  # the child leads a group of its own
        os.killpg(child, signal.SIGKILL)
        has_left_processes = is_over
    except (ProcessLookupError, PermissionError):
        pass
    code = os.waitstatus_to_exitcode(status) if is_over else None
    return _Ended(code, seconds, used.ru_maxrss * 1024, has_left_processes)


def _seconds_without_core(process: int) -> float:
    """What a process has waited for others to leave it a core."""
    try:
        return int(Path(f"/proc/{process}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def _be_child(main: Main, recipe: Recipe, root: Path, modules: Path | None) -> NoReturn:
    """What the child does, from the fork to its end."""
    code = 70
    try:
        os.setsid()
        with (root / "log").open("wb") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        sys.stdin = Path(os.devnull).open()  # noqa: SIM115
        sys.stdout = open(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        os.chdir(root / "cwd")
        os.environ["TMPDIR"] = tempfile.tempdir = str(root / "tmp")
        warnings.resetwarnings()
        for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)  # as Python itself does
        resource.setrlimit(resource.RLIMIT_AS, (_MAX_ADDRESSES, _MAX_ADDRESSES))
        resource.setrlimit(resource.RLIMIT_FSIZE, (_MAX_FILE_BYTES, _MAX_FILE_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _give_up_capabilities()
        with failing_file_system(recipe.failing_call, root):
            code = run_ranks(main, recipe.arguments(root), recipe.num_processes)
        if code == 0:
            _check_whole(recipe, root)
        if modules is not None:
            modules.write_text(json.dumps(list(sys.modules)))
    except _NotWholeError:
        code = _NOT_WHOLE
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _give_up_capabilities() -> None:
    """Let modes of files hold for root, too."""
    if os.geteuid():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    if libc.capget(header, data) == 0:
        for place in range(3):
            data[place] &= ~_CAPABILITIES_OF_FILES
        libc.capset(header, data)


# What is promised.


class _NotWholeError(Exception):
    """An output that is not whole."""


def _check_whole(recipe: Recipe, root: Path) -> None:
    """Read the outputs of a success with the project's own readers."""
    commands = IN_SEQUENCE if recipe.command == SEQUENCE else (recipe.command,) * 2
    for command, path in zip(commands, recipe.outputs(root)):
        try:
            _read_back(command, root / "cwd" / path)
        except BaseException as error:
            sys.stderr.write(f"{path} is not whole: {type(error).__name__}: {error}\n")
            raise _NotWholeError from error


def _read_back(command: str, path: Path) -> None:
    if command in ("train", "initialize-model"):
        model = read_untrained_model(path, trust_code=False)
        check_state(model.description, model.state)
        if command == "initialize-model":
            return
        if model.labels is None or not (path / "_samples.json").is_file():
            raise ValueError("it has no labels or no samples")
    elif command == "score-image-model":
        if not (path / "_data.parquet").is_file():
            raise ValueError("it has no table")
        try:
            read_scored_table(path)
        except train_pytorch_model.errors.NotLabeledDatasetError:
            return
    elif command in ("evaluate-model", "run-pipeline"):
        if not any(path.iterdir()):
            raise ValueError("it is empty")
    else:
        _, columns, items = read_listed_items(path, "Output", labelled=False)
        for item in items():
            if not (path / str(file_of(item, columns))).is_file():
                raise ValueError(f"{item} has no file")
        load_image_directory(path)


def _judge(
    recipe: Recipe, root: Path, ended: _Ended, log: str, before: dict[str, tuple[Any, ...]]
) -> tuple[list[str], str]:
    """The promises that were not kept, and how the run ended."""
    faults = []
    ending = "well"
    code = ended.status
    if ended.has_left_processes:
        faults.append("left a process behind")
    if "Traceback (most recent call last)" in log:
        faults.append(f"printed a traceback: {_last_frame(log)}")
    if code == NOT_ACCEPTED:
        faults.append(f"one module refused what another wrote: {_last_line(log)}")
    elif code == _NOT_WHOLE:
        faults.append("wrote an output that is not whole")
    elif code == 2:
        ending = "usage"
        if "usage: " not in log:
            faults.append("ended with 2, and not for its usage")
    elif code == 1:
        ending, fault = _named_error(recipe, root, log)
        faults += [fault] if fault else []
    elif code:
        faults.append(f"ended with {code}")
    after = _listing(root)
    faults += _changes(recipe, root, before, after, is_success=code == 0)
    return faults, ending


def _named_error(recipe: Recipe, root: Path, log: str) -> tuple[str, str | None]:
    """The id of the error that a run ended with, and what is wrong about it."""
    if recipe.command == "check":
        try:
            page = next(line for line in log.splitlines() if line.startswith('{"ok": '))
            problems = json.loads(page)["problems"]
            error = {"ErrorId": problems[0]["id"], "ErrorCode": problems[0]["code"], "ExceptionType": "ModuleException"}
        except (StopIteration, ValueError, KeyError, IndexError):
            return "?", "names no problem"
    else:
        try:
            report = root / "cwd" / recipe.reports(root)[0] / "module_statistics" / "error_info.json"
            error = json.loads(report.read_text(encoding="utf-8"))["Exception"]
        except (OSError, ValueError, KeyError) as fault:
            # Where no report can be written, the log is all there is.
            if "error_info.json could not be written" in log and "ERROR" in log:
                return "(no report)", None
            return "?", f"left no error_info.json: {fault}"
    if not error or error["ExceptionType"] == "LibraryException" or error["ErrorCode"] == _LIBRARY_CODE:
        return "?", f"ended with no error of a name: {error and error['ErrorId']}"
    return str(error["ErrorId"]), None


def _last_line(log: str) -> str:
    return next((line for line in reversed(log.splitlines()) if line.startswith("check ")), "?")


def _last_frame(log: str) -> str:
    """The last line of the project in a traceback, and the exception."""
    lines = log.splitlines()
    frames = [line.strip().split("/")[-1] for line in lines if "/train_pytorch_model/" in line]
    errors = [line for line in lines if line[:1].isalpha() and ("Error" in line or "Exception" in line)]
    return f"{frames[-1] if frames else '?'}: {errors[-1][:200] if errors else '?'}"


def _listing(root: Path) -> dict[str, tuple[Any, ...]]:
    """All that lies in a folder, with what would tell that it was changed."""
    found: dict[str, tuple[Any, ...]] = {}
    folders = [str(root)]
    while folders:
        folder = folders.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                key = os.path.relpath(entry.path, root)
                if stat.S_ISLNK(status.st_mode):
                    found[key] = ("link", str(Path(entry.path).readlink()))
                elif stat.S_ISDIR(status.st_mode):
                    found[key] = ("folder", status.st_mode)
                    folders.append(entry.path)
                elif stat.S_ISREG(status.st_mode) and status.st_size < _HASHED_BYTES:
                    digest = hashlib.sha1(Path(entry.path).read_bytes()).hexdigest()
                    found[key] = ("file", status.st_mode, digest)
                else:
                    found[key] = ("other", status.st_mode, status.st_size, status.st_mtime_ns)
    return found


def _changes(
    recipe: Recipe, root: Path, before: dict[str, Any], after: dict[str, Any], *, is_success: bool
) -> list[str]:
    """What is no longer as it was although it should be."""
    outputs = [_inside(path, root) for path in recipe.outputs(root)]
    reports = [_inside(path, root) for path in recipe.reports(root)] if recipe.command != "check" else []
    faults = []
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) == after.get(name) or name == "log":
            continue
        is_in_output = any(_is_at_or_in(name, output) for output in outputs)
        # An output may lie among the reports, and is then none of them.
        is_report = any(
            _is_at_or_in(name, report)
            and not any(
                _is_at_or_in(name, output) and output != report for output in outputs if _is_at_or_in(output, report)
            )
            for report in reports
        )
        # What was there before a run may be replaced only by what takes its place.
        is_new = name not in before
        is_above_report = is_new and any(_is_at_or_in(report, name) for report in reports)
        is_above = is_new and any(_is_at_or_in(output, name) for output in outputs)
        if is_report and (is_new or any(own in name for own in _OWN_REPORTS)):
            continue
        if is_success and is_in_output:
            continue
        if is_above_report or (is_above and not is_in_output):
            continue
        verb = "wrote" if is_new else "changed" if name in after else "removed"
        faults.append(f"{verb} {name}")
    return faults[:5]


def _inside(path: Path, root: Path) -> str:
    return os.path.relpath(os.path.realpath(root / "cwd" / path), os.path.realpath(root))


def _is_at_or_in(name: str, folder: str) -> bool:
    return name == folder or name.startswith(folder + os.sep)


def _log_of(root: Path) -> str:
    return (root / "log").read_text(encoding="utf-8", errors="replace")


def _remove(root: Path) -> None:
    for folder, _, _ in os.walk(root):
        if not os.path.islink(folder):
            os.chmod(folder, 0o700)  # noqa: PTH101  # as os.walk gives it
    shutil.rmtree(root)
