"""Files of weights as people have them: whatever wraps the weights, the network gets exactly these."""

from __future__ import annotations

import argparse
import collections
import gzip
import pickle
import types
import zipfile
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from tests.making import error_code, error_text, initialize, run_here
from tests.untrained_models import read, write
from train_pytorch_model.models.description import NetworkDescription
from train_pytorch_model.models.network import with_head
from train_pytorch_model.models.network_rules import NetworkError
from train_pytorch_model.models.weight_choice import Choice, choose_weights
from train_pytorch_model.models.weights import open_weights

Weights = dict[str, torch.Tensor]
RESNET = NetworkDescription("torchvision.models", "resnet18")


class Config(dict[str, int]):
    """A dict with attributes, as yacs and others have it."""

    def __init__(self) -> None:
        super().__init__(width=1)
        self.frozen = True


class Callback:
    """An object of a script, which no loader knows."""

    def __init__(self) -> None:
        self.losses = collections.deque([1.0])
        self.names = {"a"}


def weights_of(seed: int, num_classes: int = 1000) -> Weights:
    torch.manual_seed(seed)
    return dict(torchvision.models.resnet18(num_classes=num_classes).state_dict())


@pytest.fixture(scope="module")
def given() -> Weights:
    return weights_of(1)


@pytest.fixture(scope="module")
def other() -> Weights:
    return weights_of(2)


def after(prefix: str, state: Weights) -> Weights:
    return {prefix + key: value for key, value in state.items()}


def around() -> dict[str, Any]:
    """What scripts store beside the weights."""
    network = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    arguments = argparse.Namespace(path=Path("/data"), time=datetime.now(tz=timezone.utc), size=torch.Size([1, 2]))
    return {
        "args": arguments,
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, 10).state_dict(),
        "best_acc1": torch.tensor(float("nan")),
        "accuracy": np.float32(0.5),
        "confusion": np.eye(3),
        "history": collections.defaultdict(list, {"loss": [1.0]}),
        "config": Config(),
        "callback": Callback(),
        "names": {0: "cat", 1: "dog"},
        "other": [types.SimpleNamespace(a=1), {1, 2}, b"x", 1j, 10**30, len, Callback, range(3)],
    }


def choose(content: object, path: Path, **how: Any) -> tuple[Weights, Choice]:
    torch.save(content, path / "w.pth", **how)
    weights = open_weights(path / "w.pth")
    choice = choose_weights(weights, RESNET, needs_head=False)
    weights.read(choice.state)
    return choice.state, choice


def is_same(state: Weights, given: Weights) -> bool:
    return state.keys() == given.keys() and all(torch.equal(state[key], value) for key, value in given.items())


PREFIXES = ("module.", "_orig_mod.", "_orig_mod.module.", "_forward_module.", "model.", "backbone.", "network.", "net.")
PREFIXES += ("encoder.", "base_model.", "student.", "teacher.", "model.module.", "module.model.", "any.other.")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_any_prefix_is_removed_and_logged(prefix: str, given: Weights, tmp_path: Path) -> None:
    state, choice = choose(after(prefix, given), tmp_path)
    assert is_same(state, given)
    assert all(part in "; ".join(choice.notes) for part in prefix.split("."))


KEYS = ("state_dict", "model", "model_state_dict", "net", "weights", "params", "model_ema", "ema", "state_dict_ema")


@pytest.mark.parametrize(
    "how", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}], ids=["zip", "older", "4"]
)
@pytest.mark.parametrize("key", KEYS)
def test_any_key_is_followed_past_what_scripts_store_beside(
    key: str, how: dict[str, Any], given: Weights, tmp_path: Path
) -> None:
    state, choice = choose({**around(), key: after("module.", given)}, tmp_path, **how)
    assert is_same(state, given)
    assert choice.notes == (f"taken from {key!r}", "removed from names: module")


WRAPPED: dict[str, Callable[[Weights, Weights], object]] = {
    "EMA of torchvision": lambda a, b: {
        "model": b,
        "model_ema": {**after("module.", a), "n_averaged": torch.tensor(3)},
    },
    "EMA of timm": lambda a, b: {"state_dict": b, "state_dict_ema": a},
    "the best of two": lambda a, b: {"last": b, "best_model": a},
    "the first of two": lambda a, b: {"one": a, "two": b},
    "MoCo": lambda a, b: {"state_dict": {**after("module.encoder_q.", a), **after("module.encoder_k.", b)}},
    "DINO": lambda a, b: {"student": after("module.backbone.", b), "teacher": after("backbone.", a)},
    "Lightning": lambda a, b: {
        "state_dict": {**after("model.", a), "criterion.weight": torch.ones(9)},
        "hyper": around(),
    },
    "fastai": lambda a, b: {"model": a, "opt": around()["optimizer"]},
    "a list": lambda a, b: [a, around()["optimizer"]],
    "DataParallel of one layer": lambda a, b: {key.replace("layer1.", "layer1.module."): a[key] for key in a},
    "operations counted": lambda a, b: {**a, "layer1.0.conv1.total_ops": torch.ones(1)},
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_of_several_copies_the_documented_one_is_taken(
    kind: str, given: Weights, other: Weights, tmp_path: Path
) -> None:
    state, _ = choose(WRAPPED[kind](given, other), tmp_path)
    assert is_same(state, given)


HEADS: dict[str, Callable[[Weights], Weights]] = {
    "of another size": lambda state: {**state, "fc.weight": torch.ones(10, 512), "fc.bias": torch.ones(10)},
    "none": lambda state: {key: value for key, value in state.items() if not key.startswith("fc.")},
    "of several layers": lambda state: {**HEADS["none"](state), "fc.1.weight": torch.ones(3, 512)},
    "of another name": lambda state: {**HEADS["none"](state), "classifier.weight": torch.ones(3, 512)},
}


@pytest.mark.parametrize("kind", HEADS)
def test_the_head_may_have_another_size_or_be_missing(kind: str, given: Weights, tmp_path: Path) -> None:
    torch.save(HEADS[kind](given), tmp_path / "w.pth")
    outputs = tmp_path / "outputs"
    initialize(tmp_path / "untrained", "resnet18", outputs, weights=tmp_path / "w.pth")
    state = read(tmp_path / "untrained").state
    assert {key for key, value in given.items() if not torch.equal(state[key], value)} == {"fc.weight", "fc.bias"}
    # The same file in an untrained model directory: training draws the head anyway, scoring needs it.
    path = write(tmp_path / "own", torchvision.models.resnet18(), "torchvision.models", "resnet18", {})
    torch.save({"state_dict": after("module.", HEADS[kind](given))}, path / "model")
    model = read(path)
    network, _ = with_head(model.description, model.state, 3, keep_head=True, missing=model.missing)
    assert network.state_dict()["fc.weight"].shape == (3, 512)
    assert torch.equal(network.state_dict()["conv1.weight"], given["conv1.weight"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_numbers_of_other_types_become_float32(
    dtype: torch.dtype, given: Weights, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    converted = {key: value.to(dtype) if value.is_floating_point() else value for key, value in given.items()}
    torch.save(converted, tmp_path / "w.pth")
    initialize(tmp_path / "untrained", "resnet18", tmp_path / "outputs", weights=tmp_path / "w.pth")
    assert f"converted to float32 from {str(dtype)[6:]}" in capfd.readouterr().err
    assert is_same(dict(read(tmp_path / "untrained").state), {k: converted[k].to(v.dtype) for k, v in given.items()})


def test_counters_may_be_missing_and_vision_transformers_have_their_first_names(tmp_path: Path, given: Weights) -> None:
    state, _ = choose({key: value for key, value in given.items() if "num_batches" not in key}, tmp_path)
    assert len(state) == 102
    network = torchvision.models.vit_b_32()
    names = {".mlp.0.": ".mlp.linear_1.", ".mlp.3.": ".mlp.linear_2."}
    earlier = dict(network.state_dict())
    for current, early in names.items():
        earlier = {key.replace(current, early): value for key, value in earlier.items()}
    torch.save(earlier, tmp_path / "w.pth")
    choice = choose_weights(
        open_weights(tmp_path / "w.pth"), NetworkDescription("torchvision.models", "vit_b_32"), needs_head=True
    )
    assert choice.state.keys() == network.state_dict().keys()


@pytest.fixture
def _time_to_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train_pytorch_model.modules.initialize_model._GUESS_SECONDS", 600.0)


@pytest.mark.usefixtures("_time_to_guess")
def test_weights_of_another_network_name_the_one_that_fits(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet34().state_dict(), tmp_path / "w.pth")
    flags = {"untrained_model_path": tmp_path / "untrained", "outputs_path": tmp_path / "outputs"}
    assert run_here("initialize-model", model_name="resnet18", weights=tmp_path / "w.pth", **flags) == 1
    assert "do not fit torchvision.models.resnet18(): unexpected" in error_text(tmp_path / "outputs")
    assert "they fit resnet34" in error_text(tmp_path / "outputs")
    assert not (tmp_path / "untrained").exists()


def zipped(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("resnet18.pth", b"x")


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a network": (lambda file: torch.save(nn.Linear(1, 1), file), "a whole pickled network"),
    "a network under a key": (
        lambda file: torch.save({"model": nn.Linear(1, 1)}, file),
        "a whole pickled network under",
    ),
    "TorchScript": (lambda file: torch.jit.script(nn.Linear(1, 1)).save(str(file)), "is a TorchScript program; save"),
    "a pickle": (lambda file: file.write_bytes(pickle.dumps(Callback())), "is a pickle of 'tests.test_weight_files.C"),
    "HDF5": (lambda file: file.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(9)), "is an HDF5 file"),
    "ONNX": (lambda file: file.write_bytes(b"\x08\x08\x12\x07pytorch"), "is an ONNX model"),
    "TFLite": (lambda file: file.write_bytes(b"\x1c\0\0\0TFL3"), "is a TensorFlow Lite model"),
    "gzip": (lambda file: file.write_bytes(gzip.compress(b"x")), "is compressed with gzip; unpack it"),
    "zip": (zipped, "is a zip archive of ['resnet18.pth']; unpack it"),
    "git-lfs": (lambda file: file.write_text("version https://git-lfs.github.com/spec/v1\n"), "is a git-lfs pointer"),
    "HTML": (lambda file: file.write_text("\n<!DOCTYPE html><html>"), "is an HTML page"),
    "nothing": (lambda file: file.write_bytes(b""), "is empty; download"),
    "an optimizer": (
        lambda file: torch.save({"optimizer": around()["optimizer"]}, file),
        "is not a state_dict of tensors",
    ),
}


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_another_kind_is_named(kind: str, tmp_path: Path) -> None:
    make, words = KINDS[kind]
    file = tmp_path / "w.pth"
    make(file)
    with pytest.raises(ValueError, match=r"w\.pth") as raised:
        choose_weights(open_weights(file), RESNET, needs_head=False)
    assert words in str(raised.value)


class Row(NamedTuple):
    """One row of docs/broken-input.md."""

    outcome: str
    make: Callable[[Path, Weights], object]
    """Writes the file of weights."""
    words: str
    """What the user is told."""


def saved(content: Callable[[Weights], object]) -> Callable[[Path, Weights], object]:
    return lambda file, given: torch.save(content(given), file)


def of_kind(kind: str) -> Row:
    make, words = KINDS[kind]
    return Row("error", lambda file, _: make(file), words)


def cut(file: Path, given: Weights) -> None:
    torch.save(given, file)
    file.write_bytes(file.read_bytes()[: 10**6])


ROWS: dict[str, Row] = {
    "weights under a key, beside an optimizer and arguments": Row(
        "accepted", saved(lambda given: {**around(), "state_dict": given}), "taken from 'state_dict'"
    ),
    "weights whose names begin with module. or another prefix": Row(
        "accepted", saved(lambda given: after("_orig_mod.module.", given)), "removed from names: module, _orig_mod"
    ),
    "weights with a second, averaged copy": Row(
        "accepted", saved(lambda given: {"model": weights_of(2), "model_ema": given}), "taken from 'model_ema'"
    ),
    "weights with a head of another size, or without a head": Row(
        "accepted", saved(lambda given: HEADS["of another size"](given)), "the head is initialized randomly"
    ),
    "weights in half or double precision": Row(
        "accepted",
        saved(lambda given: {key: value.half() for key, value in given.items()}),
        "converted to float32 from float16",
    ),
    "weights of another network": Row(
        "error", saved(lambda _: torchvision.models.resnet34().state_dict()), "they fit resnet34"
    ),
    "weights that lack a layer": Row(
        "error", saved(lambda given: {k: v for k, v in given.items() if k != "conv1.weight"}), "missing ['conv1.weight'"
    ),
    "weights with NaN": Row(
        "error",
        saved(lambda given: {**given, "conv1.weight": given["conv1.weight"] * float("nan")}),
        "contains numbers that are not finite (NaN)",
    ),
    "a whole pickled network in place of weights": of_kind("a network"),
    "a TorchScript program in place of weights": of_kind("TorchScript"),
    "an ONNX model in place of weights": of_kind("ONNX"),
    "an HDF5 file of Keras in place of weights": of_kind("HDF5"),
    "a compressed file of weights": of_kind("gzip"),
    "a Git LFS pointer in place of weights": of_kind("git-lfs"),
    "an HTML page in place of weights": of_kind("HTML"),
    "an empty file of weights": of_kind("nothing"),
    "a truncated file of weights": Row("error", cut, "w.pth is a damaged archive"),
}


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.usefixtures("_time_to_guess")
def test_what_is_given_ends_as_the_table_says(
    kind: str, given: Weights, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    row = ROWS[kind]
    row.make(tmp_path / "w.pth", given)
    capfd.readouterr()
    paths = {"untrained_model_path": tmp_path / "untrained", "outputs_path": tmp_path / "outputs"}
    code = run_here("initialize-model", model_name="resnet18", weights=tmp_path / "w.pth", **paths)
    log = capfd.readouterr().err
    assert "Traceback" not in log
    if row.outcome == "error":
        assert code == 1
        assert error_code(tmp_path / "outputs")[1] == 159
        assert "w.pth" in error_text(tmp_path / "outputs")
        assert row.words in error_text(tmp_path / "outputs")
        assert not (tmp_path / "untrained").exists()
    else:
        assert code == 0, log
        assert " WARNING " not in log
        assert row.words in log
        state = read(tmp_path / "untrained").state
        assert torch.allclose(state["conv1.weight"], given["conv1.weight"], atol=1e-3)


def test_what_a_file_lacks_outside_the_head_is_an_error(given: Weights, tmp_path: Path) -> None:
    lacking = {key: value for key, value in given.items() if key != "layer1.0.conv1.weight"}
    with pytest.raises(NetworkError, match=r"missing \['layer1.0.conv1.weight'"):
        choose({"state_dict": after("module.", lacking)}, tmp_path)
    with pytest.raises(NetworkError, match=r"conv1.weight has numbers of type int8"):
        choose({**given, "conv1.weight": given["conv1.weight"].to(torch.int8)}, tmp_path)
