"""A file system that lacks a call: the call fails in a process, everywhere or below one folder.

`failing` gives Python code that a process runs before the command. Some calls are made by libraries in C, so their
nearest function in Python fails instead.
"""

from __future__ import annotations

import errno
import textwrap
from pathlib import Path

# Calls that no output depends on.
OPTIONAL_CALLS = (
    *("os.chmod", "os.fchmod", "os.chown", "os.utime", "os.setxattr", "os.link", "os.symlink"),
    *("fcntl.flock", "fcntl.lockf", "fcntl.fcntl", "os.fsync", "os.fdatasync"),
    *("os.replace", "os.rename", "shutil.copystat", "shutil.copymode", "shutil.move"),
    *("os.posix_fallocate", "os.truncate", "os.ftruncate", "os.statvfs", "shutil.disk_usage"),
    *("os.sendfile", "os.copy_file_range", "os.memfd_create", "mmap.mmap", "torch.from_file"),
    *("tempfile.mkstemp", "tempfile.TemporaryFile", "O_TMPFILE", "append", "rename of folders"),
)
ERRORS = ("ENOSYS", "EPERM", "EOPNOTSUPP", "EINVAL", "EIO", "ENOLCK", "EACCES", "EXDEV", "ESTALE", "ENOTEMPTY", "EBUSY")

_CODE = """
import builtins, errno, fcntl, io, mmap, os, shutil, tempfile
import torch

CALL, NUMBER, FOLDER = {call!r}, {number}, {folder!r}

def is_concerned(values):
    texts = [os.fspath(v) for v in values if isinstance(v, (str, os.PathLike))]
    return not FOLDER or not texts or any(os.path.abspath(t).startswith(FOLDER) for t in texts)

def replace(module, name, is_wanted=lambda values, named: True, error=None):
    real = getattr(module, name)
    def call(*values, **named):
        if is_concerned(values) and is_wanted(values, named):
            raise error or OSError(NUMBER, os.strerror(NUMBER))
        return real(*values, **named)
    setattr(module, name, call)

def flags_of(values, named):
    return values[1] if len(values) > 1 else named.get("flags", 0)

def mode_of(values, named):
    return str(values[1] if len(values) > 1 else named.get("mode", "r"))

if CALL in ("O_EXCL", "O_TMPFILE"):
    flag = getattr(os, CALL)
    replace(os, "open", lambda values, named: flags_of(values, named) & flag == flag)
elif CALL == "append":
    is_append = lambda values, named: "a" in mode_of(values, named)
    replace(builtins, "open", is_append)
    replace(io, "open", is_append)
elif CALL == "rename of folders":
    for name in ("rename", "replace"):
        replace(os, name, lambda values, named: os.path.isdir(values[0]))
elif CALL == "mmap.mmap":  # a class, of which libraries ask whether objects are instances
    class Failing(mmap.mmap):
        def __new__(cls, *values, **named):
            raise OSError(NUMBER, os.strerror(NUMBER))
    mmap.mmap = Failing
elif CALL == "torch.from_file":
    replace(torch, "from_file", error=RuntimeError(f"unable to mmap 9 bytes from file: {{os.strerror(NUMBER)}} (9)"))
else:
    module, name = CALL.split(".")
    replace({{"os": os, "fcntl": fcntl, "shutil": shutil, "tempfile": tempfile, "mmap": mmap}}[module], name)
"""


def failing(call: str, error: str, folder: Path | None = None) -> str:
    """Code that makes a call fail.

    Args:
        call: a function of the standard library, or one of the other names above.
        error: the name of the error, such as ENOSYS.
        folder: where it fails; everywhere if it is None, or if the call is not given a path.
    """
    values = {"call": call, "number": getattr(errno, error), "folder": "" if folder is None else str(folder)}
    return textwrap.dedent(_CODE).format(**values)
