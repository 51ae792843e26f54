"""Consoles and live displays, for terminals and for notebooks."""

from __future__ import annotations

import importlib
import io
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Callable, Protocol, TextIO, cast

from rich.console import Console
from rich.live import Live

if TYPE_CHECKING:
    from rich.console import RenderableType

_UPDATES_PER_SECOND = 4
# Notebooks have no width in characters. Lines of this length fit next to the margins of a usual window.
_NOTEBOOK_WIDTH = 100
_HTML = '<pre style="white-space: pre; line-height: normal; font-family: monospace">{code}</pre>'


class _Stream:
    """A standard stream whose reader may go away, which must not end the run."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write the text if the stream still has a reader."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream if it still has a reader."""
        with suppress(OSError):
            self._stream.flush()


class NotebookConsole(Console):
    """A console that prints to the output of a notebook cell."""

    def __init__(self) -> None:
        super().__init__(
            file=cast("TextIO", _Stream(sys.stdout)),
            force_terminal=True,
            force_jupyter=False,
            color_system="standard",
            width=_NOTEBOOK_WIDTH,
        )


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook, which can update its outputs."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


def make_console(*, is_live: bool) -> Console:
    """Return the console for log lines and live displays: the notebook's output in a notebook, stderr elsewhere.

    Args:
        is_live: allow live displays, which a console has if it is a notebook or a terminal.
    """
    if is_live and in_notebook():
        return NotebookConsole()
    # FORCE_COLOR is ignored: notebooks set it for all their child processes, which are not on a terminal.
    return Console(file=cast("TextIO", _Stream(sys.stderr)), force_terminal=sys.stderr.isatty() and is_live)


class _Display(Protocol):
    def start(self, refresh: bool = ...) -> None: ...
    def stop(self) -> None: ...


class LiveDisplay:
    """Shows a renderable that changes, between `start` and `stop`; shows nothing if the console is not interactive."""

    def __init__(self, console: Console, get_renderable: Callable[[], RenderableType]) -> None:
        """Choose how to show it.

        Args:
            console: from `make_console`.
            get_renderable: returns the current content; called from a thread.
        """
        self._display: _Display | None = None
        if isinstance(console, NotebookConsole):
            self._display = _NotebookDisplay(get_renderable)
        elif console.is_interactive:
            self._display = Live(
                get_renderable=get_renderable,
                console=console,
                transient=True,
                refresh_per_second=_UPDATES_PER_SECOND,
            )

    def start(self) -> None:
        """Show the display."""
        if self._display is not None:
            self._display.start(refresh=True)

    def stop(self) -> None:
        """Remove the display; log lines stay."""
        if self._display is not None:
            self._display.stop()

    def __enter__(self) -> LiveDisplay:
        """See `start`."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """See `stop`."""
        self.stop()


class _NotebookDisplay:
    """Updates one output of a notebook cell in place, without ipywidgets."""

    def __init__(self, get_renderable: Callable[[], RenderableType]) -> None:
        self._get_renderable = get_renderable
        self._handle: Any = None
        self._thread: threading.Thread | None = None

    def start(self, refresh: bool = True) -> None:
        display = importlib.import_module("IPython.display").display
        self._is_over = threading.Event()
        self._shown = self._content()
        self._handle = display(self._shown, raw=True, display_id=True)
        self._thread = threading.Thread(target=self._update, name="notebook display", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._thread is not None:
            self._is_over.set()
            self._thread.join()
            self._handle.update({"text/html": "", "text/plain": ""}, raw=True)
            self._thread = None

    def _update(self) -> None:
        while not self._is_over.wait(1 / _UPDATES_PER_SECOND):
            content = self._content()
            if content != self._shown:
                self._shown = content
                self._handle.update(content, raw=True)

    def _content(self) -> dict[str, str]:
        recorder = Console(
            file=io.StringIO(), record=True, width=_NOTEBOOK_WIDTH, force_jupyter=False, force_terminal=True
        )
        recorder.print(self._get_renderable())
        text = recorder.export_text(clear=False)
        return {"text/html": recorder.export_html(inline_styles=True, code_format=_HTML), "text/plain": text}
