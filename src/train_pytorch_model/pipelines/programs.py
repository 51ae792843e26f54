"""Finds the program of a command that is not on this machine."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Optional

# What can make a command work although a program of it is missing.
_NOT_SIMPLE = re.compile(r"[;`\n(){}|!]|<<|PATH|(?<![&>])&(?![&>])")
# Programs that install no others.
_HARMLESS = frozenset({"cd", "cp", "date", "echo", "env", "export", "ls", "mkdir", "mv", "pwd", "rm", "set", "true"})


def search_path(path: str) -> str:
    """Return the PATH of a step: `python` is this interpreter, as it is the environment's interpreter in the cloud."""
    return os.pathsep.join([str(Path(sys.executable).parent), path])


def missing_program(command: str, path: str) -> Optional[str]:
    """Return the program without which a command certainly fails; None if there is none.

    Args:
        command: valid bash. Only simple commands with `&&` between them are looked into, up to the first program that
            could install others.
        path: the PATH of the step.
    """
    if _NOT_SIMPLE.search(command):
        return None
    lexer = shlex.shlex(command, posix=True, punctuation_chars="&<>")
    lexer.whitespace_split, lexer.commenters = True, ""
    is_first, follows_redirection = True, False
    for token in lexer:
        if follows_redirection:
            follows_redirection = False
        elif set(token) & set("<>") and set(token) <= set("&<>"):
            follows_redirection = True
        elif token == "&&":
            is_first = True
        elif is_first and not re.match(r"\w+=|\d+$", token):
            is_first = False
            if re.fullmatch(r"[\w.+-]+", token) and not _is_there(token, path):
                return token
            if token not in _HARMLESS:
                return None
    return None


def _is_there(name: str, path: str) -> bool:
    """Whether bash finds a program, or has a builtin of that name."""
    if shutil.which(name, path=path):
        return True
    return subprocess.run(["bash", "-c", 'type "$0"', name], capture_output=True).returncode == 0
