"""A GPU that computes nothing, on a machine without one: shapes and devices are right, and all values are 1.

It fails where a GPU would: operators whose tensors are on different devices, and operators that have no deterministic
kernel. It writes down where the host would wait for the GPU. The backward pass makes gradients without computing them.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from train_pytorch_model.training import loop, rehearsal
from train_pytorch_model.training.precision import Precision
from train_pytorch_model.training.step import TrainingStep

DEVICE = torch.device("cuda", 0)

# From PyTorch's documentation of `use_deterministic_algorithms`.
_WITHOUT_DETERMINISTIC_KERNEL = {
    *("cumsum", "cumsum_", "histc", "kthvalue", "median", "put_", "scatter_reduce", "scatter_reduce_", "resize_"),
    *("grid_sampler_2d_backward", "upsample_bilinear2d_backward", "upsample_bicubic2d_backward", "embedding_bag"),
}


class FakeGpu(TorchDispatchMode):
    """Runs operators of tensors on the GPU without their data, and those of the host as ever."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: set[tuple[str, ...]] = set()
        """Where the host waits for the GPU: the functions of this package, the outermost first."""
        self.names: set[str] = set()
        """The operators that run on the GPU."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        target = kwargs.get("device")
        is_to_gpu = target is not None and torch.device(target).type == "cuda"
        if not (is_to_gpu or any(map(_is_fake, tensors))):
            with unset_fake_temporarily():
                return function(*args, **kwargs)
        name = function.overloadpacket.__name__
        assert name not in _WITHOUT_DETERMINISTIC_KERNEL, name
        self.names.add(name)
        if name == "_local_scalar_dense":
            self._wait()
            return 1.0 if tensors[0].is_floating_point() else 1
        if name == "nonzero":
            return torch.stack([place for place in self._places(tensors[0]) if place is not None], 1).to(DEVICE)
        if name in ("_fused_sgd_", "_fused_adamw_"):  # which have no fake kernels
            assert all(tensor.device == DEVICE for tensor in tensors)
            return None
        if name == "_to_copy" and target is not None and not is_to_gpu:
            if not kwargs.get("non_blocking"):
                self._wait()
            with unset_fake_temporarily():
                return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if name == "copy_" and not _is_fake(args[0]):
            self._wait()
            return args[0]
        is_from_host = (is_to_gpu or name == "copy_") and not all(map(_is_fake, tensors))
        if is_from_host and not (kwargs.get("non_blocking") or args[2:] == (True,)):
            self._wait()
        if name == "index":
            args = (args[0], [place for index in args[1] for place in self._places(index)])
        return function(*args, **kwargs)

    def _places(self, index: torch.Tensor | None) -> Iterator[torch.Tensor | None]:
        """Yield an index as it is, and of a mask the places of all elements."""
        if index is None or index.dtype != torch.bool:
            yield index
            return
        self._wait()
        with unset_fake_temporarily():
            yield from torch.ones(index.shape).nonzero().unbind(1)

    def _wait(self) -> None:
        frames = traceback.extract_stack()
        self.waits.add(tuple(frame.name for frame in frames if "/train_pytorch_model/" in frame.filename))


def _is_fake(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, FakeTensor)


@contextmanager
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    """Let this block train on a GPU that computes nothing."""

    def backward(loss: torch.Tensor) -> None:
        assert loss.device == DEVICE
        for parameter in _trained[-1]:
            if parameter.requires_grad:
                parameter.grad = torch.empty_like(parameter)

    _trained: list[list[nn.Parameter]] = []
    made = TrainingStep.__init__

    def make(step: TrainingStep, *args: Any, **kwargs: Any) -> None:
        made(step, *args, **kwargs)
        _trained.append(step._parameters)
        step._optimizer._need_device_dtype_check_for_fused = False

    monkeypatch.setattr(TrainingStep, "__init__", make)
    monkeypatch.setattr(torch.Tensor, "backward", backward)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    # Parameters without data cannot change their memory format.
    monkeypatch.setattr(nn.Module, "to", lambda module, *args, **kwargs: module)
    monkeypatch.setattr(torch.Tensor, "__deepcopy__", lambda tensor, memo: tensor.detach().clone())
    for name in ("synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.get_rng_state())
    monkeypatch.setattr(torch.random, "fork_rng", lambda *_: nullcontext())
    monkeypatch.setattr(Precision, "context", lambda self: nullcontext())
    monkeypatch.setattr(loop, "side_stream", lambda device: nullcontext())
    monkeypatch.setattr(rehearsal, "require_determinism", lambda: None)
    with FakeTensorMode(allow_non_fake_inputs=True), FakeGpu() as gpu:
        yield gpu
