"""Downloads files that a pipeline takes from the web, as Azure does."""

from __future__ import annotations

import hashlib
import re
import shutil
from http.client import HTTPException
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import urlopen

from train_pytorch_model.errors import UserError

if TYPE_CHECKING:
    from http.client import HTTPResponse
    from pathlib import Path

_TIMEOUT_SECONDS = 30.0


def is_web(path: str) -> bool:
    """Whether a path is the address of a file on the web."""
    return re.match(r"https?://", path, re.IGNORECASE) is not None


def fault_of_address(address: str) -> list[str]:
    """Describe why a file cannot be downloaded; empty if it can. The server is asked for it."""
    try:
        _open(address).close()
    except (OSError, ValueError, HTTPException) as error:
        return [f"{address} cannot be downloaded ({_reason(error)}); give a local path"]
    return []


def place_of(address: str, run_folder: Path) -> Path:
    """Return the path of the downloaded file: its name, in a folder of its own in the folder of the run."""
    name = re.sub(r"[^\w.-]", "_", unquote(urlsplit(address).path).rpartition("/")[2], flags=re.ASCII)
    return run_folder / "downloads" / hashlib.sha256(address.encode()).hexdigest()[:16] / (name.lstrip(".") or "file")


def download(address: str, run_folder: Path) -> None:
    """Download a file into the folder of the run.

    Raises:
        UserError: if it cannot be downloaded or written.
    """
    place = place_of(address, run_folder)
    part = place.with_name(f"{place.name}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _open(address) as answer, part.open("wb") as file:
            shutil.copyfileobj(answer, file)
            expected, size = answer.headers.get("Content-Length"), file.tell()
        if expected is not None and size != int(expected):
            raise OSError(f"it ended after {size} of {expected} bytes")
        part.replace(place)
    except (OSError, ValueError, HTTPException) as error:
        raise UserError(f"{address} cannot be downloaded to {place} ({_reason(error)})") from error


def _open(address: str) -> HTTPResponse:
    answer: HTTPResponse = urlopen(address, timeout=_TIMEOUT_SECONDS)
    return answer


def _reason(error: Exception) -> str:
    return f"status {error.code}" if isinstance(error, HTTPError) else str(getattr(error, "reason", error))
