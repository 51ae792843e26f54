"""The training step as one CUDA graph: one launch replaces hundreds, which limit the speed of small batches."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Callable

import torch

if TYPE_CHECKING:
    from train_pytorch_model.training.step import TrainingStep

logger = logging.getLogger(__name__)

# A step must run before it can be captured: libraries choose their kernels and the optimizer allocates its buffers.
NUM_WARM_UP_STEPS = 3

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
        is_alone: whether a single process trains. Communication between processes is not captured.
    """
    if wanted == "on" and device.type != "cuda":
        logger.warning("--cuda-graph on: requires a GPU. Training continues without CUDA graphs.")
    if wanted == "on" and not is_alone:
        logger.warning("--cuda-graph on: not supported with several processes. Training continues without CUDA graphs.")
    if device.type != "cuda" or wanted == "off" or not is_alone:
        return False
    return wanted == "on" or (is_known and num_steps >= _MIN_STEPS)


class CapturedStep:
    """A training step that replays a CUDA graph for batches of the usual size.

    The warm-up steps before the capture train the network too, so the weights are the same with and without a graph.
    A batch of another size (the last of an epoch) runs without the graph, and so do all batches if the capture fails.
    """

    def __init__(self, step: TrainingStep, batch_size: int, capture: Capture | None = None) -> None:
        """Create a step that is not captured yet.

        Args:
            step: the step to capture.
            batch_size: images in the batches that are replayed.
            capture: captures a function and returns a function that replays it; by default `capture_cuda_graph`.
        """
        self._step = step
        self._batch_size = batch_size
        self._capture = capture or capture_cuda_graph
        self._num_steps = 0
        self._stream: torch.cuda.Stream | None = None
        self._replay: Replay | None = None
        self._has_failed = False

    def __call__(self, pixels: torch.Tensor, labels: torch.Tensor, weight: float = 1.0) -> None:
        """Train on one batch; see `TrainingStep`."""
        if len(labels) != self._batch_size or weight != 1 or self._has_failed:
            self._step(pixels, labels, weight)
        elif self._replay is not None:
            self._pixels.copy_(pixels)
            self._labels.copy_(labels)
            self._replay()
        elif self._num_steps < NUM_WARM_UP_STEPS:
            self._num_steps += 1
            self._run_on_side_stream(pixels, labels)
        else:
            self._record(pixels, labels)
            self(pixels, labels)

    def _run_on_side_stream(self, pixels: torch.Tensor, labels: torch.Tensor) -> None:
        """Run a warm-up step on a side stream, as PyTorch requires before a capture."""
        if not pixels.is_cuda:
            self._step(pixels, labels)
            return
        self._stream = self._stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._step(pixels, labels)
        torch.cuda.current_stream().wait_stream(self._stream)

    def _record(self, pixels: torch.Tensor, labels: torch.Tensor) -> None:
        # A graph reads its inputs from fixed addresses.
        self._pixels, self._labels = torch.empty_like(pixels), torch.empty_like(labels)
        try:
            self._replay = self._capture(lambda: self._step(self._pixels, self._labels))
        except Exception as error:  # networks may do anything that cannot be captured
            self._has_failed = True
            reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            logger.warning("The CUDA graph could not be captured, and training continues without it: %s", reason)
        else:
            logger.info("Captured the training step for batches of %d images as a CUDA graph.", self._batch_size)


def capture_cuda_graph(work: Callable[[], None]) -> Replay:
    """Capture the kernels that `work` launches on the current GPU, without running them; return their replay.

    Raises:
        RuntimeError: when `work` contains an operation that cannot be captured, such as waiting for the device.
    """
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.current_stream()
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    state = generator.clone_state()
    try:
        # thread_local: other threads pin memory for later batches, which must not invalidate this capture.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            work()
    except Exception as error:
        # An aborted capture leaves its stream current and the generator in capture mode.
        torch.cuda.set_stream(stream)
        generator.graphsafe_set_state(state)
        # Ending the capture raises an error of its own; its context is the actual cause.
        raise error.__context__ or error from None
    return graph.replay
