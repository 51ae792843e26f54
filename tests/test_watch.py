"""The threads that end a process, with a store in this process and an end that can be survived."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
import torch.distributed

from train_pytorch_model.distributed import interruption, watchdog
from train_pytorch_model.distributed.interruption import Interruption
from train_pytorch_model.distributed.watchdog import Watchdog
from train_pytorch_model.errors import InvalidDatasetError, ModuleError


class End:
    """Where processes would end."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.told: list[str] = []
        self.noticed: list[str] = []
        self._has_come = threading.Event()
        self.is_over = threading.Event()

    def leave(self, exit_code: int) -> None:
        self.codes.append(exit_code)
        self._has_come.set()
        self.is_over.wait(20)  # nothing comes after it

    def report(self, error: ModuleError | None) -> None:
        self.told.append("" if error is None else error.message)

    def notice(self, error: ModuleError) -> None:
        self.noticed.append(error.message)

    def wait(self) -> None:
        assert self._has_come.wait(20)


@pytest.fixture
def end(monkeypatch: pytest.MonkeyPatch) -> Iterator[End]:
    """Where processes would end, and impatience."""
    end = End()
    for module in (watchdog, interruption):
        monkeypatch.setattr(module, "leave", end.leave)
    for name in ("_POLL_SECONDS", "_STAY_SECONDS", "_GRACE_SECONDS", "_LONG_GRACE_SECONDS"):
        monkeypatch.setattr(watchdog, name, 0.1)
    yield end
    end.is_over.set()


def until(has_come: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not has_come():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Store:
    """A store of its own, whose process may have gone, or answer no more."""

    def __init__(self) -> None:
        self._store = torch.distributed.HashStore()  # type: ignore[attr-defined]
        self._store.set_timeout(timedelta(seconds=1))
        self.is_gone = False
        self.num_refused = 0
        self.answers = threading.Event()
        self.answers.set()

    def __getattr__(self, name: str) -> object:
        self.answers.wait(20)
        if self.is_gone:
            self.num_refused += 1
            raise RuntimeError("Connection reset by peer")
        return getattr(self._store, name)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_store_that_is_gone_ends_the_process(rank: int, end: End, caplog: pytest.LogCaptureFixture) -> None:
    store = Store()
    watching = Watchdog(store, rank, 2, end.report, end.notice)
    store.is_gone = True
    end.wait()
    watching.stop()
    assert end.codes == [1]
    assert "Process 0 of this training was lost" in end.noticed[0]
    # The first process has its own way to tell; of another, nobody else can.
    assert end.told == (end.noticed if rank == 0 else [])
    assert ("Process 0 of this training was lost" in caplog.text) is (rank == 1)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_store_that_does_not_answer_ends_the_process(
    rank: int, end: End, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "LOST_AFTER_SECONDS", 0.5)
    store = Store()
    store.answers.clear()
    watching = Watchdog(store, rank, 2, end.report, end.notice)
    end.wait()
    assert end.codes == [1]
    assert bool(end.told) is (rank == 0)
    assert ("Process 0 of this training was lost" in caplog.text) is (rank == 1)
    store.answers.set()
    watching.stop()


def test_a_store_that_goes_as_the_common_work_ends_ends_nothing(end: End, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_STAY_SECONDS", 20)
    store = Store()
    store.is_gone = True
    watching = Watchdog(store, 1, 2, end.report, end.notice)
    until(lambda: store.num_refused)
    watching.stop()
    assert (end.codes, end.noticed) == ([], [])


def test_the_own_fault_is_reported_if_the_store_is_gone(end: End) -> None:
    store = Store()
    watching = Watchdog(store, 1, 2, end.report, end.notice)
    fault = InvalidDatasetError("Training dataset", "it is empty")
    store.is_gone = True
    assert watching.settle(fault) is fault


@pytest.fixture
def sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruption, "_AGREEMENT_SECONDS", 0.2)


@pytest.mark.usefixtures("sigterm")
def test_other_signals_are_not_taken_for_the_one_that_ends(end: End) -> None:
    earlier = signal.signal(signal.SIGUSR2, lambda *_: None)
    try:
        with Interruption(end.report) as interrupted:
            os.kill(os.getpid(), signal.SIGUSR2)
            os.kill(os.getpid(), signal.SIGUSR2)
            time.sleep(0.3)
            assert not interrupted.is_requested
            os.kill(os.getpid(), signal.SIGTERM)
            until(lambda: interrupted.is_requested)
            end.wait()
    finally:
        signal.signal(signal.SIGUSR2, earlier)
    assert end.codes == [75]
    assert "The last checkpoint, if there is one, is unchanged." in end.told[0]


def test_signals_are_handled_only_inside_the_block_and_on_request(end: End) -> None:
    own = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with Interruption(end.report):
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        with Interruption(end.report, handles_signals=False):
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, own)


def test_outside_the_main_thread_signals_stay_as_they_are(end: End) -> None:
    handlers = [signal.getsignal(signal.SIGTERM)]

    def work() -> None:
        with Interruption(end.report) as interrupted:
            handlers.append(signal.getsignal(signal.SIGTERM))
            assert not interrupted.is_requested
        handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [handlers[0]] * 3
