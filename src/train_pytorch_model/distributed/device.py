"""The device to train on, and the process-wide settings of PyTorch."""

from __future__ import annotations

import os
import random
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Callable

import numpy as np
import torch

from train_pytorch_model.data.threads import num_cores

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Variables that this package sets for libraries that it loads.
_VARIABLES = ("CUBLAS_WORKSPACE_CONFIG", "TORCH_NCCL_ASYNC_ERROR_HANDLING")

# PyTorch's attention kernels that are deterministic only where operators that are not are errors, or never.
_ATTENTION: tuple[tuple[Callable[[], bool], Callable[[bool], None]], ...] = (
    (torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.enable_flash_sdp),
    (torch.backends.cuda.mem_efficient_sdp_enabled, torch.backends.cuda.enable_mem_efficient_sdp),
    (torch.backends.cuda.cudnn_sdp_enabled, torch.backends.cuda.enable_cudnn_sdp),
)


def choose_device(local_rank: int = 0) -> torch.device:
    """Return the GPU of this process, or the CPU if there is none, and make PyTorch deterministic.

    The settings apply to the whole process; `torch_settings_restored` undoes them. On a GPU, operators without a
    deterministic kernel warn instead of failing.

    Args:
        local_rank: of the process on its node. Some launchers show each process only its own GPU, which then has
            number 0 in all of them.
    """
    # cuBLAS reads this variable when its first handle is created.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Nothing in this package reads memory before writing it.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    # TF32 has 10 bits of mantissa, and results would differ from those of Score Image Model.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def require_determinism() -> None:
    """Make operators without a deterministic kernel fail. Only then does PyTorch's attention use deterministic ones."""
    torch.use_deterministic_algorithms(True)


def prefer_determinism() -> None:
    """Make operators without a deterministic kernel warn, and compute attention by operators that have one."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    for _, enable in _ATTENTION:
        enable(False)


@contextmanager
def nondeterminism_allowed() -> Iterator[None]:
    """Inside the block, operators without a deterministic kernel warn, as after `choose_device`."""
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    is_warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(is_deterministic, warn_only=is_warn_only)


@contextmanager
def torch_settings_restored() -> Iterator[None]:
    """Restore what a training changes in the process when the block ends.

    These are the settings of PyTorch that `choose_device` and `connected` change, the number of threads, the current
    GPU, the environment variables for its libraries, and the random number generators of Python, NumPy and PyTorch.
    """
    variables = {name: os.environ.get(name) for name in _VARIABLES}
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    is_warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fills_memory = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    is_benchmarked = torch.backends.cudnn.benchmark
    cudnn_tf32, matmul_tf32 = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    attention = [is_enabled() for is_enabled, _ in _ATTENTION]
    num_threads = torch.get_num_threads()
    had_cuda = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    gpu = torch.cuda.current_device() if had_cuda else 0
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if had_cuda else []
    try:
        yield
    finally:
        for name, value in variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        torch.use_deterministic_algorithms(is_deterministic, warn_only=is_warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = fills_memory  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = is_benchmarked
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = cudnn_tf32, matmul_tf32
        for (_, enable), is_enabled in zip(_ATTENTION, attention):
            enable(is_enabled)
        if torch.get_num_threads() != num_threads:
            torch.set_num_threads(num_threads)
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
        if had_cuda:
            torch.cuda.set_device(gpu)
            torch.cuda.set_rng_state_all(cuda_states)
        elif torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            # As PyTorch would have seeded the GPUs if they were first used after the block.
            torch.cuda.manual_seed_all(torch.initial_seed())


def fast_half_precision(device: torch.device) -> torch.dtype | None:
    """Return the 16-bit type that the hardware multiplies fast; None if there is none.

    This is bfloat16 on GPUs since Ampere and on CPUs with AMX or AVX512-BF16, and float16 on Volta and Turing (V100,
    T4).
    """
    if device.type == "cuda":
        major, _ = torch.cuda.get_device_capability(device)
        return torch.bfloat16 if major >= 8 else torch.float16 if major == 7 else None
    return torch.bfloat16 if _cpu_flags() & {"amx_bf16", "avx512_bf16"} else None


def has_amx() -> bool:
    """Return whether the CPU multiplies matrices of bfloat16 with AMX."""
    return "amx_bf16" in _cpu_flags()


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith("flags") for flag in line.partition(":")[2].split()}


def name_of_device(device: torch.device) -> str:
    """Return a readable name: the product name of a GPU, or the number of CPU cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {num_cores()} cores"


def gpu_memory(device: torch.device) -> tuple[int, int] | None:
    """Return the used and the total memory of a GPU in bytes, over all processes; None for a CPU."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return total - free, total


def free_gpu_memory(device: torch.device) -> int:
    """Return the memory of a GPU in bytes that this process may still allocate."""
    free, total = torch.cuda.mem_get_info(device)
    allowed = torch.cuda.get_per_process_memory_fraction(device) * total - torch.cuda.memory_reserved(device)
    return max(0, min(free, int(allowed)))


def gpu_identity(device: torch.device) -> str | None:
    """Return the UUID of a GPU, which does not depend on its number in this process; None for a CPU."""
    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else None


def find_shared_gpus(identities: Sequence[tuple[str, str | None]]) -> str:
    """Describe which processes use the same GPU; return "" if each has its own.

    Args:
        identities: host and GPU of each process, in order of ranks; None for a CPU.
    """
    ranks: dict[tuple[str, str], list[int]] = {}
    for rank, (host, gpu) in enumerate(identities):
        if gpu is not None:
            ranks.setdefault((host, gpu), []).append(rank)
    return "; ".join(
        f"ranks {' and '.join(map(str, users))} on {host.split()[0]}"
        for (host, _), users in ranks.items()
        if len(users) > 1
    )
