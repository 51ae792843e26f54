"""Stands where CUDA graphs do, on a CPU: the operators of a step are recorded once, and replayed without Python.

A replay runs the same operators with the same numbers on the tensors at the same addresses. So a value of Python that
changes between steps, such as a learning rate, and a tensor that is replaced by another one, show as wrong weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from train_pytorch_model.training import optimizers
from train_pytorch_model.training.step import TrainingStep


class _Recorder(TorchDispatchMode):
    """Writes down the operators that run, with their arguments and results."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, list[torch.Tensor]]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        results = function(*args, **kwargs)
        given = {_storage(tensor) for tensor in _tensors((args, kwargs))}
        # Results in the memory of an argument are views of it, or the argument itself.
        new = [tensor if _storage(tensor) not in given else None for tensor in _tensors(results)]
        self.calls.append((function, args, kwargs, new))
        return results


class RecordedGraph:
    """A `Capture` of the steps of a `TrainingStep`."""

    def __init__(self, step: TrainingStep) -> None:
        self.num_replays = 0
        self._step = step

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        # A capture runs nothing.
        kept = list(_state(self._step))
        before, random = [tensor.clone() for tensor in kept], torch.get_rng_state()
        with _Recorder() as recorder:
            work()
        with torch.no_grad():
            for tensor, values in zip(kept, before):
                tensor.copy_(values)
        torch.set_rng_state(random)

        @torch.no_grad()
        def replay() -> None:
            self.num_replays += 1
            for function, args, kwargs, new in recorder.calls:
                for tensor, result in zip(new, _tensors(function(*args, **kwargs))):
                    if tensor is not None:
                        tensor.copy_(result)

        return replay


def build_optimizer_of_gpu(*args: Any) -> torch.optim.Optimizer:
    """Build an optimizer on the CPU that holds in tensors what it holds there on a GPU."""
    optimizer = optimizers.build_optimizer(*args)
    for group in optimizer.param_groups:
        group["lr"] = torch.zeros(())
    return optimizer


def _state(step: TrainingStep) -> Iterator[torch.Tensor]:
    """Yield all that a step changes."""
    yield from (step.loss, step.sums.totals, *step.optimizer_tensors)
    yield from step.network.state_dict().values()
    yield from step.average.tensors if step.average is not None else ()
    if step.scaler.is_enabled():
        yield from (step.scaler._scale, step.scaler._growth_tracker)


def _tensors(values: Any) -> list[torch.Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
