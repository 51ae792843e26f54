"""An endpoint under Azure's inference server: requests one by one, and in batches."""

from __future__ import annotations

import threading
import time
from statistics import median, quantiles
from typing import TYPE_CHECKING

from benchmarks.datasets import make_photos
from benchmarks.results import table, write_section
from tests.endpoints import post, served
from tests.served_models import write_model

if TYPE_CHECKING:
    from pathlib import Path

_NETWORK = "resnet18"
_SIZE = 224
_NUM_ROUNDS = 3
_SECONDS = 9.0
# Clients at once, and what the environment of the server has.
_WITHOUT_THREADS = {"GUNICORN_CMD_ARGS": ""}
_MODES: dict[str, tuple[int, dict[str, str]]] = {
    "one client": (1, _WITHOUT_THREADS),
    "8 clients, one thread": (8, _WITHOUT_THREADS),
    "8 clients, 40 threads, batches of 1": (8, {"SERVING_BATCH_SIZE": "1"}),
    "8 clients, 40 threads, batches of up to 16": (8, {}),
    "32 clients, 40 threads, batches of up to 16": (32, {}),
}


def _ask(address: str, bodies: list[bytes], end: float, seconds: list[float]) -> None:
    """Send one request after another, and append the time of each."""
    number = 0
    while (begin := time.perf_counter()) < end:
        status, answer = post(address, bodies[number % len(bodies)], Content_Type="image/jpeg")
        if status != 200:
            raise RuntimeError(f"status {status}: {answer}")
        seconds.append(time.perf_counter() - begin)
        number += 1


def _load(address: str, bodies: list[bytes], num_clients: int, duration: float) -> list[float]:
    """Return the seconds of each request of several clients."""
    seconds: list[float] = []
    end = time.perf_counter() + duration
    clients = [threading.Thread(target=_ask, args=(address, bodies, end, seconds)) for _ in range(num_clients)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return seconds


def measure(work_path: Path) -> None:
    """Run the benchmark and write its section."""
    photos = make_photos(work_path, 64, 32, size=_SIZE)
    bodies = [file.read_bytes() for file in sorted((photos / "train").rglob("*.jpg"))]
    model = write_model(work_path / "model", "torchvision.models", _NETWORK, num_classes=2)
    best: dict[str, tuple[float, list[float]]] = dict.fromkeys(_MODES, (0.0, []))
    for number in range(_NUM_ROUNDS):
        for mode in _MODES if number % 2 == 0 else reversed(_MODES):
            num_clients, variables = _MODES[mode]
            folder = work_path / f"{number} {mode}"
            folder.mkdir()
            with served(model, folder, **variables) as address:
                _load(address, bodies, num_clients, _SECONDS / 4)  # the first requests are slow
                begin = time.perf_counter()
                seconds = _load(address, bodies, num_clients, _SECONDS)
                rate = len(seconds) / (time.perf_counter() - begin)
            print(mode, rate, flush=True)
            best[mode] = max(best[mode], (rate, seconds))
    first, _ = best["8 clients, one thread"]
    rows = [
        [
            mode,
            f"{rate:.1f}",
            f"{rate / first:.2f}",
            f"{1000 * median(seconds):.0f}",
            f"{1000 * quantiles(seconds, n=20)[-1]:.0f}",
        ]
        for mode, (rate, seconds) in best.items()
    ]
    head = ["clients and server", "images per second", "relative to one thread", "median ms", "95th percentile ms"]
    write_section(
        "serving",
        f"JPEGs of {_SIZE}x{_SIZE}, one in each request, to {_NETWORK} behind the inference server with one worker. "
        f"Clients run on the same cores. Best of {_NUM_ROUNDS} runs of {_SECONDS:g} s, in alternating order.\n\n"
        f"{table(head, rows)}",
    )
