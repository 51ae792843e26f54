"""Models that mean harm: nothing of them runs, nothing fills the memory, and the error says what was found."""

from __future__ import annotations

import stat
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from tests.making import ROOT, Inputs, error_code, error_text, run_here
from tests.test_untrained_model import edit_spec, read, write, write_model_with_code
from train_pytorch_model.errors import InvalidModelDirectoryError
from train_pytorch_model.messages import MAX_SHOWN, shown
from train_pytorch_model.ports.weights import read_weights

Weights = dict[str, torch.Tensor]
# What reading may take of address space beyond what Python and its libraries do.
ROOM = 2 * 2**30


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
    """The archive of a network, with eight gigabytes of zeros in a few megabytes."""
    with zipfile.ZipFile(path / "model") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    first = next(name for name in parts if "/data/" in name)
    with zipfile.ZipFile(path / "model", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            with archive.open(name, "w", force_zip64=True) as file:
                if name == first:
                    for _ in range(128):
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
    "an absurd shape": (saved(set_first(lambda value: torch.zeros(1).expand(10**9, 10**6))), "too few numbers"),
    "one storage a thousand times": (
        saved(lambda state: shared()),
        "unfolds to",
    ),
    "NaN": (saved(set_first(with_nan)), "not finite"),
    "infinity": (saved(set_first(lambda value: value + float("inf"))), "not finite"),
    "a sparse tensor": (saved(set_first(lambda value: torch.eye(3).to_sparse())), "no dense tensor"),
    "numbers for names": (saved(lambda state: dict(enumerate(state.values()))), "something else than text"),
    "layers without end": (init_params(block_config=[10**6] * 4, growth_rate=0), "cannot be built"),
    "a number of a terabyte": (init_params(num_init_features=10**12), "no network has so many"),
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
    "values without end": (init_params(block_config=[1] * 20_000), "more than 10000 values"),
    "weights beside the directory": (lead_out("model"), "a link leads out of the directory"),
    "a name of another library": (
        lambda path: edit_spec(
            path, flavor_extras={"module": "torchvision.models.densenet", "class": "OrderedDict", "is_cuda": False}
        ),
        "--trust-model-code",
    ),
}


@pytest.mark.parametrize("kind", HARM)
def test_harm_is_named_and_takes_no_room(kind: str, inputs: Inputs) -> None:
    damage, words = HARM[kind]
    damage(inputs.untrained)
    code = (
        "import resource, sys, torch, torchvision, azureml.designer.core; from tests.making import main\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        f"resource.setrlimit(resource.RLIMIT_AS, (used + {ROOM}, resource.RLIM_INFINITY))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code, *inputs.arguments()], capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert finished.returncode == 1
    assert "Traceback" not in finished.stderr
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
    "a bomb": ([(entry("mine/zeros"), bytes(2**20))] * 300, "too much for code"),
    "files without end": ([(entry(f"mine/{number}"), b"") for number in range(10_001)], "too much for code"),
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


def test_values_of_files_stand_in_messages_only_so_far(tmp_path: Path) -> None:
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


def rewritten(path: Path, change: Callable[[bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """The archive of weights with another description of its tensors."""
    with zipfile.ZipFile(path) as archive:
        parts = [(item.filename, archive.read(item)) for item in archive.infolist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in parts:
            archive.writestr(name, change(data) if name.endswith("data.pkl") else data)


def claim_more(path: Path) -> None:
    thousand, more = (b"M" + number.to_bytes(2, "little") for number in (1000, 60_000))
    rewritten(path, lambda data: data.replace(thousand, more))


def put_before(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04more" + path.read_bytes())


def nest(path: Path) -> None:
    torch.save({"weight": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])}, path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (claim_more, "too few numbers for a tensor of 240000 bytes"),
        (put_before, "damaged archive"),
        (nest, "no dense tensor"),
        (lambda path: path.write_bytes(path.read_bytes()[:-30]), "damaged archive"),
        (lambda path: torch.save({"weight": torch.ones(1).expand(2**15, 2**15)}, path), "too few numbers"),
        (lambda path: path.unlink(), "cannot be read: "),
    ],
    ids=["claims", "something before it", "nested", "cut off", "expanded", "absent"],
)
def test_what_a_file_of_weights_says_of_itself_is_not_believed(
    damage: Callable[[Path], object], words: str, tmp_path: Path
) -> None:
    file = tmp_path / "model"
    torch.save({"weight": torch.ones(1000)}, file)
    assert read_weights(file)["weight"].sum() == 1000
    damage(file)
    with pytest.raises(ValueError, match=words):
        read_weights(file)


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
    monkeypatch.setattr(torch, "load", fail)
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


def test_weights_of_timms_format_are_held_against_the_same(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = torchvision.models.squeezenet1_1().state_dict()
    state["features.0.weight"] = with_nan(state["features.0.weight"])
    save_file(state, tmp_path / "weights.safetensors")
    ports = {"untrained_model_path": tmp_path / "untrained", "outputs_path": tmp_path / "outputs"}
    name = "squeezenet1_1"
    weights = tmp_path / "weights.safetensors"
    assert run_here("initialize-model", model_name=name, weights=weights, **ports) == 1
    assert "not finite" in error_text(tmp_path / "outputs")
