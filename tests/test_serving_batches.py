"""Images of concurrent requests are computed together, with limits."""

from __future__ import annotations

import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from tests.serving_sources import served_batches

Batches = served_batches.Batches
BusyError = served_batches.BusyError


class Recorder:
    """A computation that returns the first value of each image, and waits for its turn."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.may_compute = threading.Event()
        self.has_begun = threading.Event()

    def __call__(self, images: list[torch.Tensor]) -> list[list[float]]:
        self.sizes.append(len(images))
        self.has_begun.set()
        assert self.may_compute.wait(20)
        if any(image.shape[0] == 13 for image in images):
            raise ValueError("thirteen")
        return [[float(image[0, 0, 0])] for image in images]


def make(compute: Any, **limits: Any) -> Any:
    given = {"max_images": 4, "max_pixels": 10_000, "max_requests": 32, "max_wait_seconds": 20.0, **limits}
    return Batches(compute, **given)


def picture(value: int, side: int = 8) -> torch.Tensor:
    return torch.full((side, side, 3), value, dtype=torch.uint8)


def wait_until_waiting(batches: Any, count: int) -> None:
    for _ in range(2000):
        if batches.num_waiting == count:
            return
        threading.Event().wait(0.01)
    raise AssertionError("the images do not wait")


def run_together(batches: Any, recorder: Recorder, requests: list[list[torch.Tensor]]) -> list[list[list[float]]]:
    """Send a first request, and the others while it is being computed."""
    with ThreadPoolExecutor(len(requests)) as pool:
        first = pool.submit(batches.compute, requests[0])
        assert recorder.has_begun.wait(20)
        later = []
        for request in requests[1:]:
            later.append(pool.submit(batches.compute, request))
            wait_until_waiting(batches, sum(len(earlier) for earlier in requests[1 : len(later) + 1]))
        recorder.may_compute.set()
        return [future.result(20) for future in (first, *later)]


def test_images_that_wait_are_computed_together_and_each_request_gets_its_own_rows() -> None:
    recorder = Recorder()
    requests = [[picture(1)], [picture(2)], [picture(3), picture(4)], [picture(5)], [picture(6)]]
    answers = run_together(make(recorder), recorder, requests)
    assert answers == [[[1.0]], [[2.0]], [[3.0], [4.0]], [[5.0]], [[6.0]]]
    assert recorder.sizes == [1, 4, 1]


def test_images_of_another_size_have_a_batch_of_their_own() -> None:
    recorder = Recorder()
    requests = [[picture(1)], [picture(2), picture(3, side=9)], [picture(4, side=9)], [picture(5)]]
    answers = run_together(make(recorder), recorder, requests)
    assert answers == [[[1.0]], [[2.0], [3.0]], [[4.0]], [[5.0]]]
    assert recorder.sizes == [1, 2, 2]


def test_a_batch_of_large_images_has_fewer_of_them() -> None:
    recorder = Recorder()
    run_together(make(recorder, max_pixels=130), recorder, [[picture(0)], *([picture(n)] for n in range(5))])
    assert recorder.sizes == [1, 2, 2, 1]
    recorder = Recorder()
    run_together(make(recorder, max_pixels=1), recorder, [[picture(0)], [picture(1)], [picture(2)]])
    assert recorder.sizes == [1, 1, 1]


def test_an_error_reaches_the_requests_of_its_batch_only() -> None:
    recorder = Recorder()
    recorder.may_compute.set()
    batches = make(recorder)
    for _ in range(2):
        with pytest.raises(ValueError, match="thirteen"):
            batches.compute([picture(1), picture(2, side=13)])
        assert batches.compute([picture(3)]) == [[3.0]]


def test_more_requests_than_places_are_refused_at_once() -> None:
    batches = make(Recorder(), max_requests=2)
    with batches.place(), batches.place(), pytest.raises(BusyError, match="2 requests are being"), batches.place():
        pass
    with batches.place():
        pass


def test_an_image_does_not_wait_for_ever() -> None:
    recorder = Recorder()
    batches = make(recorder, max_wait_seconds=2.0)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(batches.compute, [picture(1)])
        assert recorder.has_begun.wait(20)
        with pytest.raises(BusyError, match=r"an image waited 2 s"):
            batches.compute([picture(2)])
        recorder.may_compute.set()
        assert first.result(20) == [[1.0]]  # what is being computed is waited for
    assert batches.compute([picture(3)]) == [[3.0]]
    assert recorder.sizes == [1, 1]  # nobody waits for the second image, so it is not computed


def _compute_in_child(batches: Any, queue: Any) -> None:
    queue.put(batches.compute([picture(7)]))


def test_a_server_may_fork_after_the_first_image() -> None:
    recorder = Recorder()
    recorder.may_compute.set()
    batches = make(recorder)
    assert batches.compute([picture(1)]) == [[1.0]]
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_compute_in_child, args=(batches, queue))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert queue.get() == [[7.0]]
