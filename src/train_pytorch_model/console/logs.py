"""Logging: lines on stderr or in a notebook, for people or as JSON for machines."""

from __future__ import annotations

import json
import logging
import os
import sys
import textwrap
import threading
import warnings
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train_pytorch_model.console.live import make_console
from train_pytorch_model.text.masking import masked
from train_pytorch_model.text.wording import finite

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

_PACKAGE = "train_pytorch_model"
_PILLOW = "PIL"
_LINE_FORMAT = "%(asctime)s %(levelname)s %(message)s"
_STYLES = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "red"}


class _LineFormatter(logging.Formatter):
    """Formats a record as text, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, or several with a traceback."""
        return masked(super().format(record))


class _ConsoleHandler(logging.Handler):
    """Prints short log lines above a live display."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        try:
            self._print(record)
        except Exception:  # a record that cannot be formatted must not end the run, as with logging's own handlers
            self.handleError(record)

    def _print(self, record: logging.LogRecord) -> None:
        style = _STYLES.get(record.levelno)
        self.formatter = _LineFormatter(f"%(asctime)s {'%(levelname)s ' if style else ''}%(message)s", "%H:%M:%S")
        # Lines break between words only, so that a long path can be copied.
        text = "\n".join(
            textwrap.fill(line, self._console.width, break_long_words=False, break_on_hyphens=False)
            for line in self.format(record).splitlines()
        )
        self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


class _JsonFormatter(logging.Formatter):
    """Formats a record as a JSON object: `time` (UTC, ISO 8601), `level`, `message`, and numbers of progress lines."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        time = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname, "message": masked(record.getMessage())}
        if record.exc_info:
            line["exception"] = masked(self.formatException(record.exc_info))
        return json.dumps({**line, **finite(getattr(record, "numbers", {}))})


def configure_logging(*, is_quiet: bool = False, is_silent: bool = False, log_format: str = "text") -> Console:
    """Configure logging for the rest of the process; return the console that live displays must use.

    Args:
        is_quiet: show only warnings and errors, and no live display.
        is_silent: show only errors, because another process shows the rest.
        log_format: "text", or "json" for one JSON object per line and no live display.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the parent process closed it
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 (open until the exit)
    console = make_console(is_live=not (is_quiet or is_silent or log_format == "json"))
    handler: logging.Handler = _ConsoleHandler(console) if console.is_interactive else logging.StreamHandler(sys.stderr)
    if not console.is_interactive:
        handler.setFormatter(_JsonFormatter() if log_format == "json" else _LineFormatter(_LINE_FORMAT))
    level = logging.ERROR if is_silent else logging.WARNING if is_quiet else logging.INFO
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)
    logging.getLogger(_PACKAGE).setLevel(level)
    logging.captureWarnings(True)
    threading.excepthook = _log_thread
    # Pillow warns of odd metadata and of sizes without naming the file; errors of unreadable images name it.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger(_PILLOW).setLevel(logging.CRITICAL)
    return console


@contextmanager
def configured_logging(
    *, is_quiet: bool = False, is_silent: bool = False, log_format: str = "text"
) -> Iterator[Console]:
    """Configure logging as `configure_logging` does, and restore everything when the block ends.

    Handlers of the root logger that write to stdout or stderr are inactive inside the block. All others, such as those
    that write to a file, also receive the records of the block.
    """
    loggers = [logging.getLogger(name) for name in (None, _PACKAGE, _PILLOW)]
    root, levels = loggers[0], [logger.level for logger in loggers]
    handlers = list(root.handlers)
    streams, is_captured_here = (sys.stdout, sys.stderr), False
    excepthook, showwarning = threading.excepthook, warnings.showwarning
    with warnings.catch_warnings():
        # `configure_logging` closes the handlers that it removes; the caller's must stay open.
        for handler in handlers:
            root.removeHandler(handler)
        try:
            console = configure_logging(is_quiet=is_quiet, is_silent=is_silent, log_format=log_format)
            is_captured_here = warnings.showwarning is not showwarning
            for handler in handlers:
                if not _writes_to_console(handler):
                    root.addHandler(handler)
            yield console
        finally:
            for handler in list(root.handlers):
                root.removeHandler(handler)
            for handler in handlers:
                root.addHandler(handler)
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)
            if is_captured_here:
                logging.captureWarnings(False)
            threading.excepthook = excepthook
            sys.stdout, sys.stderr = streams


def _writes_to_console(handler: logging.Handler) -> bool:
    streams = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    return isinstance(handler, logging.StreamHandler) and handler.stream in streams


def _log_thread(failure: threading.ExceptHookArgs) -> None:
    """Log the error of a background thread, which does not end the run; Python would print a traceback."""
    logging.getLogger(_PACKAGE).error("A thread has failed.", exc_info=failure.exc_value)


def log_progress(logger: logging.Logger, event: str, message: str, **numbers: Any) -> None:
    """Log a line that has numbers for machines.

    Args:
        logger: of the calling module.
        event: the kind of line, such as "epoch".
        message: the text for people.
        numbers: additional entries of the JSON line.
    """
    logger.info("%s", message, extra={"numbers": {"event": event, **numbers}})


@contextmanager
def kept_warnings() -> Iterator[list[str]]:
    """Collect the warnings that the package logs inside the block, each text once."""
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
