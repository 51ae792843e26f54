"""The step as one CUDA graph: one launch in place of hundreds, which a GPU waits for when batches are small."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Callable

import torch

if TYPE_CHECKING:
    from train_pytorch_model.training.step import TrainingStep

logger = logging.getLogger(__name__)

# Before it can be captured, a step must have run: libraries choose their kernels, the optimizer makes its buffers.
NUM_WARM_UP_STEPS = 3

# A capture takes as long as a few steps; fewer steps than this do not win it back.
_MIN_STEPS = 20

Replay = Callable[[], None]
Capture = Callable[[Callable[[], None]], Replay]


def use_cuda_graph(wanted: str, device: torch.device, num_steps: int, *, is_known: bool, is_alone: bool = True) -> bool:
    """Whether steps are to run as a CUDA graph, and a line in the log when that is not what was asked for.

    Args:
        wanted: "on", "off", or "auto" for where it pays.
        device: that trains.
        num_steps: of full batches in the whole training.
        is_known: whether the network is a library's. Another may decide something anew in each step, and a graph would
            hold the first decision for ever.
        is_alone: whether one process trains. What several exchange within a step is left out of graphs.
    """
    if wanted == "on" and device.type != "cuda":
        logger.warning("--cuda-graph on: there are no CUDA graphs on a CPU; steps run one by one.")
    if wanted == "on" and not is_alone:
        logger.warning("--cuda-graph on: with several processes there are no CUDA graphs; steps run one by one.")
    if device.type != "cuda" or wanted == "off" or not is_alone:
        return False
    return wanted == "on" or (is_known and num_steps >= _MIN_STEPS)


class CapturedStep:
    """Does what a step does, by replaying it for batches of the usual size.

    The steps before the capture are real ones, so the weights go the same way with and without it. A batch of another
    size (the last of an epoch) runs step by step, and so does everything when the capture fails.
    """

    def __init__(self, step: TrainingStep, batch_size: int, capture: Capture | None = None) -> None:
        """Make a step that captures itself.

        Args:
            step: to capture.
            batch_size: images in the batches to replay for.
            capture: records what a function launches and gives what launches it again; CUDA graphs when left out.
        """
        self._step = step
        self._batch_size = batch_size
        self._capture = capture or capture_cuda_graph
        self._num_steps = 0
        self._stream: torch.cuda.Stream | None = None
        self._replay: Replay | None = None
        self._has_failed = False

    def __call__(self, pixels: torch.Tensor, labels: torch.Tensor, weight: float = 1.0) -> None:
        """Learn from one batch; see `TrainingStep`."""
        if len(labels) != self._batch_size or weight != 1 or self._has_failed:
            self._step(pixels, labels, weight)
        elif self._replay is not None:
            self._pixels.copy_(pixels)
            self._labels.copy_(labels)
            self._replay()
        elif self._num_steps < NUM_WARM_UP_STEPS:
            self._num_steps += 1
            self._run_aside(pixels, labels)
        else:
            self._record(pixels, labels)
            self(pixels, labels)

    def _run_aside(self, pixels: torch.Tensor, labels: torch.Tensor) -> None:
        """Run a step on a stream of its own, as a graph will be captured on one."""
        if not pixels.is_cuda:
            self._step(pixels, labels)
            return
        self._stream = self._stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._step(pixels, labels)
        torch.cuda.current_stream().wait_stream(self._stream)

    def _record(self, pixels: torch.Tensor, labels: torch.Tensor) -> None:
        # What a graph reads lies at one address for ever.
        self._pixels, self._labels = torch.empty_like(pixels), torch.empty_like(labels)
        try:
            self._replay = self._capture(lambda: self._step(self._pixels, self._labels))
        except Exception as error:  # networks may do anything that no graph can hold
            self._has_failed = True
            reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            logger.warning("Steps run one by one, without a CUDA graph: %s", reason)
        else:
            logger.info("Steps of %d images run as one CUDA graph from here on.", self._batch_size)


def capture_cuda_graph(work: Callable[[], None]) -> Replay:
    """Record the kernels that `work` launches on the current GPU, without running them.

    Raises:
        RuntimeError: when `work` does what a graph cannot hold, such as waiting for the device.
    """
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.current_stream()
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    state = generator.clone_state()
    try:
        # Other threads pin memory for the batches to come, which is no fault of this capture.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            work()
    except Exception as error:
        # A capture that broke off leaves its stream current and the generator believing that it goes on.
        torch.cuda.set_stream(stream)
        generator.graphsafe_set_state(state)
        # Ending it raises an error of its own over the one that says why.
        raise error.__context__ or error from None
    return graph.replay
