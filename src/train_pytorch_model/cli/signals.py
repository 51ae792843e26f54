"""Signals that end a command: it removes unfinished files and reports how it ended, without a traceback."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Besides SIGINT: of schedulers, of a terminal that is closed, and of Slurm's `--signal`.
_OTHERS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt inside the block on other signals too. Its text is the name of the signal."""
    with _handled(dict.fromkeys(_OTHERS, _interrupt)):
        yield


@contextmanager
def reporting_the_end() -> Iterator[None]:
    """Let the block, which takes seconds, end the process: only another Ctrl-C ends it earlier, without a traceback."""
    with _handled({**dict.fromkeys(_OTHERS, signal.SIG_IGN), signal.SIGINT: signal.SIG_DFL}):
        yield


@contextmanager
def _handled(handlers: Mapping[signal.Signals, Any]) -> Iterator[None]:
    """Install signal handlers inside the block, if this is the main thread; Python allows handlers in no other."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = {number: signal.getsignal(number) for number in handlers}
    # nohup and shells set the signals to be ignored that must not end a background process. None stands for a handler
    # that was not installed from Python and could not be restored from it.
    earlier = {number: handler for number, handler in earlier.items() if handler not in (signal.SIG_IGN, None)}
    for number in earlier:
        signal.signal(number, handlers[number])
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt(signal.Signals(number).name)
