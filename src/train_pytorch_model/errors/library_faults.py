"""What an error of PyTorch or of its libraries means, by its words."""

from __future__ import annotations

_OUT_OF_MEMORY = (
    *("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "bad_alloc"),
    "out of shared memory",
    "could not create a primitive",  # oneDNN, when there is no memory for its code
    *("cudaerrormemoryallocation", "alloc_failed", "allocation_failed"),  # CUDA, cuBLAS, cuDNN and cuSOLVER
    # cuDNN finds no algorithm whose workspace fits.
    *("unable to find an engine to execute this computation", "unable to find a valid cudnn algorithm"),
)
_DEVICE_FAULTS = ("CUDA error", "cuDNN error", "CUDNN_STATUS", "CUBLAS_STATUS", "CUSOLVER_STATUS", "cuFFT error")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that host or device memory ran out."""
    if isinstance(error, MemoryError):
        return True
    # Without oneDNN's words for an operation that it does not have.
    text = str(error).lower().replace("a primitive descriptor", "")
    # PyTorch's allocator asks NVML for details of the fault, which some containers do not have.
    is_undescribed = "nvml_success ==" in text and "cudacachingallocator" in text
    return isinstance(error, (RuntimeError, OSError)) and (
        is_undescribed or any(words in text for words in _OUT_OF_MEMORY)
    )


def is_device_fault(error: BaseException) -> bool:
    """Return whether an error comes from CUDA or its libraries, and so neither from the data nor from the network."""
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _DEVICE_FAULTS)
