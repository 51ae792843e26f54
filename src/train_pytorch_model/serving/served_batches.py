"""Computes images of concurrent requests together, in one thread, with a limit on the requests that wait.

It is copied into each trained model.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, Callable

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

_Row = list[float]


class BusyError(Exception):
    """There are too many requests; the message says so."""


class Batches:
    """Puts images that wait at the same time into one batch. A batch begins as soon as the one before it ends."""

    def __init__(
        self,
        compute: Callable[[list[torch.Tensor]], list[_Row]],
        *,
        max_images: int,
        max_pixels: int,
        max_requests: int,
        max_wait_seconds: float,
    ) -> None:
        """Keep the limits. The thread starts with the first image, because a server may fork after loading the model.

        Args:
            compute: computes a row for each image of a list; it is called in one thread only.
            max_images: the largest number of images in a batch.
            max_pixels: the largest number of pixels in a batch of more than one image.
            max_requests: the largest number of requests at once.
            max_wait_seconds: how long an image may wait for its batch to begin.
        """
        self._compute = compute
        self._max_images = max_images
        self._max_pixels = max_pixels
        self._max_requests = max_requests
        self._max_wait_seconds = max_wait_seconds
        self._places = threading.BoundedSemaphore(max_requests)
        self._changed = threading.Condition()
        self._waiting: deque[tuple[torch.Tensor, Future[_Row]]] = deque()
        self._thread: threading.Thread | None = None

    @property
    def num_waiting(self) -> int:
        """The number of images whose batch has not begun."""
        return len(self._waiting)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take one of the places for requests, for as long as the block lasts.

        Raises:
            BusyError: if all places are taken.
        """
        if not self._places.acquire(blocking=False):
            raise BusyError(f"the server is busy: {self._max_requests} requests are being answered; try again later")
        try:
            yield
        finally:
            self._places.release()

    def compute(self, images: list[torch.Tensor]) -> list[_Row]:
        """Compute a row for each image, together with the images of other requests.

        Args:
            images: pixels, uint8 of shape (height, width, 3) each.

        Raises:
            BusyError: if an image has waited too long for its batch to begin.
            Exception: what the computation of the batch of an image raised.
        """
        futures: list[Future[_Row]] = [Future() for _ in images]
        with self._changed:
            self._waiting.extend(zip(images, futures))
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
                self._thread.start()
            self._changed.notify()
        try:
            _, late = wait(futures, self._max_wait_seconds)
            if any(future.cancel() for future in late):
                raise BusyError(f"the server is busy: an image waited {self._max_wait_seconds:g} s; try again later")
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def _run(self) -> None:
        while True:
            self._compute_batch(self._next_batch())

    def _next_batch(self) -> list[tuple[torch.Tensor, Future[_Row]]]:
        """The image that has waited longest, and others of its size."""
        batch: list[tuple[torch.Tensor, Future[_Row]]] = []
        with self._changed:
            self._changed.wait_for(lambda: self._waiting)
            others: deque[tuple[torch.Tensor, Future[_Row]]] = deque()
            limit = 1
            for image, future in self._waiting:
                if batch and (len(batch) == limit or image.shape != batch[0][0].shape):
                    others.append((image, future))
                elif future.set_running_or_notify_cancel():
                    batch.append((image, future))
                    limit = min(self._max_images, max(1, self._max_pixels // (image.shape[0] * image.shape[1])))
            self._waiting = others
        return batch

    def _compute_batch(self, batch: list[tuple[torch.Tensor, Future[_Row]]]) -> None:
        if not batch:  # all of them were cancelled
            return
        try:
            rows = self._compute([image for image, _ in batch])
        except BaseException as error:  # each request reports it
            for _, future in batch:
                future.set_exception(error)
        else:
            for (_, future), row in zip(batch, rows):
                future.set_result(row)
