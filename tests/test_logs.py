"""Logging that is configured for a while and restored."""

from __future__ import annotations

import io
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from train_pytorch_model.console.logs import configured_logging

PACKAGE = logging.getLogger("train_pytorch_model")


@pytest.fixture(autouse=True)
def _own_handlers() -> Iterator[None]:
    """Keep away the handlers that earlier commands in this process left."""
    root = logging.getLogger()
    handlers, levels = list(root.handlers), (root.level, PACKAGE.level)
    for handler in handlers:
        root.removeHandler(handler)
    root.setLevel(logging.WARNING)
    PACKAGE.setLevel(logging.NOTSET)
    excepthook, threading.excepthook = threading.excepthook, threading.__excepthook__
    yield
    threading.excepthook = excepthook
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    PACKAGE.setLevel(levels[1])


def state() -> dict[str, Any]:
    """Everything that a program may have configured."""
    return {
        "handlers": list(logging.getLogger().handlers),
        "levels": (logging.getLogger().level, PACKAGE.level),
        "excepthook": threading.excepthook,
        "filters": list(warnings.filters),
        "showwarning": warnings.showwarning,
        "streams": (sys.stdout, sys.stderr),
    }


@pytest.mark.parametrize("error", [None, RuntimeError("of the training")])
@pytest.mark.parametrize("is_captured", [False, True])
def test_logging_is_restored(error: Exception | None, is_captured: bool) -> None:
    logging.captureWarnings(is_captured)
    try:
        before = state()
        try:
            with configured_logging(is_quiet=True):
                inside = state()
                if error:
                    raise error
        except RuntimeError:
            pass
        assert state() == before
        assert all(inside[name] != before[name] for name in ("handlers", "levels", "excepthook", "filters"))
    finally:
        logging.captureWarnings(False)


def test_files_of_the_caller_receive_the_lines_and_its_console_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    console, file = logging.StreamHandler(), logging.FileHandler(tmp_path / "log", mode="w")
    for handler in (console, file):
        handler.setFormatter(logging.Formatter("the caller's: %(message)s"))
        logging.getLogger().addHandler(handler)
    try:
        with configured_logging():
            PACKAGE.info("inside")
        PACKAGE.warning("outside")
    finally:
        for handler in (console, file):
            logging.getLogger().removeHandler(handler)
            handler.close()
    assert (tmp_path / "log").read_text() == "the caller's: inside\nthe caller's: outside\n"
    first, second = stream.getvalue().splitlines()
    assert first.endswith(" INFO inside")
    assert second == "the caller's: outside"


@pytest.mark.parametrize(("options", "shown"), [({}, 3), ({"is_quiet": True}, 2), ({"is_silent": True}, 1)])
def test_only_the_levels_asked_for_are_shown(
    options: dict[str, bool], shown: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with configured_logging(**options) as console:
        assert not console.is_interactive
        for log in (PACKAGE.error, PACKAGE.warning, PACKAGE.info):
            log("a line")
    assert len(stream.getvalue().splitlines()) == shown
