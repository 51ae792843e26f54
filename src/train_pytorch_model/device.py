"""Where the training runs, and how repeatably."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from train_pytorch_model.errors import UserError


def choose_device() -> torch.device:
    """The first GPU where there is one, else the CPU, set up so that the same run gives the same bits.

    On a GPU, operators without a deterministic kernel warn instead of failing.
    """
    # cuBLAS reads this when its first handle is made; any later is too late.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing here reads memory before writing it
    torch.backends.cudnn.benchmark = False
    # Float32 means float32: TF32 keeps 10 bits of the mantissa, and Score Image Model would say something else.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


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


def check_single_process() -> None:
    """Refuse to be one of several processes: each would train the whole model and write the same output.

    Raises:
        UserError: when the launcher started more than one process.
    """
    for name in ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"):
        value = os.environ.get(name, "1")
        if value.isdigit() and int(value) > 1:
            raise UserError(
                f"{name} says that {value} processes were started, but this version trains in one. "
                "Start one process on one node."
            )
