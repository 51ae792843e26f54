"""Models that mean harm: nothing of them runs, nothing fills the memory, and the error says what was found."""

from __future__ import annotations

import json
import os
import pickle
import stat
import struct
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from tests.making import ROOT, Inputs, error_code, error_text, run_here
from tests.untrained_models import edit_spec, read, write, write_model_with_code
from train_pytorch_model.errors import InvalidModelDirectoryError
from train_pytorch_model.models.weights import open_weights
from train_pytorch_model.text.wording import MAX_SHOWN, shown

Weights = dict[str, torch.Tensor]
# What reading may take of address space beyond what Python and its libraries do.
ROOM = 2 * 2**30


def read_weights(file: Path) -> Weights:
    """All of a flat state dict."""
    weights = open_weights(file)
    weights.read(weights.content)
    return dict(weights.content)


def saved(change: Callable[[Weights], object]) -> Callable[[Path], None]:
    """Write other weights in place of those there."""

    def damage(path: Path) -> None:
        torch.save(change(torch.load(path / "model", weights_only=True)), path / "model")

    return damage


def set_first(value: Any) -> Callable[[Weights], object]:
    def change(state: Weights) -> object:
        key = next(iter(state))
        return {**state, key: value(state[key])}

    return change


def compress(path: Path) -> None:
    """The archive of a network, with more zeros in a few megabytes than there is room for."""
    with zipfile.ZipFile(path / "model") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    first = next(name for name in parts if "/data/" in name)
    with zipfile.ZipFile(path / "model", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in parts.items():
            with archive.open(name, "w", force_zip64=True) as file:
                if name == first:
                    for _ in range(ROOM // 2**26 + 1):
                        file.write(bytes(2**26))
                else:
                    file.write(data)


def aliased() -> list[Any]:
    """Ten to the twelfth entries, in a few lines."""
    value: list[Any] = ["x"]
    for _ in range(12):
        value = [value] * 10
    return value


def init_params(**values: Any) -> Callable[[Path], None]:
    extras = {"module": "torchvision.models.densenet", "class": "DenseNet", "is_cuda": False, "init_params": values}
    return lambda path: edit_spec(path, flavor_extras=extras)


def builder(name: str, module: str = "torchvision.models", **values: Any) -> Callable[[Path], None]:
    extras = {"module": module, "class": name, "is_cuda": False, "init_params": values}
    return lambda path: edit_spec(path, flavor_extras=extras)


def with_nan(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[-1] = float("nan")
    return tensor


def shared() -> Weights:
    value = torch.ones(100_000)
    return {f"weight {number}": value for number in range(1000)}


def write_text(name: str, text: str) -> Callable[[Path], None]:
    return lambda path: (path / name).write_text(text) and None


def merging(head: str) -> str:
    """Merge keys of merge keys: two to the fortieth copies in some hundred bytes."""
    levels = [f"a{number}: &a{number} {{<<: [{', '.join([f'*a{number - 1}'] * 2)}]}}" for number in range(1, 41)]
    return "\n".join([head, "a0: &a0 {x: 1}", *levels, ""])


def lead_out(name: str) -> Callable[[Path], None]:
    """A file beside the directory, that a link in it leads to."""

    def damage(path: Path) -> None:
        (path / name).rename(path.parent / f"other {name}")
        (path / name).symlink_to(path.parent / f"other {name}")

    return damage


HARM: dict[str, tuple[Callable[[Path], None], str]] = {
    "a zip bomb": (compress, "compressed archive, which PyTorch never writes"),
    "an absurd shape": (saved(set_first(lambda value: torch.zeros(1).expand(10**9, 10**6))), "too little data"),
    "one storage a thousand times": (
        saved(lambda state: shared()),
        "expands from",
    ),
    "NaN": (saved(set_first(with_nan)), "not finite"),
    "infinity": (saved(set_first(lambda value: value + float("inf"))), "not finite"),
    "a sparse tensor": (saved(set_first(lambda value: torch.eye(3).to_sparse())), "not a dense tensor"),
    "numbers for names": (saved(lambda state: dict(enumerate(state.values()))), "names of tensors that are not text"),
    "layers without end": (init_params(block_config=[10**6] * 4, growth_rate=0), "cannot be built"),
    "a number of a terabyte": (init_params(num_init_features=10**12), "numbers up to 1000000 are accepted"),
    "a layer of many gigabytes": (init_params(num_init_features=10**6, growth_rate=10**6), "of memory"),
    "positions without end": (builder("vit_b_16", image_size=48_000), "of memory"),
    "channels by a factor": (builder("mobilenet_v2", width_mult=1e6), "of memory"),
    "indices of a window": (
        builder(
            *("SwinTransformer", "torchvision.models.swin_transformer"),
            patch_size=[4, 4],
            embed_dim=8,
            depths=[2],
            num_heads=[1],
            window_size=[1000, 1000],
        ),
        "of memory",
    ),
    "aliases without end": (init_params(block_config=aliased()), "aliases within aliases"),
    "aliases without end in _meta.yaml": (
        write_text("_meta.yaml", "type: &a [x]\nmodel: &b [*a, *a]\n"),
        "aliases within aliases",
    ),
    "merge keys in _meta.yaml": (write_text("_meta.yaml", merging("type: ModelDirectory")), "merge key"),
    "merge keys in the specification": (write_text("model_spec.yaml", merging("flavor: pytorch")), "merge key"),
    "values by aliases": (init_params(block_config=[[1] * 20] * 900), "more than 10000 values"),
    "values without end": (init_params(block_config=[1] * 20_000), "more than 10000 values"),
    "weights beside the directory": (lead_out("model"), "leads out of the directory through a link"),
    "a name of another library": (
        lambda path: edit_spec(
            path, flavor_extras={"module": "torchvision.models.densenet", "class": "OrderedDict", "is_cuda": False}
        ),
        "--trust-model-code",
    ),
}


# Imports once, and gives each command a forked child with little room, whose last words go into a file.
SERVER = f"""
import json, os, resource, signal, sys
import torch, torchvision, azureml.designer.core
from tests.making import main
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
for line in sys.stdin:
    arguments, log = json.loads(line)
    child = os.fork()
    if not child:
        for stream in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        resource.setrlimit(resource.RLIMIT_AS, (used + {ROOM}, resource.RLIM_INFINITY))
        signal.alarm(120)
        os._exit(main(arguments))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    # One thread: what forks must have no others.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        cwd=ROOT,
        env=environment,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        yield process
        process.communicate()


@pytest.mark.parametrize("kind", HARM)
def test_harmful_files_raise_a_named_error_and_take_little_memory(
    kind: str, inputs: Inputs, server: subprocess.Popen[str]
) -> None:
    damage, words = HARM[kind]
    damage(inputs.untrained)
    log = inputs.path / "log"
    assert server.stdin is not None
    assert server.stdout is not None
    print(json.dumps([inputs.arguments(), str(log)]), file=server.stdin, flush=True)
    assert server.stdout.readline() == "1\n", log.read_text()
    assert "Traceback" not in log.read_text()
    assert error_code(inputs.outputs) == ("InvalidModelDirectory", 159)
    assert words in error_text(inputs.outputs)
    assert not inputs.trained.exists()


@pytest.mark.parametrize("kind", ["a zip bomb", "NaN", "layers without end"])
def test_scoring_refuses_the_same(kind: str, inputs: Inputs) -> None:
    assert inputs.fit() == 0
    damage, words = HARM[kind]
    damage(inputs.trained)
    scored = inputs.path / "scored"
    flags = {"trained_model": inputs.trained, "dataset": inputs.valid, "scored_dataset": scored}
    assert run_here("score-image-model", **flags, outputs_path=inputs.outputs) == 1
    assert words in error_text(inputs.outputs)
    assert not scored.exists()


def entry(name: str, mode: int = 0) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


CODE_ARCHIVES: dict[str, tuple[list[tuple[zipfile.ZipInfo, bytes]], str]] = {
    "climbs out": ([(entry("../escaped.py"), b"")], "leaves the folder"),
    "absolute": ([(entry("/tmp/escaped.py"), b"")], "leaves the folder"),
    "a link": ([(entry("mine/link", stat.S_IFLNK | 0o777), b"/etc")], "is a link"),
    "a bomb": ([(entry("mine/zeros"), bytes(2**20))] * 300, "more than the limit for code"),
    "files without end": ([(entry(f"mine/{number}"), b"") for number in range(10_001)], "more than the limit for code"),
}


@pytest.mark.parametrize("kind", CODE_ARCHIVES)
def test_code_that_is_trusted_still_stays_in_its_folder(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model_with_code(tmp_path / "model")
    (tmp_path / "unpacked").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "unpacked"))
    entries, words = CODE_ARCHIVES[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that stand several times
        with zipfile.ZipFile(path / "local_dependencies.zip", "w") as packed:
            for info, data in entries:
                packed.writestr(info, data)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InvalidModelDirectoryError, match=words):
        read(path, trust_code=True)
    assert [item for item in sorted(tmp_path.rglob("*")) if not item.name.startswith("model-code-")] == before
    assert all(not any(folder.iterdir()) for folder in (tmp_path / "unpacked").iterdir())


def test_what_was_loaded_is_in_the_log(inputs: Inputs, capfd: pytest.CaptureFixture[str]) -> None:
    assert inputs.fit() == 0
    expected = subprocess.run(["sha256sum", inputs.untrained / "model"], capture_output=True, text=True, check=True)
    assert expected.stdout.split()[0] in capfd.readouterr().err


def test_long_values_of_files_are_cut_in_messages(tmp_path: Path) -> None:
    value: list[Any] = ["x"]
    for _ in range(60):
        value = [value] * 10
    assert len(shown(value)) <= MAX_SHOWN + 1
    assert len(shown({"key": "x" * 10**7, 10**10_000: 1})) <= MAX_SHOWN + 1
    assert shown({10**10_000: [date(2026, 1, 1)]}) == "{a number of 33220 bits: [a date]}"
    assert shown({"a": [1, (2,), None, "b"]}) == "{'a': [1, (2,), None, 'b']}"
    path = write_model_with_code(tmp_path / "model")
    edit_spec(path, task_type="x" * 10**6)
    with pytest.raises(InvalidModelDirectoryError) as raised:
        read(path)
    assert len(raised.value.message) < 1000


def test_a_directory_may_itself_be_a_link_and_name_one_list_twice(tmp_path: Path) -> None:
    path = write(tmp_path / "model", torchvision.models.squeezenet1_1(), "torchvision.models", "squeezenet1_1", {})
    spec = (path / "model_spec.yaml").read_text()
    (path / "model_spec.yaml").write_text(f"{spec}mean: &id001 [0.5, 0.5]\nstd: *id001\n")
    (tmp_path / "link").symlink_to(path)
    assert read(tmp_path / "link").description.name == "squeezenet1_1"


def rewritten(
    path: Path,
    change: Callable[[bytes], bytes] = lambda data: data,
    told: Callable[[list[zipfile.ZipInfo]], object] = lambda entries: None,
) -> None:
    """The archive of weights with another description of its tensors, and other words about its parts in its list."""
    with zipfile.ZipFile(path) as archive:
        parts = [(item.filename, archive.read(item)) for item in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts:
            archive.writestr(name, change(data) if name.endswith("data.pkl") else data)
        told(archive.infolist())


def described(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: rewritten(path, change)


def listed(change: Callable[[list[zipfile.ZipInfo]], object]) -> Callable[[Path], None]:
    return lambda path: rewritten(path, told=change)


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """Of as many bytes, and there."""

    def change(data: bytes) -> bytes:
        assert old in data
        assert len(old) == len(new)
        return data.replace(old, new)

    return change


THOUSAND, MORE = (b"M" + number.to_bytes(2, "little") for number in (1000, 60_000))
END_BYTES = 22


def claim_more_in_the_older_form(path: Path) -> None:
    """Numbers that the file does not hold and does not list either, so that nobody misses them."""
    torch.save({"weight": torch.ones(1000)}, path, _use_new_zipfile_serialization=False)
    description, _, _ = path.read_bytes().rpartition(b"\x80\x02]")
    path.write_bytes(replaced(THOUSAND, MORE)(description) + pickle.dumps([], protocol=2))


def put_before(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04more" + path.read_bytes())


def list_twice(path: Path) -> None:
    """Two lists, of which the one that is read from the end is not the one that the end tells of."""
    rewritten(path)
    data = path.read_bytes()
    parts = data[data.index(b"PK\x01\x02") : -END_BYTES]
    path.write_bytes(data[:-END_BYTES] + parts + data[-END_BYTES:])


def end_alone(at: int) -> Callable[[Path], object]:
    """An end that says that a list of nothing stands where it begins, or `at` bytes from there."""
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0, 0, 0, 4 + at, 0)
    return lambda path: path.write_bytes(b"PK\x03\x04" + end)


def damage_the_list(path: Path) -> None:
    rewritten(path)
    data = path.read_bytes()
    path.write_bytes(replaced(b"PK\x01\x02", b"PK\x01\x09")(data))


def nest(path: Path) -> None:
    torch.save({"weight": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])}, path)


def tuples(levels: int, width: int = 2) -> bytes:
    """A tuple of two tuples of two tuples, and so on; or of more."""
    return b")" + b"".join(b"q\0(" + b"h\0" * width + b"t" for _ in range(levels))


def entry_of(key: bytes) -> bytes:
    return b"\x80\x02}" + key + b"Ns."


def numbers_of_one_hash() -> bytes:
    numbers = (pickle.LONG1 + bytes([12]) + (i * (2**61 - 1)).to_bytes(12, "little") for i in range(200_000))
    return b"\x80\x02}(" + b"".join(number + b"N" for number in numbers) + b"u."


def more_than_there_are(data: bytes) -> bytes:
    assert THOUSAND in data
    return data.replace(THOUSAND, pickle.LONG1 + b"\xff" + b"\x7f" * 255)


def described_nowhere(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data/0", bytes(4000))


def file_size(size: int) -> Callable[[zipfile.ZipInfo], None]:
    return lambda entry: setattr(entry, "file_size", size)


UNBELIEVED: dict[str, tuple[Callable[[Path], object], str]] = {
    "claims": (described(replaced(THOUSAND, MORE)), "too little data for a tensor of 240000 bytes"),
    "claims of the older form": (claim_more_in_the_older_form, "claims tensors of 240000 bytes but has "),
    "something before it": (put_before, "its end record is in the wrong place"),
    "something before it that is not listed": (
        listed(lambda entries: entries.pop(0)),
        "data before its first part",
    ),
    "two lists": (list_twice, "its directory is in the wrong place"),
    "no list": (end_alone(0), "data before its first part"),
    "a list elsewhere": (end_alone(1), "its directory is in the wrong place"),
    "a damaged list": (damage_the_list, "is a damaged archive: BadZipFile: "),
    "parts without end": (
        listed(lambda entries: file_size(2**40)(entries[0])),
        "parts are larger than the archive",
    ),
    "parts of two sizes": (listed(lambda entries: file_size(1)(entries[0])), "a part has two different sizes"),
    "parts of one name": (
        listed(lambda entries: setattr(entries[1], "filename", entries[0].filename.upper())),
        "an archive with several parts of the same name",
    ),
    "a description without end": (
        described(lambda data: data + bytes(2**26)),
        "a description of its tensors of more than 4194304 bytes",
    ),
    "a storage that is none": (
        described(replaced(b"X\x07\0\0\0storage", b"X\x07\0\0\0garbage")),
        r"loaded safely \(UnpicklingError\)",
    ),
    "a storage of no kind": (described(replaced(b"FloatStorage", b"OtherStorage")), r"loaded safely \(KeyError\)"),
    "a description cut off": (described(lambda data: data[:-5]), r"loaded safely \((EOF|Unpickling)Error\)"),
    "code by number": (described(lambda data: b"\x80\x02\x82\x05."), r"loaded safely \(ValueError\)"),
    "bytes without end": (
        described(lambda data: b"\x80\x05\x96" + (2**45).to_bytes(8, "little") + b"."),
        r"loaded safely \(KeyError\)",
    ),
    "nested": (nest, "not a dense tensor"),
    "numbers of half a byte": (
        lambda path: torch.save({"weight": torch.empty(4, dtype=torch.float4_e2m1fn_x2)}, path),
        "contains a tensor that cannot be checked: ",
    ),
    "cut off": (
        lambda path: path.write_bytes(path.read_bytes()[:-30]),
        "damaged archive, or is followed by other data",
    ),
    "a few bytes": (lambda path: path.write_bytes(path.read_bytes()[:10]), "is truncated"),
    "expanded": (lambda path: torch.save({"weight": torch.ones(1).expand(2**15, 2**15)}, path), "too little data"),
    "absent": (lambda path: path.unlink(), "cannot be read: "),
    "tuples within tuples": (described(lambda data: entry_of(tuples(30))), "names of tensors that are not text"),
    "tuples without end": (described(lambda data: entry_of(tuples(10**5))), "names of tensors that are not text"),
    "wide tuples": (described(lambda data: entry_of(tuples(8, 100))), "names of tensors that are not text"),
    "numbers of one hash": (described(lambda data: numbers_of_one_hash()), "names of tensors that are not text"),
    "entries of a call": (
        described(lambda data: b"\x80\x02ccollections\nOrderedDict\n(](" + tuples(30) + b"N\x86etR."),
        r"loaded safely \(TypeError\)",
    ),
    "attributes of pairs": (
        described(lambda data: b"\x80\x02ccollections\nOrderedDict\n)R](" + tuples(30) + b"N\x86eb."),
        r"loaded safely \(UnpicklingError\)",
    ),
    "a name that PyTorch does not write": (
        described(lambda data: b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R."),
        r"loaded safely: it is a pickled object \('builtins.bytearray'\)",
    ),
    "a storage of more numbers than there are": (
        described(more_than_there_are),
        r"loaded safely \(UnpicklingError\)",
    ),
    "tuples of the older form": (
        lambda path: path.write_bytes(entry_of(tuples(30))),
        "names of tensors that are not text",
    ),
    "no description": (described_nowhere, "has no description of its tensors"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", UNBELIEVED)
def test_what_a_file_of_weights_says_of_itself_is_not_believed(kind: str, tmp_path: Path) -> None:
    damage, words = UNBELIEVED[kind]
    file = tmp_path / "model"
    torch.save({"weight": torch.ones(1000)}, file)
    assert read_weights(file)["weight"].sum() == 1000
    damage(file)
    with pytest.raises(ValueError, match=words):
        read_weights(file)


def test_the_form_from_before_pytorch_1_6_is_read(tmp_path: Path) -> None:
    whole = torch.arange(1000.0)
    state = {"weight": whole, "tied": whole, "part": whole[10:20], "half": torch.ones(3, dtype=torch.float16)}
    torch.save(state, tmp_path / "model", _use_new_zipfile_serialization=False)
    given = read_weights(tmp_path / "model")
    assert given.keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in given.items())


def test_masks_and_shared_or_expanded_tensors_are_weights_too(tmp_path: Path) -> None:
    one = torch.ones(1000)
    state = {f"block {number}": one for number in range(40)}
    state = {**state, "mask": torch.full((4, 4), float("-inf")), "buffer": torch.zeros(1).expand(64, 64)}
    torch.save(state, tmp_path / "model")
    assert read_weights(tmp_path / "model").keys() == state.keys()


def test_no_memory_for_weights_is_no_fault_of_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes")

    torch.save({"weight": torch.ones(1)}, tmp_path / "model")
    monkeypatch.setattr(torch, "empty", fail)
    with pytest.raises(MemoryError):
        read_weights(tmp_path / "model")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA], ids=["deflate", "lzma"])
def test_damaged_code_is_named(method: int, tmp_path: Path) -> None:
    path = write_model_with_code(tmp_path / "model")
    file = path / "local_dependencies.zip"
    with zipfile.ZipFile(file, "w", method) as packed:
        packed.writestr("mine/tiny_net.py", b"x = 1\n" * 1000)
    data = bytearray(file.read_bytes())
    start = 30 + len("mine/tiny_net.py")
    data[start : start + 30] = b"\xff" * 30
    file.write_bytes(data)
    with pytest.raises(InvalidModelDirectoryError, match="cannot be unpacked"):
        read(path, trust_code=True)


def test_weights_in_timms_format_are_checked_by_the_same_rules(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = torchvision.models.squeezenet1_1().state_dict()
    state["features.0.weight"] = with_nan(state["features.0.weight"])
    save_file(state, tmp_path / "weights.safetensors")
    ports = {"untrained_model_path": tmp_path / "untrained", "outputs_path": tmp_path / "outputs"}
    name = "squeezenet1_1"
    weights = tmp_path / "weights.safetensors"
    assert run_here("initialize-model", model_name=name, weights=weights, **ports) == 1
    assert "not finite" in error_text(tmp_path / "outputs")
