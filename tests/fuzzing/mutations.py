"""Changes of files on disk: of any file, of images, of JSON and YAML, and of weights."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import stat
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from ruamel.yaml import YAML
from torch import nn

from tests.fuzzing.bases import CANARY
from tests.fuzzing.recipes import Mutation

_IMAGE_FOLDERS = ("image", "cat", "dog", "owl")
_LARGEST_READ = 2**27


def apply(mutation: Mutation, root: Path) -> bool:
    """Make a change in the folder of a run; say whether there was anything to change."""
    path = _find(mutation.file, root)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if path.exists() and mutation.kind not in REPLACING and not _is_readable(path):
                return False
            KINDS[mutation.kind](path, root, *mutation.arguments)
    except Exception:  # an earlier change may have left nothing to change, and no file can hold every value
        return False
    return True


def _is_readable(path: Path) -> bool:
    """Whether reading it comes to an end, and soon."""
    status = path.stat()
    return stat.S_ISDIR(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_size < _LARGEST_READ)


def _find(name: str, root: Path) -> Path:
    folder, star, number = name.partition("/*")
    if not star:
        return root / name
    images = sorted(file for file in (root / folder).rglob("*") if file.parent.name in (*_IMAGE_FOLDERS, folder))
    images = [file for file in images if file.name[:1] not in "_." and file.suffix in (".png", ".gz", ".zip")]
    return images[int(number) % len(images)] if images else root / folder / "none.png"


# Any file.


def _truncate(path: Path, root: Path, share: float) -> None:
    os.truncate(path, int(path.stat().st_size * share))


def _flip(path: Path, root: Path, share: float, bits: int, count: int = 1) -> None:
    data = bytearray(path.read_bytes())
    start = int(share * len(data))
    for place in range(start, min(start + count, len(data))):
        data[place] ^= bits
    path.write_bytes(data)


def _insert(path: Path, root: Path, share: float, data: bytes, times: int = 1) -> None:
    before = path.read_bytes()
    place = int(share * len(before))
    path.write_bytes(before[:place] + data * times + before[place:])


def _content(path: Path, root: Path, data: bytes, times: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data * times)


def _replace_bytes(path: Path, root: Path, old: bytes, new: bytes) -> None:
    path.write_bytes(path.read_bytes().replace(old, new))


def _sparse(path: Path, root: Path, num_bytes: int) -> None:
    os.truncate(path, num_bytes)


def _remove(path: Path, root: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _replaced(make: Callable[[Path, Path], object]) -> Callable[[Path, Path], None]:
    def replace(path: Path, root: Path) -> None:
        if path.exists() or path.is_symlink():
            _remove(path, root)
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path, root)

    return replace


def _link_inside(path: Path, root: Path) -> None:
    """A link in place of a file, to a copy of it beside it."""
    target = path.with_name(f"real_{path.name}")
    path.rename(target)
    path.symlink_to(target.name)


def _mode(path: Path, root: Path, mode: int) -> None:
    path.chmod(mode)


def _copy_in(path: Path, root: Path, source: str) -> None:
    """Another file of the run in this one's place."""
    if not _is_readable(_find(source, root)):
        raise ValueError("it has no end")
    data = _find(source, root).read_bytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _rename(path: Path, root: Path, name: str) -> None:
    path.rename(path.with_name(name))


def _append(path: Path, root: Path, source: str) -> None:
    """Another file of the run behind this one's data."""
    path.write_bytes(path.read_bytes() + _find(source, root).read_bytes())


def _twins(path: Path, root: Path, names: tuple[str, ...]) -> None:
    """The same image by names that look alike."""
    for name in names:
        _copy_in(path / name, root, CANARY)


def _member(path: Path, root: Path, name: str, target: str, times: int) -> None:
    """More members of an archive: images, or with a target links to it."""
    data = (root / CANARY).read_bytes()
    if zipfile.is_zipfile(path):
        info = zipfile.ZipInfo(name)
        info.external_attr = (stat.S_IFLNK | 0o777 if target else stat.S_IFREG | 0o644) << 16
        with zipfile.ZipFile(path, "a") as archive:
            for _ in range(times):
                archive.writestr(info, target or data)
        return
    packed = io.BytesIO(gzip.decompress(path.read_bytes()))
    member = tarfile.TarInfo(name)
    member.size, member.linkname = (0, target) if target else (len(data), "")
    member.type = tarfile.SYMTYPE if target else tarfile.REGTYPE
    with tarfile.open(fileobj=packed, mode="a") as tar:
        for _ in range(times):
            tar.addfile(member, io.BytesIO(data))
    path.write_bytes(gzip.compress(packed.getvalue()))


# Images.


def _save(path: Path, root: Path, kind: str, mode: str, width: int, height: int, frames: int = 1) -> None:
    image = Image.linear_gradient("L").resize((width, height)).convert("RGB").convert(mode)
    how: dict[str, Any] = {"save_all": True, "append_images": [image.rotate(90)] * (frames - 1)} if frames > 1 else {}
    if mode == "P":
        how["transparency"] = 0
    image.save(path, format=kind, **how)


def _claim_size(path: Path, root: Path, width: int, height: int) -> None:
    """The header of a PNG says another size, with a checksum that fits."""
    data = path.read_bytes()
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    path.write_bytes(data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:])


def _save_all(path: Path, root: Path, kind: str, mode: str, width: int, height: int) -> None:
    for file in sorted(path.rglob("*.png")):
        _save(file, root, kind, mode, width, height)


# JSON, JSON Lines and YAML.


def _changed(node: Any, steps: tuple[int, ...], action: str, value: Any) -> Any:
    """Walk down, taking a child by its number, counted around, and change what is there."""
    if not steps or not isinstance(node, (dict, list)) or not node:
        return value
    keys: list[Any] = list(node) if isinstance(node, dict) else list(range(len(node)))
    key = keys[steps[0] % len(keys)]
    if len(steps) > 1:
        node[key] = _changed(node[key], steps[1:], action, value)
    elif action == "delete":
        del node[key]
    elif action == "repeat" and isinstance(node, list):
        node.append(node[key])
    elif action == "rename" and isinstance(node, dict):
        node[str(value)] = node.pop(key)
    else:
        node[key] = value
    return node


def _json(path: Path, root: Path, steps: tuple[int, ...], action: str, value: Any) -> None:
    path.write_text(json.dumps(_changed(json.loads(path.read_text()), steps, action, value)))


def _yaml(path: Path, root: Path, steps: tuple[int, ...], action: str, value: Any) -> None:
    document = YAML(typ="safe").load(path)
    path.write_text(json.dumps(_changed(document, steps, action, value)))  # JSON is YAML


def _line(path: Path, root: Path, number: int, steps: tuple[int, ...], action: str, value: Any) -> None:
    """JSON of one line, or with a negative number of all."""
    lines = path.read_text().splitlines()
    for place in range(len(lines)) if number < 0 else [number % len(lines)]:
        lines[place] = json.dumps(_changed(json.loads(lines[place]), steps, action, value))
    path.write_text("\n".join(lines) + "\n")


def _name_of(path: Path, root: Path, number: int, values: dict[str, Any]) -> None:
    """Entries of `image_info` of one line."""
    lines = path.read_text().splitlines()
    item = json.loads(lines[number % len(lines)])
    item["image_info"].update(values)
    item["image_info"] = {key: value for key, value in item["image_info"].items() if value is not None}
    lines[number % len(lines)] = json.dumps(item).replace("ROOT", str(root))
    path.write_text("\n".join(lines) + "\n")


def _line_text(path: Path, root: Path, number: int, action: str, text: str = "") -> None:
    lines = path.read_text().splitlines()
    place = number % len(lines)
    lines[place : place + 1] = {"delete": [], "repeat": [lines[place]] * 2, "set": [text]}[action]
    path.write_text("\n".join(lines) + "\n")


def _categories(path: Path, root: Path, values: list[Any]) -> None:
    """Other categories: pairs of id and name, or anything."""
    document = json.loads(path.read_text())
    entries = [{"id": value[0], "name": value[1]} if isinstance(value, tuple) else value for value in values]
    document["columnAttributes"][-1]["properties"]["categories"] = entries
    path.write_text(json.dumps(document))


# Weights.


class _Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self._path, "w")


def _weights(path: Path, root: Path, change: str, number: int = 0) -> None:
    state = torch.load(path, weights_only=True)
    keys = list(state)
    key = keys[number % len(keys)]
    WEIGHTS[change](state, key)
    torch.save(state, path)


def _pickled(path: Path, root: Path, is_in_dict: bool, is_legacy: bool) -> None:
    payload: Any = _Payload(str(root / "payload"))
    torch.save({"weight": payload} if is_in_dict else payload, path, _use_new_zipfile_serialization=not is_legacy)


def _legacy(path: Path, root: Path) -> None:
    torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False)


def _wrapped(path: Path, root: Path, key: str, prefix: str) -> None:
    """Weights as other programs keep them, in a checkpoint."""
    state = torch.load(path, weights_only=True)
    torch.save({key: {prefix + name: value for name, value in state.items()}, "epoch": 3}, path)


def _saved_object(path: Path, root: Path, number: int) -> None:
    objects: list[Any] = [{}, [], 5, "text", {"a": 1}, {"a": {"b": torch.ones(1)}}, {1: torch.ones(1)}, torch.ones(2)]
    torch.save(objects[number % len(objects)], path)


def _zip(path: Path, root: Path, names: tuple[str, ...], compressed: bool) -> None:
    """Another archive, each file with the canary in it."""
    if path.is_dir():
        shutil.rmtree(path)
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name in names:
            archive.writestr(name, (root / CANARY).read_bytes())


def _cast(dtype: torch.dtype) -> Callable[[dict[Any, Any], str], None]:
    return lambda state, key: state.update({key: state[key].to(dtype)})


def _cast_all(dtype: torch.dtype) -> Callable[[dict[Any, Any], str], None]:
    return lambda state, key: state.update({name: value.to(dtype) for name, value in state.items()})


def _fill(value: float) -> Callable[[dict[Any, Any], str], None]:
    return lambda state, key: state.update({key: torch.full(state[key].shape, value)})


WEIGHTS: dict[str, Callable[[dict[Any, Any], str], object]] = {
    "drop": lambda state, key: state.pop(key),
    "extra": lambda state, key: state.update({f"{key}.more": torch.ones(2)}),
    "rename": lambda state, key: state.update({f"model.{key}": state.pop(key)}),
    "number key": lambda state, key: state.update({7: state.pop(key)}),
    "text": lambda state, key: state.update({key: "text"}),
    "list": lambda state, key: state.update({key: [1.0, 2.0]}),
    "parameter": lambda state, key: state.update({key: nn.Parameter(state[key].float())}),
    "sparse": lambda state, key: state.update({key: torch.eye(3).to_sparse()}),
    "quantized": lambda state, key: state.update({key: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8)}),
    "meta": lambda state, key: state.update({key: torch.ones(2, device="meta")}),
    "expanded": lambda state, key: state.update({key: torch.ones(1).expand(10**6, 10**6)}),
    "empty": lambda state, key: state.update({key: torch.ones(0)}),
    "scalar": lambda state, key: state.update({key: torch.tensor(1.0)}),
    "flat": lambda state, key: state.update({key: state[key].flatten()}),
    "unsqueezed": lambda state, key: state.update({key: state[key][None]}),
    "nan": _fill(float("nan")),
    "infinite": _fill(float("inf")),
    "large": _fill(1e38),
    "minus": _fill(-1e30),
    "zero": _fill(0.0),
    "float16": _cast(torch.float16),
    "float64": _cast(torch.float64),
    "int64": _cast(torch.int64),
    "bool": _cast(torch.bool),
    "complex64": _cast(torch.complex64),
    "all float16": _cast_all(torch.float16),
    "all float64": _cast_all(torch.float64),
    "all int64": _cast_all(torch.int64),
    "all complex64": _cast_all(torch.complex64),
    "float8": _cast(torch.float8_e5m2),
}

# What a file was is nothing to these.
REPLACING: dict[str, Callable[..., object]] = {
    "remove": _remove,
    "rename": _rename,
    "sparse": _sparse,
    "mode": _mode,
    "folder": _replaced(lambda path, root: path.mkdir()),
    "file": _replaced(lambda path, root: path.write_bytes(b"no folder")),
    "link inside": _link_inside,
    "link out": _replaced(lambda path, root: path.symlink_to(root / "outside" / CANARY)),
    "link to folder": _replaced(lambda path, root: path.symlink_to(root / "outside")),
    "link to itself": _replaced(lambda path, root: path.symlink_to(path.name)),
    "link up": _replaced(lambda path, root: path.symlink_to("..")),
    "dangling link": _replaced(lambda path, root: path.symlink_to("nowhere")),
    "device": _replaced(lambda path, root: path.symlink_to("/dev/zero")),
    "pipe": _replaced(lambda path, root: os.mkfifo(path)),
}
KINDS: dict[str, Callable[..., object]] = {
    **REPLACING,
    "truncate": _truncate,
    "flip": _flip,
    "insert": _insert,
    "content": _content,
    "replace": _replace_bytes,
    "copy in": _copy_in,
    "append": _append,
    "twins": _twins,
    "member": _member,
    "image": _save,
    "images": _save_all,
    "claimed size": _claim_size,
    "json": _json,
    "yaml": _yaml,
    "line": _line,
    "line text": _line_text,
    "image info": _name_of,
    "categories": _categories,
    "weights": _weights,
    "payload": _pickled,
    "legacy weights": _legacy,
    "wrapped weights": _wrapped,
    "saved object": _saved_object,
    "zip": _zip,
}
