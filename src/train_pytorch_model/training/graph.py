"""The training step as one CUDA graph: one launch replaces hundreds, which limit the speed of small batches."""

from __future__ import annotations

import gc
import logging
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Callable

import torch

from train_pytorch_model.training.recomputation import without_random_state

if TYPE_CHECKING:
    from collections.abc import Iterator

    from train_pytorch_model.distributed.world import World
    from train_pytorch_model.training.step import TrainingStep

logger = logging.getLogger(__name__)

# A step must run before it can be captured: libraries choose their kernels and the optimizer allocates its buffers.
NUM_WARM_UP_STEPS = 3

# DistributedDataParallel arranges and times its buckets in the first steps.
_NUM_WARM_UP_STEPS_OF_SEVERAL = 11

# A capture takes as long as a few steps. With fewer steps than this, it does not pay off.
_MIN_STEPS = 20

Replay = Callable[[], None]
Capture = Callable[[Callable[[], None]], Replay]


def use_cuda_graph(wanted: str, device: torch.device, num_steps: int, *, is_known: bool, is_alone: bool = True) -> bool:
    """Return whether steps run as a CUDA graph; log a warning if "on" cannot be satisfied.

    Args:
        wanted: "on", "off", or "auto" to use a graph where it pays off.
        device: the device to train on.
        num_steps: the number of full batches in the whole training.
        is_known: whether the network comes from a supported library. Other networks may branch on their data, and a
            graph would replay the first branch forever.
        is_alone: whether a single process trains. The communication of several is captured only on request, and only
            for known networks: finding unused parameters cannot be captured.
    """
    obstacle = ""
    if device.type != "cuda":
        obstacle = "requires a GPU"
    elif not (is_alone or is_known):
        obstacle = "with several processes, requires a network of torchvision or timm"
    if obstacle or wanted == "off":
        if wanted == "on":
            logger.warning("--cuda-graph on: %s. Training continues without CUDA graphs.", obstacle)
        return False
    return wanted == "on" or (is_known and is_alone and num_steps >= _MIN_STEPS)


class CapturedStep:
    """A training step that replays a CUDA graph for batches of the usual size.

    The warm-up steps before the capture train the network too, so the weights are the same with and without a graph.
    A batch of another size (the last of an epoch) runs without the graph, and so do all batches if the capture fails.
    """

    def __init__(
        self, step: TrainingStep, batch_size: int, capture: Capture | None = None, world: World | None = None
    ) -> None:
        """Create a step that is not captured yet.

        Args:
            step: the step to capture.
            batch_size: images in the batches that are replayed.
            capture: captures a function and returns a function that replays it; by default `capture_cuda_graph`.
            world: the processes that train together, which all capture the step or none; by default this one alone.
        """
        self._step = step
        self._batch_size = batch_size
        self._capture = capture or capture_cuda_graph
        self._world = world
        is_alone = world is None or world.is_alone
        self._num_warm_up_steps = NUM_WARM_UP_STEPS if is_alone else _NUM_WARM_UP_STEPS_OF_SEVERAL
        self._num_steps = 0
        self._replay: Replay | None = None
        self._has_failed = False

    @property
    def is_captured(self) -> bool:
        """Whether the step has been captured, so that it is replayed."""
        return self._replay is not None

    def __call__(self, pixels: torch.Tensor, labels: torch.Tensor, weight: float = 1.0) -> None:
        """Train on one batch; see `TrainingStep`."""
        if len(labels) != self._batch_size or weight != 1 or self._has_failed:
            self._step(pixels, labels, weight)
        elif self._replay is not None:
            self._pixels.copy_(pixels)
            self._labels.copy_(labels)
            self._replay()
        elif self._num_steps < self._num_warm_up_steps:
            self._num_steps += 1
            self._run_on_side_stream(lambda: self._step(pixels, labels))
        else:
            self._record(pixels, labels)
            self(pixels, labels)

    def _run_on_side_stream(self, work: Callable[[], None]) -> None:
        """Run a warm-up step or the capture on a stream other than the default one, as PyTorch requires."""
        if self._step.device.type != "cuda":
            work()
            return
        if torch.cuda.current_stream() != torch.cuda.default_stream():
            work()
            return
        with side_stream(self._step.device):
            work()

    def _record(self, pixels: torch.Tensor, labels: torch.Tensor) -> None:
        """Capture the step in all processes, or in none."""
        # A graph reads its inputs from fixed addresses.
        self._pixels, self._labels = pixels.clone(), labels.clone()
        reason = self._try_capture()
        if self._world is not None:
            reason = max(self._world.gather(reason))
        if not reason:
            logger.info("Captured the training step for batches of %d images as a CUDA graph.", self._batch_size)
            return
        logger.warning("The CUDA graph could not be captured, and training continues without it: %s", reason)
        self._has_failed = True
        self._replay = None
        del self._pixels, self._labels
        self._step.discard()
        free_cached_memory(pixels.device)
        if self._world is not None and not self._world.is_alone:
            self._step.dry_run(pixels, labels)

    def _try_capture(self) -> str:
        """Capture the step; return why it could not be captured, "" if it could."""

        def capture() -> None:
            self._replay = self._capture(lambda: self._step(self._pixels, self._labels))

        try:
            with without_random_state(self._step.network):
                self._run_on_side_stream(capture)
        except Exception as error:  # networks may do anything that cannot be captured
            return f"{type(error).__name__}: {error}".strip().splitlines()[0]
        return ""


def capture_cuda_graph(work: Callable[[], None]) -> Replay:
    """Capture the kernels that `work` launches on the current stream, without running them; return their replay.

    The current stream must not be the default stream of the GPU. When the capture fails, the allocator, the stream and
    the random number generator are as they were before it.

    Raises:
        RuntimeError: when `work` contains an operation that cannot be captured, such as waiting for the device.
            Other errors of `work` are raised too.
    """
    device, stream = torch.cuda.current_device(), torch.cuda.current_stream()
    graph = torch.cuda.CUDAGraph()
    pool = torch.cuda.graph_pool_handle()
    generator = torch.cuda.default_generators[device]
    state = generator.clone_state()
    free_cached_memory(torch.device("cuda", device))
    fault: BaseException | None = None
    try:
        # thread_local: other threads pin memory for later batches, which must not invalidate this capture.
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            work()
        except BaseException as error:
            fault = error
        torch.cuda.set_stream(stream)  # an aborted block may have left another one
        graph.capture_end()
    except Exception as error:
        # The error of `work`, if there is one, is the cause of this one.
        fault = fault or error
        _end_allocation(device, pool)
        _failed.append(graph)
    if fault is None:
        return graph.replay
    generator.graphsafe_set_state(state)  # the other state may still be in capture mode
    try:
        raise fault
    finally:
        del fault  # its traceback refers to this frame: the tensors of `work` would stay until garbage is collected


_failed: list[torch.cuda.CUDAGraph] = []
"""Graphs whose capture could not be ended. The allocator of pinned memory may still refer to them."""


def _end_allocation(device: int, pool: tuple[int, int]) -> None:
    """End the allocation to the pool of a capture that could not be ended, and let its memory be freed.

    `capture_end` raises an error before it does so; see PyTorch's issues 180395 and 190348. Until then `empty_cache`
    and the allocator's own retries free nothing.
    """
    with suppress(RuntimeError):  # it has been ended
        torch._C._cuda_endAllocateToPool(device, pool)
    with suppress(RuntimeError):  # it has never begun
        torch._C._cuda_releasePool(device, pool)


def free_cached_memory(device: torch.device) -> None:
    """Free the tensors that nothing uses, and return the memory of a GPU that PyTorch caches."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the same stream in all trainings of the process: cuBLAS keeps 32 MiB for each stream that it has seen."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@contextmanager
def side_stream(device: torch.device) -> Iterator[None]:
    """Run a block on another stream of a GPU than the default one, of which PyTorch captures no work."""
    if device.type != "cuda":
        yield
        return
    outer = torch.cuda.current_stream(device)
    stream = _side_stream(device)
    stream.wait_stream(outer)
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        with suppress(RuntimeError):  # the GPU has failed, and the error of the block says how
            outer.wait_stream(stream)
