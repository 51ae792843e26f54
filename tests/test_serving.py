"""Loading and running a trained model with the sources that it carries."""

from __future__ import annotations

import importlib
import math
import shutil
import sys
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML
from torch.utils._python_dispatch import TorchDispatchMode

from tests import odd_images
from tests.making import Inputs
from tests.served_models import make_multilabel, write_model, write_network
from tests.serving_sources import served_images, served_model
from tests.untrained_models import write_model_with_code
from train_pytorch_model.cli.main import main
from train_pytorch_model.data.batches import normalised
from train_pytorch_model.distributed.device import torch_settings_restored
from train_pytorch_model.models.description import NetworkDescription
from train_pytorch_model.serving.files import SERVING_FILES, write_serving_files

BadImageError = served_images.BadImageError
ServedModel = served_model.ServedModel


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), "torchvision.models", "squeezenet1_1", num_classes=2)


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Returns a model whose network does what a line of code says."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TRUST_MODEL_CODE", "1")

    def write_and_load(first_line: str) -> Any:
        return ServedModel(write_model(tmp_path / "model", write_network(tmp_path, first_line), "Network"))

    return write_and_load


def pictures(count: int, side: int = 8) -> list[Image.Image]:
    return [odd_images.noise(number).resize((side, side)) for number in range(count)]


def test_an_image_that_the_network_cannot_take_is_named_by_its_size(model: Path) -> None:
    loaded = ServedModel(model)
    for _ in range(2):
        with pytest.raises(BadImageError, match="the network does not support images of 9x8: "):
            loaded.answer([Image.new("RGB", (9, 8))])
    assert len(loaded.answer([Image.new("RGB", (64, 64))])["result"]) == 1


def test_images_in_a_batch_get_the_answers_of_single_ones(model: Path) -> None:
    loaded = ServedModel(model)
    images = [*pictures(20, side=64), *pictures(3, side=80), *pictures(2, side=64)]
    together = loaded.answer(iter(images))
    for picture, row in zip(images, together["result"]):
        (alone,) = loaded.answer([picture])["result"]
        assert row[:2] == pytest.approx(alone[:2], abs=1e-6)
        assert row[2] == alone[2]


def test_an_image_of_any_mode_is_converted_as_score_converts_it(model: Path) -> None:
    loaded = ServedModel(model)
    for mode in ("L", "LA", "P", "RGBA", "CMYK", "1", "I;16", "F"):
        picture = pictures(1, side=64)[0].convert("L" if mode in ("I;16", "F") else mode).convert(mode)
        assert loaded.answer([picture]) == loaded.answer([picture.convert("RGB")])


class Divisors(TorchDispatchMode):
    """Writes down by what tensors are divided."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[object] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.overloadpacket is torch.ops.aten.div:
            self.found.append(args[1])
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("mean", "std"), [([0.5] * 3, [0.5] * 3), ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
def test_pixels_become_the_numbers_that_score_gives_to_the_network(
    mean: list[float], std: list[float], serve: Callable[[str], Any]
) -> None:
    model = serve("pass")
    model._mean, model._std = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)
    with Divisors() as divisors:
        given = model._normalised(pixels)
    expected = normalised(pixels.permute(0, 3, 1, 2), torch.contiguous_format, model._mean, model._std)
    assert torch.equal(given, expected)
    # By a number, a GPU would multiply by its reciprocal.
    assert [isinstance(value, torch.Tensor) for value in divisors.found] == [True, True]


def test_tf32_is_off_while_a_model_computes_and_as_before_afterwards(serve: Callable[[str], Any]) -> None:
    loaded = serve("assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32")
    with torch_settings_restored():
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
        loaded.answer(pictures(2))
        assert torch.backends.cudnn.allow_tf32
        assert torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize("error", ["torch.OutOfMemoryError('CUDA out of memory. Tried to')", "MemoryError()"])
def test_a_batch_that_does_not_fit_in_memory_is_computed_in_parts(serve: Callable[[str], Any], error: str) -> None:
    loaded = serve(f"if len(x) > 2: raise {error}")
    images = pictures(7)
    alone = [loaded.answer([picture])["result"][0] for picture in images]
    assert [row[2] for row in loaded.answer(images)["result"]] == [row[2] for row in alone]


@pytest.mark.parametrize(
    "words",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "GET was unable to find an engine to execute this computation",
        "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to",
    ],
)
def test_an_image_that_does_not_fit_in_memory_is_not_a_bad_image(serve: Callable[[str], Any], words: str) -> None:
    with pytest.raises(served_model.OutOfMemoryError):
        serve(f"raise RuntimeError({words!r})").answer(pictures(2))


@pytest.mark.parametrize("words", ["an illegal memory access was encountered", "device-side assert triggered"])
def test_an_error_that_breaks_the_context_of_cuda_is_told_apart(serve: Callable[[str], Any], words: str) -> None:
    with pytest.raises(served_model.BrokenDeviceError, match=words):
        serve(f"raise RuntimeError('CUDA error: {words}\\nCUDA kernel errors might be')").answer(pictures(2))


@pytest.mark.parametrize(
    "line",
    [
        "raise RuntimeError('cuDNN error: CUDNN_STATUS_EXECUTION_FAILED')",
        "if x.device.type != 'meta': raise RuntimeError('something else')",
    ],
)
def test_other_errors_of_a_network_are_not_blamed_on_the_image(serve: Callable[[str], Any], line: str) -> None:
    with pytest.raises(RuntimeError, match=r"CUDNN|something else"):
        serve(line).answer(pictures(2))


def test_a_network_that_needs_the_contiguous_format_gets_it(serve: Callable[[str], Any]) -> None:
    loaded = serve("return self.head(self.kernel(x).view(-1).view(len(x), 3, -1).mean(2))")
    images = pictures(3)
    assert [row[2] for row in loaded.answer(images)["result"]] == [
        loaded.answer([picture])["result"][0][2] for picture in images
    ]


def test_a_network_may_return_a_tuple_that_begins_with_the_logits(serve: Callable[[str], Any]) -> None:
    assert len(serve("return self.head(x.mean((2, 3))), None").answer(pictures(2))["result"]) == 2


def test_the_environment_of_the_endpoint_names_the_versions_the_model_was_made_by(model: Path, tmp_path: Path) -> None:
    document = YAML(typ="safe").load(model / "conda_env.yaml")
    assert f"python={sys.version_info.major}.{sys.version_info.minor}" in document["dependencies"]
    packages = next(item["pip"] for item in document["dependencies"] if isinstance(item, dict))
    assert f"torch=={torch.__version__.partition('+')[0]}" in packages
    assert "timm" not in " ".join(packages)
    write_serving_files(tmp_path, NetworkDescription("timm", "create_model", {"model_name": "resnet10t"}))
    assert f"  - timm=={version('timm')}\n" in (tmp_path / "conda_env.yaml").read_text()
    for source in SERVING_FILES:
        assert "azureml.designer" not in (model / source).read_text()
        assert "train_pytorch_model" not in (model / source).read_text()


@pytest.mark.parametrize(
    ("module", "name", "arguments"), [("os", "makedirs", {"name": "made"}), ("builtins", "open", {"file": "made"})]
)
def test_a_model_that_names_another_function_is_not_served(
    module: str, name: str, arguments: dict[str, str], model: Path, tmp_path: Path
) -> None:
    shutil.copytree(model, tmp_path / "model")
    yaml = YAML(typ="safe")
    spec = yaml.load((model / "model_spec.yaml").read_text(encoding="utf-8"))
    given = {key: str(tmp_path / value) for key, value in arguments.items()}
    spec["flavor_extras"] = {**spec["flavor_extras"], "module": module, "class": name, "init_params": given}
    with (tmp_path / "model" / "model_spec.yaml").open("w", encoding="utf-8") as file:
        yaml.dump(spec, file)
    with pytest.raises(ValueError, match="neither a class of networks nor a builder"):
        ServedModel(tmp_path / "model")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("module", "name", "arguments"),
    [
        ("timm", "create_model", {"model_name": "local-dir:/tmp"}),
        ("timm.task.distillation", "DistillationTeacher", {}),
        ("torchvision.datasets", "CIFAR10", {}),
        ("torchvision.models", "get_model", {"name": "resnet18"}),
        ("torch.nn", "Linear", {"in_features": 1, "out_features": 1}),
    ],
)
def test_only_networks_of_known_libraries_are_built_without_trust(
    module: str, name: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="TRUST_MODEL_CODE"):
        served_model.build_network(module, name, arguments, trusted=False)


def test_arguments_that_make_a_library_fetch_files_are_dropped_when_serving() -> None:
    given = {"model_name": "resnet10t", "pretrained": True, "checkpoint_path": "/etc/passwd", "num_classes": 2}
    assert served_model.build_network("timm", "create_model", given, trusted=False).num_classes == 2
    network = served_model.build_network("torchvision.models", "squeezenet1_1", {"weights": "DEFAULT"}, trusted=False)
    assert type(network).__name__ == "SqueezeNet"
    assert served_model.build_network("torchvision.models.squeezenet", "SqueezeNet", {}, trusted=False)
    layers = {"block": importlib.import_module("timm.models.resnet").BasicBlock, "layers": (1, 1, 1, 1)}
    assert served_model.build_network("timm.models.resnet", "ResNet", {**layers, "num_classes": 2}, trusted=False)


def test_what_is_trusted_must_be_a_network_too() -> None:
    with pytest.raises(ValueError, match=r"collections.Counter returns a Counter, not a network"):
        served_model.build_network("collections", "Counter", {}, trusted=True)


def test_a_network_of_another_package_is_served_where_a_variable_says_so(
    serve: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(serve("pass").answer(pictures(1))["result"]) == 1
    monkeypatch.delenv("TRUST_MODEL_CODE")
    with pytest.raises(ValueError, match="TRUST_MODEL_CODE"):
        ServedModel(tmp_path / "model")


def test_a_models_own_code_is_served_and_no_bomb_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = Inputs(tmp_path).make()
    shutil.rmtree(inputs.untrained)
    write_model_with_code(inputs.untrained)
    monkeypatch.setattr("sys.path", [*sys.path])
    assert main([*inputs.arguments(), "--trust-model-code"]) == 0
    answer = ServedModel(inputs.trained).answer([Image.new("RGB", (32, 32))])
    assert len(answer["result"][0]) == 4
    with zipfile.ZipFile(inputs.trained / "local_dependencies.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for number in range(257):
            packed.writestr(f"mine/{number}", bytes(2**20))
    with pytest.raises(ValueError, match="is too large for code"):
        ServedModel(inputs.trained)


# The logits of a cat and a dog are the first two channels of the mean pixel, which are from -1 to 1.
MEANS = "return x.mean((2, 3))[:, :2]"


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_a_model_of_several_labels_gives_those_that_reach_their_thresholds(
    serve: Callable[[str], Any], tmp_path: Path
) -> None:
    serve(MEANS)
    model = ServedModel(make_multilabel(tmp_path / "model", cat=0.6, dog=0.5))
    colors = {(255, 255, 0): ["cat", "dog"], (0, 0, 0): [], (255, 0, 9): ["cat"], (128, 128, 0): ["dog"]}
    answer = model.answer([Image.new("RGB", (8, 8), color) for color in colors])
    assert answer["columns"] == ["Scored Probabilities_cat", "Scored Probabilities_dog", "Scored Labels"]
    for color, (cat, dog, labels) in zip(colors, answer["result"]):
        assert labels == colors[color]
        assert (cat, dog) == pytest.approx([sigmoid(channel / 127.5 - 1) for channel in color[:2]], abs=1e-6)


def test_a_probability_at_its_threshold_reaches_it(serve: Callable[[str], Any], tmp_path: Path) -> None:
    serve(MEANS + " * 0")
    model = ServedModel(make_multilabel(tmp_path / "model", cat=0.5, dog=math.nextafter(0.5, 1)))
    assert model.answer(pictures(1))["result"] == [[0.5, 0.5, ["cat"]]]


def test_a_label_map_may_have_a_row_after_the_outputs(serve: Callable[[str], Any], tmp_path: Path) -> None:
    serve(MEANS + " * 0")
    model = make_multilabel(tmp_path / "model", cat=0.5, dog=0.6)
    with (model / "index_to_label.csv").open("a", encoding="utf-8") as file:
        file.write("2,(labels are text)\n")
    assert ServedModel(model).answer(pictures(1))["result"] == [[0.5, 0.5, ["cat"]]]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("{", "task.json is damaged: Expecting property name"),
        ("[]", "is no task of several labels"),
        ('{"task": "detection", "thresholds": {"cat": 0.5, "dog": 0.5}}', "is no task of several labels"),
        ('{"task": "multilabel"}', "is no task of several labels"),
        ('{"task": "multilabel", "thresholds": {"cat": 0.5, "dog": 1.5}}', "the threshold of 'dog' should be a number"),
        ('{"task": "multilabel", "thresholds": {"cat": true, "dog": 0.5}}', "but is True"),
        ('{"task": "multilabel", "thresholds": {"cat": NaN, "dog": 0.5}}', "but is nan"),
        ('{"task": "multilabel", "thresholds": {"cat": 0.5, "dogs": 0.5}}', "differ in 'dog'"),
        ('{"task": "multilabel", "thresholds": {"dog": 0.5}}', "differ in 'cat'"),
    ],
)
def test_a_damaged_task_is_named_when_the_model_is_loaded(
    document: str, words: str, model: Path, tmp_path: Path
) -> None:
    shutil.copytree(model, tmp_path / "model")
    (make_multilabel(tmp_path / "model") / "task.json").write_text(document)
    with pytest.raises(ValueError, match=words):
        ServedModel(tmp_path / "model")


def test_a_model_that_has_lost_its_task_is_not_served(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "model")
    (make_multilabel(tmp_path / "model", cat=0.5, dog=0.5) / "task.json").unlink()
    with pytest.raises(ValueError, match=r"which task\.json or its absence contradicts"):
        ServedModel(tmp_path / "model")
