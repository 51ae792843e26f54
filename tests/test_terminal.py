"""A terminal, for real: what is shown live, and what the log lines above it look like."""

from __future__ import annotations

import contextlib
import fcntl
import io
import logging
import os
import re
import struct
import sys
import termios
import threading
from collections.abc import Iterator

import pytest

from tests.making import Inputs
from train_pytorch_model.console.logs import configure_logging
from train_pytorch_model.distributed.watchdog import leave

WIDTH = 60
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


class Terminal:
    """What stderr is; keeps what is written on it."""

    def __init__(self, until: str | None = None) -> None:
        """Open it; it goes away as soon as the text `until` has come."""
        self._reading, writing = os.openpty()
        fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("4H", 40, WIDTH, 0, 0))
        self.file = io.TextIOWrapper(io.FileIO(writing, "w"), encoding="utf-8", write_through=True)
        self._until = until
        self._received = bytearray()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # its other end is closed
            while self._until is None or self._until.encode() not in self._received:
                self._received += os.read(self._reading, 4096)
        os.close(self._reading)

    def text(self) -> str:
        """All that was written; it takes no more."""
        with contextlib.suppress(OSError):  # what nobody has read
            self.file.close()
        self._thread.join()
        return self._received.decode()


@contextlib.contextmanager
def on_terminal(until: str | None = None) -> Iterator[Terminal]:
    """Have a terminal for stderr; see `Terminal`."""
    variables = {"TERM": "xterm", "COLUMNS": str(WIDTH), "LINES": "40", "NO_COLOR": None, "FORCE_COLOR": None}
    terminal = Terminal(until)
    with pytest.MonkeyPatch.context() as patched:
        for name, value in variables.items():
            patched.delenv(name, raising=False) if value is None else patched.setenv(name, value)
        patched.setattr(sys, "stderr", terminal.file)
        yield terminal
    configure_logging()
    terminal.text()


def test_lines_are_short_and_the_live_display_leaves_nothing_behind(inputs: Inputs) -> None:
    broken = sorted((inputs.train / "image").iterdir())[2]
    broken.write_bytes(broken.read_bytes()[:200])
    with on_terminal() as terminal:
        assert inputs.fit(skip_unreadable_images="true", epochs=2) == 0
        text = terminal.text()
    assert text.count(HIDE_CURSOR) == text.count(SHOW_CURSOR) == 3  # two datasets, one training
    shown, _, left = text.rpartition(SHOW_CURSOR)
    for words in ("Training dataset: decoded", "Epochs ", "Validation ", "2/2 0:00:00 left", "Epoch 2/2: loss "):
        assert words in shown
    assert "━" not in left
    lines = CONTROL.sub("", text).splitlines()
    # No line is longer but for a path, which can be copied.
    assert all(len(line) <= WIDTH or " " not in line for line in lines)
    assert str(inputs.trained) in text
    assert "\x1b[33m" in next(line for line in text.splitlines() if " WARNING " in line)
    assert " INFO " not in text


@pytest.mark.parametrize("until", ["Training dataset:", "Epoch 1/2"])
def test_a_terminal_that_goes_away_ends_nothing(until: str, inputs: Inputs) -> None:
    with on_terminal(until):
        assert inputs.fit(epochs=2) == 0
    assert (inputs.trained / "model").is_file()
    assert len(inputs.metrics()) == 2


def test_a_line_that_cannot_be_formatted_ends_nothing() -> None:
    library = logging.getLogger("a library")
    with on_terminal() as terminal:
        configure_logging()
        library.warning("%d images", "no number")
        library.warning("%d images", 3)
        text = terminal.text()
    assert "Logging error" in text
    assert "WARNING 3 images" in text


def test_a_process_that_ends_at_once_shows_the_cursor_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "shutdown", lambda: None)
    monkeypatch.setattr(os, "_exit", sys.exit)
    with on_terminal() as terminal:
        with pytest.raises(SystemExit, match="3"):
            leave(3)
        assert terminal.text() == SHOW_CURSOR
