"""A trained model served by Azure's own inference server, and in the forms that others take."""

from __future__ import annotations

import base64
import importlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torchvision
from PIL import Image
from ruamel.yaml import YAML

from tests import environments
from tests.jobs import free_port
from tests.making import Inputs, error_text, read_json_lines, run_here
from tests.serving_sources import served_images, served_model
from tests.untrained_models import write_model_with_code
from train_pytorch_model.cli.main import main
from train_pytorch_model.designer_core import dump_trained_model
from train_pytorch_model.models.description import NetworkDescription
from train_pytorch_model.serving import exports
from train_pytorch_model.serving.files import write_serving_files

BadImageError = served_images.BadImageError
ServedModel = served_model.ServedModel
CLASSES = ("007", "<b>", "owl")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    inputs = Inputs(tmp_path_factory.mktemp("served")).make("resnet18", classes=CLASSES, size=48)
    assert inputs.fit(epochs=2, learning_rate=0.01, export="onnx") == 0
    return inputs


@pytest.fixture(scope="module")
def scored(trained: Inputs) -> pd.DataFrame:
    """What Score says of the validation images."""
    ports = {"trained_model": trained.trained, "dataset": trained.valid, "scored_dataset": trained.path / "scored"}
    assert run_here("score-image-model", **ports, outputs_path=trained.outputs) == 0
    return pd.read_parquet(trained.path / "scored" / "_data.parquet")


def image_files(trained: Inputs) -> list[bytes]:
    items = read_json_lines(trained.valid / "images.lst")
    return [(trained.valid / item["image_info"]["file_name"]).read_bytes() for item in items]  # type: ignore[index]


@pytest.fixture(scope="module")
def endpoint(trained: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The model's own score.py under the real server, away from this project."""
    folder = tmp_path_factory.mktemp("server")
    port = free_port()
    server = environments.inference_server().parent / "azmlinfsrv"
    command = [server, "--entry_script", trained.trained / "score.py", "--model_dir", trained.trained, "--port", port]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [str(part) for part in command], stdout=log, stderr=subprocess.STDOUT, cwd=folder, start_new_session=True
        )
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1).read()
                    break
                except OSError:
                    assert process.poll() is None, (folder / "log.txt").read_text()
                    time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/score"
        finally:
            subprocess.run(["pkill", "-g", str(process.pid)], check=False)
            process.wait(20)


def post(address: str, body: bytes, kind: str = "application/json") -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(address, body, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def as_json(files: list[bytes], prefix: str = "") -> list[dict[str, str]]:
    return [{"image": prefix + base64.b64encode(file).decode()} for file in files]


def check(answer: dict[str, Any], expected: pd.DataFrame) -> None:
    names = [name for name in expected if name.startswith("Scored")]
    assert answer["columns"] == names
    for row, given in zip(expected[names].itertuples(index=False), answer["result"]):
        assert given[:-1] == pytest.approx(list(row)[:-1], abs=1e-6)
        assert given[-1] == row[-1]
    assert len(answer["result"]) == len(expected)


@pytest.mark.environment
@pytest.mark.parametrize("form", ["list", "data", "browser"])
def test_the_endpoint_says_what_score_says(form: str, endpoint: str, trained: Inputs, scored: pd.DataFrame) -> None:
    entries = as_json(image_files(trained), "data:image/png;base64," if form == "browser" else "")
    body: object = {"data": entries} if form == "data" else entries
    status, answer = post(endpoint, json.dumps(body).encode())
    assert status == 200
    check(answer, scored)


@pytest.mark.environment
def test_an_image_may_be_the_body(endpoint: str, trained: Inputs, scored: pd.DataFrame) -> None:
    status, answer = post(endpoint, image_files(trained)[3], "image/png")
    assert status == 200
    check(answer, scored.iloc[3:4])


@pytest.mark.environment
def test_two_hundred_requests_eight_at_once_and_bad_ones_between_them(
    endpoint: str, trained: Inputs, scored: pd.DataFrame
) -> None:
    files = image_files(trained)
    huge = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(huge, format="PNG")
    bad = [
        b"",
        b"{",
        b"[]",
        b"[1]",
        b'[{"image": 3}]',
        b'[{"image": "***"}]',
        b'{"data": "x"}',
        b"no image",
        b"\x00\xff",
    ]
    bad += [b"[" * 100_000, json.dumps(as_json([files[0][:100]])).encode(), huge.getvalue(), b'[{"picture": "x"}]']

    def ask(number: int) -> None:
        if number % 10 == 9:
            status, answer = post(endpoint, bad[number // 10 % len(bad)])
            assert status == 400
            assert answer["error"]
        else:
            index = number % len(files)
            status, answer = post(endpoint, json.dumps(as_json([files[index]])).encode())
            assert status == 200
            check(answer, scored.iloc[index : index + 1])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(200)))
    for body in bad:
        assert post(endpoint, body)[0] == 400


@pytest.fixture
def answer_of(
    trained: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[bytes], tuple[int, dict[str, Any]]]:
    """The scoring script in this process, with the server's own classes around it: the answer to a body."""
    packages = next((environments.inference_server().parent.parent / "lib").glob("python*")) / "site-packages"
    monkeypatch.setattr("sys.path", [*sys.path, str(packages)])
    score = importlib.import_module("score")
    request_class = importlib.import_module("flask").Request
    shutil.copytree(trained.trained, tmp_path / "registered" / "1")
    monkeypatch.setenv("AZUREML_MODEL_DIR", str(tmp_path))
    score.init()

    def answer(body: bytes) -> tuple[int, dict[str, Any]]:
        response = score.run(request_class.from_values(data=body))
        return response.status_code, json.loads(response.get_data())

    return answer


@pytest.mark.environment
def test_the_scoring_script_says_what_score_says(
    answer_of: Callable[[bytes], tuple[int, dict[str, Any]]], trained: Inputs, scored: pd.DataFrame
) -> None:
    files = image_files(trained)
    for body in (as_json(files), {"data": as_json(files, "data:image/png;base64,")}):
        status, answer = answer_of(json.dumps(body).encode())
        assert status == 200
        check(answer, scored)
    status, answer = answer_of(files[2])
    assert status == 200
    check(answer, scored.iloc[2:3])


def png(width: int, height: int) -> bytes:
    content = io.BytesIO()
    Image.new("1", (width, height)).save(content, format="PNG")
    return content.getvalue()


BAD_BODIES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "the body is empty"),
    "half of JSON": (b"[", "the body is not JSON"),
    "brackets without end": (b"[" * 100_000, "the body is not JSON"),
    "no images": (b"[]", "expected a list"),
    "no list": (b'{"data": 3}', "expected a list"),
    "numbers": (b"[1]", "entry 0: expected the base64 of an image file, but got a number"),
    "too many": (json.dumps([{}] * 1001).encode(), "at most 1000 images, but this one has 1001"),
    "no image": (b'[{"picture": 3}]', 'entry 0 has "picture"; the field of an image is called "image"'),
    "null": (b'[{"image": null}]', "entry 0: expected the base64 of an image file, but got null"),
    "no base64": (b'[{"image": "***"}]', '"image" of entry 0: it is not base64'),
    "base64 of something else": (b'[{"image": "aGVsbG8="}]', "it is not a readable image"),
    "a body of something else": (b"hello", "it is not a readable image"),
    "an image of too many pixels": (png(20_000, 1000), "it has 20000x1000 pixels, which is too large"),
}


@pytest.mark.environment
@pytest.mark.parametrize("kind", BAD_BODIES)
def test_the_scoring_script_says_what_is_wrong_with_a_request(
    kind: str, answer_of: Callable[[bytes], tuple[int, dict[str, Any]]]
) -> None:
    body, words = BAD_BODIES[kind]
    status, answer = answer_of(body)
    assert status == 400
    assert words in answer["error"]


@pytest.mark.environment
def test_the_scoring_script_does_not_start_without_a_model(
    answer_of: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("AZUREML_MODEL_DIR", str(tmp_path / "empty"))
    with pytest.raises(FileNotFoundError, match=r"there is no model_spec.yaml under"):
        importlib.import_module("score").init()


def test_an_image_that_the_network_cannot_take_is_named_by_its_size(tmp_path: Path) -> None:
    network = torchvision.models.squeezenet1_1(num_classes=2)
    extras = {"module": "torchvision.models", "class": "squeezenet1_1", "init_params": {"num_classes": 2}}
    labels = {0: "cat", 1: "dog"}
    dump_trained_model(
        tmp_path, network, extras, image_column="image", index_to_label=labels, mean=[0.5] * 3, std=[0.5] * 3
    )
    with pytest.raises(BadImageError, match="the network does not support images of 9x8: "):
        ServedModel(tmp_path).answer([Image.new("RGB", (9, 8))])


def test_the_loader_of_mlflow_takes_images_in_base64_and_as_bytes(trained: Inputs, scored: pd.DataFrame) -> None:
    model = importlib.import_module("mlflow_loader")._load_pyfunc(str(trained.trained))
    files = image_files(trained)
    images = [*files[:5], *(entry["image"] for entry in as_json(files[5:]))]
    given = model.predict(pd.DataFrame({"image": images})).to_dict("split")
    check({"columns": given["columns"], "result": given["data"]}, scored)


def test_the_environment_of_the_endpoint_names_the_versions_the_model_was_made_by(
    trained: Inputs, tmp_path: Path
) -> None:
    import torch

    document = YAML(typ="safe").load(trained.trained / "conda_env.yaml")
    assert f"python={sys.version_info.major}.{sys.version_info.minor}" in document["dependencies"]
    packages = next(item["pip"] for item in document["dependencies"] if isinstance(item, dict))
    assert f"torch=={torch.__version__.partition('+')[0]}" in packages
    assert "timm" not in " ".join(packages)
    write_serving_files(tmp_path, NetworkDescription("timm", "create_model", {"model_name": "resnet10t"}))
    assert f"  - timm=={version('timm')}\n" in (tmp_path / "conda_env.yaml").read_text()
    script = (trained.trained / "score.py").read_text() + (trained.trained / "served_model.py").read_text()
    assert "azureml.designer" not in script
    assert "train_pytorch_model" not in script


def test_onnxruntime_says_the_same_of_plain_pixels(trained: Inputs, scored: pd.DataFrame) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(trained.trained / "model.onnx"), providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["labels"]) == sorted(CLASSES)
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in image_files(trained)])
    (given,) = session.run(None, {"images": pixels.transpose(0, 3, 1, 2)})
    expected = scored[[name for name in scored if name.startswith("Scored Prob")]].to_numpy()
    assert np.abs(given - expected).max() < 1e-4


def test_mlflow_loads_the_model_away_from_this_project(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path).make("squeezenet1_1", size=64)
    assert inputs.fit(epochs=1, export="mlflow") == 0
    ports = {"trained_model": inputs.trained, "dataset": inputs.valid, "scored_dataset": tmp_path / "scored"}
    assert run_here("score-image-model", **ports, outputs_path=inputs.outputs) == 0
    expected = pd.read_parquet(tmp_path / "scored" / "_data.parquet")
    images = [entry["image"] for entry in as_json(image_files(inputs))]
    (tmp_path / "images.json").write_text(json.dumps(images))
    code = (
        "import sys; sys.meta_path = [f for f in sys.meta_path if '__editable__' not in str(f)]\n"
        "sys.path = [p for p in sys.path if not p.endswith('/src')]\n"
        "import json, mlflow, pandas\n"
        "model = mlflow.pyfunc.load_model(sys.argv[1])\n"
        "answer = model.predict(pandas.DataFrame({'image': json.load(open(sys.argv[2]))}))\n"
        "print(answer.to_json(orient='split'))\n"
    )
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, inputs.trained / "mlflow_model", tmp_path / "images.json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "MLFLOW_TRACKING_URI": ""},
    )
    assert finished.returncode == 0, finished.stderr
    given = json.loads(finished.stdout.splitlines()[-1])
    check({"columns": given["columns"], "result": given["data"]}, expected)


def test_an_export_without_its_library_is_reported_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = Inputs(tmp_path).make()
    monkeypatch.setattr(exports, "find_spec", lambda name: None if name == "onnx" else name)
    assert inputs.fit(export="onnx") == 1
    assert "--export onnx needs the package 'onnx'" in error_text(inputs.outputs)
    assert not (inputs.outputs / "metrics.jsonl").exists()


def test_an_export_that_fails_does_not_lose_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = Inputs(tmp_path).make()

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(exports, "_export_onnx", fail)
    assert inputs.fit(export="onnx") == 1
    assert "cannot be exported to onnx: no such operator" in error_text(inputs.outputs)
    assert not inputs.trained.exists()
    assert (inputs.outputs / "checkpoints" / "best" / "model").is_file()


def test_a_disk_that_is_full_is_no_fault_of_the_format(tmp_path: Path) -> None:
    description = NetworkDescription("torchvision.models", "squeezenet1_1", {"num_classes": 2})
    (tmp_path / "model.onnx").symlink_to("/dev/full")
    what = {"labels": ["a", "b"], "mean": [0.5] * 3, "std": [0.5] * 3, "image_size": (32, 32)}
    with pytest.raises(OSError, match="No space left on device"):
        exports.export("onnx", tmp_path, description.build(), description, **what)


@pytest.mark.parametrize(
    ("module", "name", "arguments"), [("os", "makedirs", {"name": "made"}), ("builtins", "open", {"file": "made"})]
)
def test_a_model_that_names_another_function_is_not_served(
    module: str, name: str, arguments: dict[str, str], trained: Inputs, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(trained.trained, model)
    yaml = YAML(typ="safe")
    spec = yaml.load((model / "model_spec.yaml").read_text(encoding="utf-8"))
    given = {key: str(tmp_path / value) for key, value in arguments.items()}
    spec["flavor_extras"] = {**spec["flavor_extras"], "module": module, "class": name, "init_params": given}
    with (model / "model_spec.yaml").open("w", encoding="utf-8") as file:
        yaml.dump(spec, file)
    with pytest.raises(ValueError, match="neither a class of networks nor a builder"):
        ServedModel(model)
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
    trained: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    shutil.copytree(trained.trained, model)
    (tmp_path / "somebodys_package.py").write_text("from torchvision.models import resnet18 as network")
    text = (model / "model_spec.yaml").read_text(encoding="utf-8")
    text = text.replace("module: torchvision.models", "module: somebodys_package").replace(
        "class: resnet18", "class: network"
    )
    (model / "model_spec.yaml").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="TRUST_MODEL_CODE"):
        ServedModel(model)
    assert "somebodys_package" not in sys.modules
    monkeypatch.setenv("TRUST_MODEL_CODE", "1")
    assert len(ServedModel(model).answer([Image.new("RGB", (32, 32))])["result"][0]) == 4


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
