"""File operations that some file systems lack, and what is done instead.

Mounted storage, such as blobfuse, CIFS, NFS, Lustre and WSL's drives, may refuse to lock files, to rename folders, to
flush files or to change permissions. None of this is needed to write an output.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import secrets
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from train_pytorch_model.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)

PROBE_PREFIX = ".writable-"
"""Names of the files that `try_writing` writes and removes begin with this."""
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
# Entries that file systems, network mounts and file managers create by themselves.
_SYSTEM_NAMES = re.compile(
    r"lost\+found|\.snapshot|\.nfs\w+|\.fuse_hidden\w+|\.Trash-\d+|\.DS_Store|\$RECYCLE\.BIN|System Volume Information"
)
_CONTENT = b"A file that shows whether this folder can be written to.\n"


def is_disk_full(error: OSError) -> bool:
    """Return whether an operation failed because the disk, or the user's part of it, is full."""
    return error.errno in _DISK_FULL


def is_system_name(name: str) -> bool:
    """Return whether the file system itself keeps an entry of this name in a folder, such as `lost+found`."""
    return _SYSTEM_NAMES.fullmatch(name) is not None


def try_writing(folder: Path) -> None:
    """Write, read and remove a small file in a folder.

    Raises:
        OSError: if one of these is impossible.
    """
    file = folder / f"{PROBE_PREFIX}{secrets.token_hex(4)}"
    try:
        file.write_bytes(_CONTENT)
        if file.read_bytes() != _CONTENT:
            raise OSError(errno.EIO, "a file that was written there has another content", str(file))
    except OSError:
        with contextlib.suppress(OSError):
            file.unlink()
        raise
    file.unlink()


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder with all files, but without their permissions and times.

    Args:
        source: the folder.
        target: the folder to write, which may exist.
    """
    target.mkdir(exist_ok=True)
    for entry in source.iterdir():
        if entry.is_dir():
            copy_folder(entry, target / entry.name)
        else:
            shutil.copyfile(entry, target / entry.name)


def move_file(source: Path, target: Path) -> None:
    """Rename a file, or copy it where the file system cannot rename. A file at `target` is replaced.

    Raises:
        OSError: if the disk is full, or the file cannot be copied either.
    """
    try:
        source.replace(target)
    except OSError as error:
        if is_disk_full(error) or not source.is_file():
            raise
        try:
            shutil.copyfile(source, target)
        except BaseException:
            with contextlib.suppress(OSError):
                target.unlink()
            raise
        with contextlib.suppress(OSError):
            source.unlink()


def flush(descriptor: int) -> None:
    """Write a file or a folder to disk, as far as the file system supports it.

    Raises:
        OSError: if the disk is full.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if is_disk_full(error):
            raise
        logger.debug("The file system does not flush files: %s.", error.strerror)


@contextmanager
def locked(path: Path) -> Iterator[str]:
    """Lock a file or a folder while the block runs, against other processes of this host that lock it too.

    Yields:
        "", or the reason why the file system cannot lock it. The block runs without a lock then.

    Raises:
        BlockingIOError: if another process has locked it.
    """
    reason = ""
    with contextlib.ExitStack() as stack:
        try:
            # NFS locks a file only if it is open for writing.
            descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError as error:
            reason = error.strerror or str(error)
        yield reason


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """Create a folder and remove it after the block. Unlike `TemporaryDirectory`, it may stay if it cannot be removed.

    Args:
        prefix: of its name.

    Raises:
        UserError: if it cannot be created.
    """
    try:
        path = Path(tempfile.mkdtemp(prefix=prefix))
    except OSError as error:
        raise UserError(
            f"A temporary folder cannot be created: {error.strerror}. Set the environment variable TMPDIR to a folder "
            "that can be written to."
        ) from error
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def permissions_optional() -> Iterator[None]:
    """Let libraries copy files inside the block where the file system cannot set permissions or times."""

    def forgiving(function: Callable[..., Any]) -> Callable[..., None]:
        def call(*arguments: Any, **named: Any) -> None:
            with contextlib.suppress(OSError):
                function(*arguments, **named)

        return call

    before = shutil.copystat, shutil.copymode
    shutil.copystat, shutil.copymode = map(forgiving, before)
    try:
        yield
    finally:
        shutil.copystat, shutil.copymode = before
