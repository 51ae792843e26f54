"""Says what a file is that contains no weights of PyTorch, and what to do with it."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

from train_pytorch_model.text.wording import shown

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SAVE_WEIGHTS = "save the weights alone: torch.save(network.state_dict(), 'weights.pth')"
_UNPACK = "unpack it and give the file of weights"
_DOWNLOAD = "download the file again"
_CONVERT = "only weights of PyTorch can be read"
_HEAD_BYTES = 1024

# What a file begins with, after the offset; what it is; what to do.
_BEGINNINGS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes it", _CONVERT),
    (0, b"version https://git-lfs", "a git-lfs pointer to the file", "run git lfs pull"),
    (0, b"version http://git-media", "a git-lfs pointer to the file", "run git lfs pull"),
    (4, b"TFL3", "a TensorFlow Lite model", _CONVERT),
    (0, b"\x1f\x8b", "compressed with gzip", _UNPACK),
    (0, b"BZh", "compressed with bzip2", _UNPACK),
    (0, b"\xfd7zXZ\0", "compressed with xz", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstandard", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (0, b"Rar!", "a RAR archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"GGUF", "a GGUF file", _CONVERT),
    (0, b"\x93NUMPY", "a NumPy array", _CONVERT),
    (0, b"ftrt", "a TensorRT engine", _CONVERT),
    (0, b"ptrt", "a TensorRT engine", _CONVERT),
    (0, b"\x89PNG", "an image", "give the file of weights"),
    (0, b"\xff\xd8\xff", "an image", "give the file of weights"),
    (0, b"%PDF", "a PDF document", "give the file of weights"),
)
# What text begins with, in lower case and without white space before it.
_TEXTS = (
    (b"<!doctype html", "an HTML page instead of the file", _DOWNLOAD),
    (b"<html", "an HTML page instead of the file", _DOWNLOAD),
    (b"<?xml", "an XML document, such as the error of a download or an OpenVINO model", _DOWNLOAD),
    (b"<error", "the error of a download", _DOWNLOAD),
)
_SAFETENSORS_LENGTH = 8
# A part of a zip archive that shows its kind; what it is; what to do.
_PARTS: tuple[tuple[Callable[[str], bool], str, str], ...] = (
    (
        lambda name: name.endswith("/constants.pkl"),
        "a TorchScript program",
        "save its weights: torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')",
    ),
    (
        lambda name: "exported_program" in name or name.endswith(("/archive_format", "models/model.json")),
        "a program of torch.export",
        "save the weights of the network: torch.save(torch.export.load(FILE).state_dict, 'weights.pth')",
    ),
    (lambda name: ".data/" in name and "python_version" in name, "a torch.package archive", SAVE_WEIGHTS),
    (lambda name: name.startswith("MAR-INF/"), "a TorchServe archive (.mar)", _UNPACK),
    (lambda name: name == "model.weights.h5", "a Keras model", _CONVERT),
    (lambda name: name.endswith("saved_model.pb"), "a zip archive of a TensorFlow SavedModel", _CONVERT),
    (lambda name: name.endswith(".npy"), "a file of NumPy arrays", _CONVERT),
)
_FOLDERS: tuple[tuple[str, str, str], ...] = (
    ("saved_model.pb", "is a TensorFlow SavedModel", _CONVERT),
    (
        "*.distcp",
        "is a sharded checkpoint (torch.distributed.checkpoint)",
        "convert it: python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER weights.pth",
    ),
    (
        "zero_to_fp32.py",
        "is a checkpoint of DeepSpeed",
        "convert it: run python zero_to_fp32.py FOLDER weights.pth in it",
    ),
    ("MLmodel", "is an MLflow model, whose network is a pickle", SAVE_WEIGHTS),
    ("data.pkl", "is the unpacked content of a file of weights", "give the file itself, not unpacked"),
    ("*/data.pkl", "is the unpacked content of a file of weights", "give the file itself, not unpacked"),
)


def is_safetensors(file: Path) -> bool:
    """Whether a file is in the safetensors format, by its content.

    Raises:
        OSError: if the file cannot be read.
    """
    with file.open("rb") as opened:
        head = opened.read(_SAFETENSORS_LENGTH + 2)
    length = int.from_bytes(head[:_SAFETENSORS_LENGTH], "little")
    return head[_SAFETENSORS_LENGTH:][:1] == b"{" and 2 <= length <= file.stat().st_size - _SAFETENSORS_LENGTH


def check_kind(file: Path) -> None:
    """Check that a file is not of another kind than a file of weights that torch.save wrote, as far as can be seen.

    Raises:
        ValueError: naming what the file is and what to do.
        OSError: if the file cannot be read.
    """
    with file.open("rb") as opened:
        head = opened.read(_HEAD_BYTES)
    found = _kind_of_zip(file) if head.startswith(b"PK\x03\x04") else _kind_of_head(head, file.suffix.lower())
    if found:
        raise ValueError(f"{file.name} is {found}")


def kind_of_folder(folder: Path) -> str:
    """Return what a folder is that contains no file of weights, and what to do; "" if it is not known."""
    return next((f"{what}; {remedy}" for name, what, remedy in _FOLDERS if any(folder.glob(name))), "")


def _kind_of_head(head: bytes, suffix: str) -> str:
    if not head:
        return f"empty; {_DOWNLOAD}"
    if not any(head):
        return f"full of zeros; {_DOWNLOAD}"
    for at, beginning, what, remedy in _BEGINNINGS:
        if head[at:].startswith(beginning):
            return f"{what}; {remedy}"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for beginning, what, remedy in _TEXTS:
        if text.startswith(beginning):
            return f"{what}; {remedy}"
    # The fields of ONNX's message: the version of its format, then the name of what produced it or the graph.
    if suffix == ".onnx" or (head[:1] == b"\x08" and head[2:3] in (b"\x12", b"\x3a")):
        return f"an ONNX model; {_CONVERT}"
    if suffix in (".pb", ".tflite", ".h5", ".keras", ".mlmodel", ".engine", ".caffemodel", ".gguf", ".index"):
        return f"a {suffix} file; {_CONVERT}"
    # Pickles begin with a byte above 127, or, before protocol 2, end with a period.
    if head[:1] != b"\x80" and all(byte in b"\t\n\r\f\x1b" or byte >= 32 for byte in head) and b"\n." not in head:
        return f"a text: {shown(head[:60].decode('utf-8', 'replace').split(chr(10))[0])}; give the file of weights"
    return ""


def _kind_of_zip(file: Path) -> str:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, RuntimeError, NotImplementedError):
        return ""  # the reader of weights says what is wrong
    for is_of, what, remedy in _PARTS:
        if any(is_of(name) for name in names):
            return f"{what}; {remedy}"
    if not names or any(name.endswith("/data.pkl") or "/data/" in name for name in names):
        return ""
    return f"a zip archive of {shown(names[:3])}; {_UNPACK}"
