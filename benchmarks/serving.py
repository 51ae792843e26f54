"""An endpoint under Azure's inference server: requests one by one, and in batches."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
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
_NUM_ROUNDS = 12
_SECONDS = 3.0
# What the environments of the servers have, besides that of the sample deployment.
_SERVERS = {"plain": {"GUNICORN_CMD_ARGS": ""}, "single": {"SERVING_BATCH_SIZE": "1"}, "batches": {}}
# Clients at once, and their server.
_MODES = {
    "one client, one thread": (1, "plain"),
    "one client, 40 threads, batches": (1, "batches"),
    "8 clients, one thread": (8, "plain"),
    "8 clients, 40 threads, batches of 1": (8, "single"),
    "8 clients, 40 threads, batches of up to 16": (8, "batches"),
    "32 clients, 40 threads, batches of up to 16": (32, "batches"),
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
    rates: dict[str, list[float]] = {mode: [] for mode in _MODES}
    latencies: dict[str, list[float]] = {mode: [] for mode in _MODES}
    with ExitStack() as stack:
        addresses = {}
        for name, variables in _SERVERS.items():
            (work_path / name).mkdir()
            addresses[name] = stack.enter_context(served(model, work_path / name, **variables))
            _load(addresses[name], bodies, 8, _SECONDS)  # the first requests are slow
        for _ in range(_NUM_ROUNDS):
            for mode, (num_clients, server) in _MODES.items():
                begin = time.perf_counter()
                seconds = _load(addresses[server], bodies, num_clients, _SECONDS)
                rates[mode].append(len(seconds) / (time.perf_counter() - begin))
                latencies[mode] += seconds
            print({mode: f"{rate[-1]:.1f}" for mode, rate in rates.items()}, flush=True)
    first = median(rates["8 clients, one thread"])
    rows = [
        [
            mode,
            f"{median(rates[mode]):.1f}",
            f"{median(rates[mode]) / first:.2f}",
            f"{1000 * median(latencies[mode]):.0f}",
            f"{1000 * quantiles(latencies[mode], n=20)[-1]:.0f}",
        ]
        for mode in _MODES
    ]
    head = ["clients and server", "images per second", "relative to one thread", "median ms", "95th percentile ms"]
    write_section(
        "serving",
        f"JPEGs of {_SIZE}x{_SIZE}, one in each request, to {_NETWORK} behind the inference server with one worker. "
        f"Clients run on the same cores. Medians of {_NUM_ROUNDS} runs of {_SECONDS:g} s, in turn.\n\n"
        f"{table(head, rows)}",
    )
