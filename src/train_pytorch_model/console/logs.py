"""What a command says while it runs: lines on stderr, for people or for machines."""

from __future__ import annotations

import json
import logging
import os
import sys
import textwrap
import threading
import warnings
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from rich.console import Console

from train_pytorch_model.text.masking import masked
from train_pytorch_model.text.wording import finite

if TYPE_CHECKING:
    from collections.abc import Iterator

_PACKAGE = "train_pytorch_model"
_LINE_FORMAT = "%(asctime)s %(levelname)s %(message)s"
_STYLES = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "red"}


class _LineFormatter(logging.Formatter):
    """A line for people, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, or those of a traceback."""
        return masked(super().format(record))


class _ConsoleHandler(logging.Handler):
    """Prints log lines above a live display instead of through it, as short as a person at a terminal needs them."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line."""
        try:
            self._print(record)
        except Exception:  # a line that cannot be formatted ends nothing, as with logging's own handlers
            self.handleError(record)

    def _print(self, record: logging.LogRecord) -> None:
        style = _STYLES.get(record.levelno)
        self.formatter = _LineFormatter(f"%(asctime)s {'%(levelname)s ' if style else ''}%(message)s", "%H:%M:%S")
        # Broken between words; a path that is longer than a line stays whole, so that it can be copied.
        text = "\n".join(
            textwrap.fill(line, self._console.width, break_long_words=False, break_on_hyphens=False)
            for line in self.format(record).splitlines()
        )
        self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


class _Terminal:
    """A stream whose reader may go away; the work goes on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write as far as somebody reads."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Likewise."""
        with suppress(OSError):
            self._stream.flush()


class _JsonFormatter(logging.Formatter):
    """One JSON object a line: `time` (UTC, ISO 8601), `level`, `message`, and the numbers of a line of progress."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        time = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname, "message": masked(record.getMessage())}
        if record.exc_info:
            line["exception"] = masked(self.formatException(record.exc_info))
        return json.dumps({**line, **finite(getattr(record, "numbers", {}))})


def configure_logging(*, is_quiet: bool = False, is_silent: bool = False, log_format: str = "text") -> Console:
    """Send log lines to stderr, and give the console that a live display shares with them.

    Args:
        is_quiet: let nothing through but warnings and errors, and show no live display.
        is_silent: let nothing through but errors: another process speaks for this one.
        log_format: "text", or "json" for an object a line, without a live display.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started the process
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 (to the end)
    is_live = not (is_quiet or is_silent or log_format == "json")
    # By what it is, not by what FORCE_COLOR says, which notebooks set for all that they start.
    terminal = cast("TextIO", _Terminal(sys.stderr))
    console = Console(file=terminal, force_terminal=sys.stderr.isatty() and is_live)
    handler: logging.Handler = _ConsoleHandler(console) if console.is_interactive else logging.StreamHandler(sys.stderr)
    if not console.is_interactive:
        handler.setFormatter(_JsonFormatter() if log_format == "json" else _LineFormatter(_LINE_FORMAT))
    level = logging.ERROR if is_silent else logging.WARNING if is_quiet else logging.INFO
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)
    logging.getLogger(_PACKAGE).setLevel(level)
    logging.captureWarnings(True)
    threading.excepthook = _log_thread
    # Of odd metadata, and of sizes, without the file's name: what makes an image unreadable is told with it.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    return console


def _log_thread(failure: threading.ExceptHookArgs) -> None:
    """A thread of the background has failed, which ends nothing; Python would print its traceback by itself."""
    logging.getLogger(_PACKAGE).error("A thread has failed.", exc_info=failure.exc_value)


def log_progress(logger: logging.Logger, event: str, message: str, **numbers: Any) -> None:
    """Log a line that machines read as numbers.

    Args:
        logger: of the module that speaks.
        event: what happened, such as "epoch".
        message: the same for people.
        numbers: that JSON lines carry beside the message.
    """
    logger.info("%s", message, extra={"numbers": {"event": event, **numbers}})


@contextmanager
def kept_warnings() -> Iterator[list[str]]:
    """Keep what the package warns of inside the block, each warning once."""
    texts: list[str] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = masked(record.getMessage())
            if text not in texts:
                texts.append(text)

    handler = Keeping(logging.WARNING)
    logger = logging.getLogger(_PACKAGE)
    logger.addHandler(handler)
    try:
        yield texts
    finally:
        logger.removeHandler(handler)
