"""Where the training runs, and how repeatably."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from train_pytorch_model.data.threads import num_cores

if TYPE_CHECKING:
    from collections.abc import Sequence


def choose_device(local_rank: int = 0) -> torch.device:
    """The GPU of this process where there is one, else the CPU, set up so that the same run gives the same bits.

    On a GPU, operators without a deterministic kernel warn instead of failing.

    Args:
        local_rank: of the process on its node. A launcher may show each process its own GPU alone, which is then the
            first for all of them.
    """
    # cuBLAS reads this when its first handle is made; any later is too late.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing here reads memory before writing it
    torch.backends.cudnn.benchmark = False
    # Float32 means float32: TF32 keeps 10 bits of the mantissa, and Score Image Model would say something else.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def fast_half_precision(device: torch.device) -> torch.dtype | None:
    """The 16-bit type that the hardware multiplies fast, None when there is none.

    bfloat16 on GPUs from Ampere on and on CPUs with AMX or AVX512-BF16; float16 on Volta and Turing (V100, T4).
    """
    if device.type == "cuda":
        major, _ = torch.cuda.get_device_capability(device)
        return torch.bfloat16 if major >= 8 else torch.float16 if major == 7 else None
    return torch.bfloat16 if _cpu_flags() & {"amx_bf16", "avx512_bf16"} else None


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith("flags") for flag in line.partition(":")[2].split()}


def name_of_device(device: torch.device) -> str:
    """A device for reading."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {num_cores()} cores"


def gpu_memory(device: torch.device) -> tuple[int, int] | None:
    """Bytes of a GPU's memory that are taken, by whomever, and all that it has; None for a CPU."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return total - free, total


def gpu_identity(device: torch.device) -> str | None:
    """What tells a GPU from every other, whatever number it goes by in this process; None for a CPU."""
    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else None


def find_shared_gpus(identities: Sequence[tuple[str, str | None]]) -> str:
    """Processes that have a GPU together, in words; empty when each has its own.

    Args:
        identities: of each process in the order of ranks, its host and its GPU, None for a CPU.
    """
    ranks: dict[tuple[str, str], list[int]] = {}
    for rank, (host, gpu) in enumerate(identities):
        if gpu is not None:
            ranks.setdefault((host, gpu), []).append(rank)
    return "; ".join(
        f"processes {' and '.join(map(str, users))} on {host.split()[0]}"
        for (host, _), users in ranks.items()
        if len(users) > 1
    )
