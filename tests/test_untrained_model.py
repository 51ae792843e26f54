from __future__ import annotations

import logging
import os
import pickle
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import nn

from tests.making import error_code, error_text, initialize
from tests.untrained_models import RETIRED, Wrapper, edit_spec, read, write, write_model_with_code
from train_pytorch_model.cli.main import main
from train_pytorch_model.designer_core import dump_trained_model
from train_pytorch_model.errors import InvalidModelDirectoryError
from train_pytorch_model.job.normalisation import normalisation_of
from train_pytorch_model.models.description import describe, torchvision_builders
from train_pytorch_model.models.libraries import Torchvision
from train_pytorch_model.models.network import with_head
from train_pytorch_model.models.network_rules import NetworkError


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_what_initialize_model_writes_is_read(name: str, tmp_path: Path) -> None:
    initialize(tmp_path / "untrained", name, tmp_path / "outputs")
    model = read(tmp_path / "untrained")
    assert str(model.description) == f"torchvision.models.{name}()"
    model.description.build().load_state_dict(model.state)
    assert model.labels is None


@pytest.mark.parametrize(
    ("name", "kind", "class_name", "extra"),
    [
        ("resnet18", "resnet", "ResNet", {"zero_init_residual": False}),
        ("densenet121", "densenet", "DenseNet", {"memory_efficient": True}),
    ],
)
def test_retired_initialisers_directories_are_read_without_their_package(
    name: str, kind: str, class_name: str, extra: dict[str, Any], tmp_path: Path
) -> None:
    network = torchvision.models.get_model(name)
    init_params = {"model_name": name, "pretrained": True, **extra}
    model = read(write(tmp_path / "untrained", Wrapper(network), f"{RETIRED}.{kind}", class_name, init_params))
    assert (model.description.module, model.description.name) == ("torchvision.models", name)
    assert model.description.init_params == extra
    assert model.state.keys() == network.state_dict().keys()
    assert all(torch.equal(model.state[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize(("name", "kind"), [("resnet18", "resnet"), ("densenet121", "densenet")])
def test_the_two_heads_of_a_retired_trained_model_become_one_that_gives_the_same(
    name: str, kind: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    wrapper = Wrapper(torchvision.models.get_model(name), 3).eval()
    init_params = {"model_name": name, "pretrained": True, "num_classes": 3}
    model = read(write(tmp_path / "trained", wrapper, f"{RETIRED}.{kind}", "Any", init_params))
    network = model.description.build().eval()
    network.load_state_dict(model.state)
    images = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(network(images), wrapper(images), rtol=1e-4, atol=1e-5)


def test_a_trained_model_gives_its_labels(tmp_path: Path) -> None:
    network = torchvision.models.resnet18(num_classes=3)
    extras = {"module": "torchvision.models", "class": "resnet18", "is_cuda": True, "init_params": {"num_classes": 3}}
    labels = {0: "007", 1: "a,b", 2: "", 3: "(labels are text)"}
    dump_trained_model(
        tmp_path / "model", network, extras, image_column="image", index_to_label=labels, mean=[0.5] * 3, std=[0.5] * 3
    )
    model = read(tmp_path / "model")
    assert model.labels is not None
    assert model.labels[:3] == ("007", "a,b", "")


def test_the_normalization_of_a_trained_model_is_that_of_its_training_but_for_classic(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = torchvision.models.resnet18(num_classes=1)
    extras = {"module": "torchvision.models", "class": "resnet18", "is_cuda": False, "init_params": {"num_classes": 1}}
    mean, std = [0.485, 0.456, 0.406], [0.25] * 3
    dump_trained_model(
        tmp_path / "model", network, extras, image_column="image", index_to_label={0: "cat"}, mean=mean, std=std
    )
    model = read(tmp_path / "model")
    assert normalisation_of(model, "finetune") == (tuple(mean), tuple(std))
    assert "0.485" not in caplog.text
    with caplog.at_level(logging.WARNING):
        assert normalisation_of(model, "classic") == ((0.5,) * 3, (0.5,) * 3)
    assert "0.485" in caplog.text


def test_a_model_need_say_nothing_of_its_pixels(tmp_path: Path) -> None:
    path = write(tmp_path / "model", torchvision.models.squeezenet1_1(), "torchvision.models", "squeezenet1_1", {})
    edit_spec(path, inputs=[{"name": "image"}, {"name": "id", "pre_processor": None}])
    assert read(path).normalisations == {}


def damage_meta(path: Path) -> None:
    (path / "_meta.yaml").write_text("type: ImageDirectory\n")


def lose(name: str) -> Any:
    return lambda path: (path / name).unlink()


def spec(**changes: Any) -> Any:
    return lambda path: edit_spec(path, **changes)


def weights(value: object) -> Any:
    return lambda path: torch.save(value, path / "model")


def normalizer(**init_params: object) -> Any:
    return spec(inputs=[{"name": "image", "pre_processor": {"class": "ImageNormalizer", "init_params": init_params}}])


def lose_the_first_head(path: Path) -> None:
    """A retired trained model with the second of its two heads alone."""
    edit_spec(path, flavor_extras={**EXTRAS, "module": f"{RETIRED}.resnet", "init_params": {"model_name": "resnet18"}})
    torch.save({"out_linear_model.weight": torch.ones(2, 1000), "out_linear_model.bias": torch.ones(2)}, path / "model")


EXTRAS = {"module": "torchvision.models", "class": "resnet18", "is_cuda": False}
DAMAGES: dict[str, tuple[Any, str]] = {
    "no meta": (lose("_meta.yaml"), "_meta.yaml is missing"),
    "another type": (damage_meta, "'ImageDirectory'"),
    "no spec": (lose("model_spec.yaml"), "'model_spec.yaml' is missing"),
    "no weights": (lose("model"), "'model' is missing"),
    "weights leave": (spec(model_file="../model"), "leaves the directory"),
    "legacy pickle": (spec(flavor=None, model_type="pickle"), "a pickled model"),
    "custom flavor": (spec(flavor={"name": "custom", "module": "os", "class": "system"}), "its flavor is"),
    "another method": (spec(flavor={"name": "pytorch", "serialization_method": "savedmodel"}), "its flavor is"),
    "another task": (spec(task_type="Regression"), "'Regression'"),
    "no class": (spec(flavor_extras={}), "no 'module' and 'class'"),
    "class without end": (spec(flavor_extras={**EXTRAS, "class": "x" * 1000}), "of more than 200 characters"),
    "arguments without names": (spec(flavor_extras={**EXTRAS, "init_params": [1]}), "'init_params' is not a mapping"),
    "spec a list": (lambda path: (path / "model_spec.yaml").write_text("[1]"), "model specification is not a mapping"),
    "weights not named": (spec(model_file=None), "(key 'model_file'): None is not a file name"),
    "one head of two": (lose_the_first_head, "the two heads of the retired network do not match"),
    "grey pixels": (normalizer(mean=[0.5], std=[0.5]), "mean [0.5] and std [0.5] are not three numbers each"),
    "pixels by name": (normalizer(mean=["red"] * 3, std=[0.5] * 3), "must be numbers, not ['red', 'red', 'red']"),
    "no pixels": (normalizer(mean=[0.5] * 3), "inputs of the model specification are damaged: KeyError: 'std'"),
    "foreign code": (spec(flavor_extras={**EXTRAS, "module": "os", "class": "system"}), "--trust-model-code"),
    "nested state": (weights({"state_dict": {}}), "not a state_dict of tensors; it contains ['state_dict']"),
    "unknown retired name": (
        spec(flavor_extras={**EXTRAS, "module": f"{RETIRED}.resnet", "init_params": {"model_name": "resnet1"}}),
        "resnet1",
    ),
    "lost label map": (spec(label_map_file="labels.csv"), "'labels.csv' is missing"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_an_invalid_model_directory(kind: str, tmp_path: Path) -> None:
    damage, words = DAMAGES[kind]
    path = write(tmp_path / "model", nn.Linear(1, 1), "torchvision.models", "resnet18", {})
    damage(path)
    with pytest.raises(InvalidModelDirectoryError) as raised:
        read(path)
    assert words in raised.value.message
    assert raised.value.message.startswith(
        f'InvalidModelDirectory: ModelDirectory "Untrained model" is invalid. Reason: in {path}'
    )
    assert raised.value.code == 159


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["torch", "pickle"])
def test_weights_that_carry_code_are_refused_and_nothing_runs(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / "model", nn.Linear(1, 1), "torchvision.models", "resnet18", {})
    payload = {"weight": Payload(tmp_path / "ran")}
    if kind == "torch":
        torch.save(payload, path / "model")
    else:
        (path / "model").write_bytes(pickle.dumps(payload))
    with pytest.raises(InvalidModelDirectoryError, match="loaded safely"):
        read(path)
    assert not (tmp_path / "ran").exists()


def test_code_in_local_dependencies_is_used_only_with_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    path = write_model_with_code(tmp_path / "model")
    with pytest.raises(InvalidModelDirectoryError, match="--trust-model-code"):
        read(path)
    model = read(path, trust_code=True)
    assert model.description.build()(torch.zeros(1, 3, 8, 8)).shape == (1, 2)
    assert [Path(folder).name for folder in model.code_folders] == ["mine"]


def initialize_exit_code(tmp_path: Path, *more: str) -> int:
    path = ("--untrained-model-path", str(tmp_path / "untrained"), "--outputs-path", str(tmp_path / "outputs"))
    return main(["initialize-model", *path, *more])


def test_weights_come_from_a_file_or_a_folder_of_torchvisions_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    given = torchvision.models.densenet121().state_dict()
    # The published file names its layers as an early release did.
    published = {
        key.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2.") if "denselayer" in key else key: value
        for key, value in given.items()
        if not key.endswith("num_batches_tracked")
    }
    folder = tmp_path / "weights"
    folder.mkdir()
    torch.save(published, folder / "densenet121-a639ec97.pth")
    for source in (folder, folder / "densenet121-a639ec97.pth"):
        assert initialize_exit_code(tmp_path, "--model-name", "densenet121", "--weights", str(source)) == 0
        state = read(tmp_path / "untrained").state
        assert all(torch.equal(state[key], value) for key, value in given.items())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model-name", "resnet19"], "Did you mean resnet18"),
        (["--model-name", "resnet18", "--weights", "nowhere.pth"], "neither a file nor a folder"),
        (["--model-name", "resnet18", "--weights", "."], "contains none of resnet18-f37072fd.pth"),
        (["--model-name", "resnet18", "--weights", "other.pth"], "do not fit"),
        (["--model-name", "resnet18", "--weights", "half.safetensors"], "half.safetensors is a text: 'half'"),
        (["--model-name", "resnet18", "--memory-efficient", "true"], "cannot be built"),
    ],
)
def test_initialising_with_wrong_input_is_a_named_error(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(nn.Linear(1, 1).state_dict(), "other.pth")
    Path("half.safetensors").write_bytes(b"half")
    assert initialize_exit_code(tmp_path, *arguments) == 1
    printed = capfd.readouterr().err
    assert words in printed
    assert "InvalidModelDirectory: " in printed
    assert not (tmp_path / "untrained").exists()


def test_the_seed_covers_random_weights(tmp_path: Path) -> None:
    states = []
    for number, seed in enumerate(("1", "1", "2")):
        path = tmp_path / str(number)
        initialize(path, "squeezenet1_1", tmp_path / "outputs", random_seed=seed)
        states.append(read(path).state["features.0.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize("name", ["resnet10t", "timm/resnet18"])
def test_a_network_of_timm_is_initialised_read_and_fitted_with_a_head(name: str, tmp_path: Path) -> None:
    initialize(tmp_path / "untrained", name, tmp_path / "outputs")
    model = read(tmp_path / "untrained")
    plain = name.rpartition("/")[2]
    assert model.description.init_params == {"model_name": plain, "num_classes": 1000}
    assert model.description.network_name == plain
    network, description = with_head(model.description, model.state, 3, keep_head=False)
    assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 3)
    assert type(network).__module__.startswith("timm.")
    assert description.init_params["num_classes"] == 3


@pytest.mark.parametrize(
    "init_params",
    [
        {"model_name": "hf-hub:someone/else"},
        {"model_name": "local-dir:/tmp"},
        {"model_name": ["resnet10t"]},
        {},
    ],
)
def test_timm_is_asked_for_nothing_but_a_name_of_its_list(init_params: dict[str, object]) -> None:
    with pytest.raises(NetworkError, match="--trust-model-code"):
        describe("timm", "create_model", init_params)


def test_arguments_that_make_timm_read_or_fetch_files_are_dropped() -> None:
    harmful = {"pretrained": True, "checkpoint_path": "/etc/passwd", "pretrained_cfg": {"file": "x"}, "cache_dir": "/"}
    description = describe("timm", "create_model", {"model_name": "resnet10t", **harmful})
    assert description.init_params == {"model_name": "resnet10t"}


def test_weights_of_timm_come_from_a_file_of_its_format(tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    given = timm.create_model("resnet10t").state_dict()
    (tmp_path / "weights").mkdir()
    save_file(given, tmp_path / "weights" / "model.safetensors")
    for source in (tmp_path / "weights", tmp_path / "weights" / "model.safetensors"):
        initialize(tmp_path / "untrained", "resnet10t", tmp_path / "outputs", weights=source)
        state = read(tmp_path / "untrained").state
        assert all(torch.equal(state[key], value) for key, value in given.items())


class Weights:
    """Stands for a library's download, which cannot be tried here: fails as often as it is told, then gives."""

    def __init__(self, faults: list[Exception], state: dict[str, torch.Tensor]) -> None:
        self.faults = faults
        self.state = state

    def fetch(self, name: str) -> dict[str, torch.Tensor]:
        if self.faults:
            raise self.faults.pop(0)
        return self.state


@pytest.mark.parametrize(
    ("faults", "code"),
    [
        ([], None),
        ([URLError("no route"), URLError("no route")], None),
        ([URLError("no route")] * 3, 162),
        ([RuntimeError('invalid hash value (expected "1", got "2")')] * 3, 162),
        ([RuntimeError("PytorchStreamReader failed reading zip archive")], 159),
    ],
)
def test_weights_are_fetched_again_before_a_named_error(
    faults: list[Exception], code: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(3)
    state = torchvision.models.squeezenet1_1().state_dict()
    weights, waits = Weights(list(faults), state), []
    monkeypatch.setattr(Torchvision, "fetch", lambda self, name: weights.fetch(name))
    monkeypatch.setattr("time.sleep", waits.append)
    exit_code = initialize_exit_code(tmp_path, "--model-name", "squeezenet1_1", "--pretrained", "True")
    if code is None:
        assert exit_code == 0
        assert torch.equal(read(tmp_path / "untrained").state["features.0.weight"], state["features.0.weight"])
        assert waits == [3, 10][: len(faults)]
    else:
        assert exit_code == 1
        assert error_code(tmp_path / "outputs")[1] == code
        assert not (tmp_path / "untrained").exists()


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Caches of torchvision and timm, empty, and no network around them."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "timm"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path


def test_default_weights_come_out_of_torchvisions_cache(caches: Path) -> None:
    torch.manual_seed(4)
    given = torchvision.models.squeezenet1_1().state_dict()
    cached = caches / "torch" / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    torch.save(given, cached)
    assert initialize_exit_code(caches, "--model-name", "squeezenet1_1", "--weights", "default") == 0
    state = read(caches / "untrained").state
    assert all(torch.equal(state[key], value) for key, value in given.items())
    torch.save({"state_dict": 1}, cached)
    assert initialize_exit_code(caches, "--model-name", "squeezenet1_1", "--weights", "default") == 1
    assert error_code(caches / "outputs") == ("InvalidModelDirectory", 159)
    assert "squeezenet1_1-b8a52dc0.pth is not a state_dict of tensors" in error_text(caches / "outputs")


def test_default_weights_come_out_of_timms_cache(caches: Path) -> None:
    import timm
    from safetensors.torch import save_file

    assert initialize_exit_code(caches, "--model-name", "resnet10t", "--weights", "default") == 1
    assert error_code(caches / "outputs")[1] == 162
    assert "timm/resnet10t.c3_in1k" in error_text(caches / "outputs")
    torch.manual_seed(4)
    given = timm.create_model("resnet10t").state_dict()
    repository = caches / "timm" / "models--timm--resnet10t.c3_in1k"
    for name in ("refs", "snapshots/1"):
        (repository / name).mkdir(parents=True)
    (repository / "refs" / "main").write_text("1")
    save_file(given, repository / "snapshots" / "1" / "model.safetensors")
    assert initialize_exit_code(caches, "--model-name", "resnet10t", "--weights", "default") == 0
    state = read(caches / "untrained").state
    assert all(torch.equal(state[key], value) for key, value in given.items())


def test_the_list_shows_every_network_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["initialize-model", "--list"])
    assert ended.value.code == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()[1:]}
    assert rows["resnet18"] == ["11,689,512", "224", "69.76", "%"]
    assert rows["vit_h_14"][1] == "224"
    assert set(rows) >= {*torchvision_builders(), "timm/resnet18", "timm/vit_tiny_patch16_224"}
