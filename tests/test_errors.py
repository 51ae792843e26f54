from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch

from tests.making import Inputs
from train_pytorch_model.error_report import ERROR_INFO_PATH, write_error_info
from train_pytorch_model.errors import (
    FaultCollector,
    InvalidDatasetError,
    LessThanOrEqualToError,
    LibraryError,
    MultipleFaultsError,
    as_module_error,
)
from train_pytorch_model.errors.library_faults import is_out_of_memory


def test_error_info_has_the_form_that_the_designer_reads(tmp_path: Path) -> None:
    write_error_info(tmp_path, LessThanOrEqualToError("Batch size", 19, "train data count", 18))
    # The text that the retired module left in the same situation.
    assert json.loads((tmp_path / ERROR_INFO_PATH).read_text()) == {
        "Exception": {
            "ErrorId": "LessThanOrEqualTo",
            "ErrorCode": 7,
            "ExceptionType": "ModuleException",
            "Traceback": "",
            "Message": 'LessThanOrEqualTo: Parameter "Batch size" value 19 should be less than or equal to '
            "train data count value 18.",
        }
    }
    write_error_info(tmp_path, None)
    assert json.loads((tmp_path / ERROR_INFO_PATH).read_text()) == {"Exception": None}


def test_a_fault_that_is_not_the_users_is_a_library_exception(tmp_path: Path) -> None:
    write_error_info(tmp_path, LibraryError(KeyError("x")))
    report = json.loads((tmp_path / ERROR_INFO_PATH).read_text())["Exception"]
    assert (report["ErrorId"], report["ErrorCode"], report["ExceptionType"]) == ("KeyError", 1000, "LibraryException")
    assert report["Message"] == "Library Error - KeyError: 'x'"


def test_a_long_message_is_cut_so_that_the_service_takes_the_file(tmp_path: Path) -> None:
    write_error_info(tmp_path, InvalidDatasetError("Training dataset", "x" * 20_000))
    text = (tmp_path / ERROR_INFO_PATH).read_text()
    assert len(text) < 9000
    assert len(json.loads(text)["Exception"]["Message"]) == 4096


def test_faults_are_reported_together_under_the_name_of_the_first() -> None:
    faults = FaultCollector()
    for number in (1, 2):
        with faults.collecting():
            raise LessThanOrEqualToError("Batch size", number, "train data count", 0)
    with faults.collecting():
        raise InvalidDatasetError("Training dataset", "it is empty")
    with pytest.raises(MultipleFaultsError) as raised:
        faults.raise_any()
    assert (raised.value.error_id, raised.value.code) == ("LessThanOrEqualTo", 7)
    assert len(raised.value.message.splitlines()) == 3
    assert "InvalidDataset: Training dataset is not valid, reason: it is empty." in raised.value.message


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "ModuleOutOfMemory: Memory has been exhausted"),
        (OSError(errno.ENOSPC, "No space left on device", "/a/b"), "The disk is full: /a/b cannot be written"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "ModuleOutOfMemory"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/a/b"),
            "UserError: /a/b cannot be used: Permission",
        ),
        (OSError("of a library"), "Library Error - OSError: of a library"),
        (RuntimeError("could not create a primitive"), "ModuleOutOfMemory"),
        (RuntimeError("could not create a primitive descriptor for a convolution"), "Library Error - RuntimeError"),
    ],
)
def test_what_the_system_says_has_a_name(error: Exception, expected: str) -> None:
    assert expected in as_module_error(error).message


@pytest.mark.parametrize("name", ["metrics.jsonl", "timings.jsonl", "unreadable_images.json"])
def test_a_folder_in_place_of_a_report_is_named(name: str, inputs: Inputs) -> None:
    (inputs.outputs / name).mkdir(parents=True)
    next((inputs.train / "image").iterdir()).write_bytes(b"")
    assert inputs.fit(skip_unreadable_images="true") == 1
    assert f"{name} cannot be used: Is a directory" in str(inputs.error())
    assert not inputs.trained.exists()


@pytest.mark.parametrize(
    "text",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB.",
        "CUDA error: out of memory",
        "GET was unable to find an engine to execute this computation",
        "FIND was unable to find an engine to execute this computation",
        "Unable to find a valid cuDNN algorithm to run convolution",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
        "cudaErrorMemoryAllocation: the API call failed",
        'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "/pytorch/c10/cuda/CUDACachingAllocator.cpp":1154',
        "NCCL error: unhandled cuda error. Last error:\nCuda failure 2 'out of memory'",
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory",
    ],
)
def test_exhausted_memory_is_known_under_all_its_names(text: str) -> None:
    assert is_out_of_memory(RuntimeError(text))
    assert is_out_of_memory(torch.OutOfMemoryError(text))
    assert as_module_error(RuntimeError(text)).code == 138


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: device-side assert triggered",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`",
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED",
        'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "/pytorch/aten/src/ATen/cuda/PeerToPeerAccess.cpp":89',
        "could not create a primitive descriptor for a matmul",
    ],
)
def test_other_faults_of_a_device_are_not_taken_for_exhausted_memory(text: str) -> None:
    assert not is_out_of_memory(RuntimeError(text))
