"""A trained model served by Azure's own inference server says what Score Image Model says."""

from __future__ import annotations

import base64
import gzip
import importlib
import io
import json
import os
import shutil
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from tests import environments, odd_images, serving_sources
from tests.endpoints import as_json, check, image_files, post, served
from tests.making import Inputs, run_here
from tests.served_models import write_model, write_network

CLASSES = ("007", "<b>", "owl")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    inputs = Inputs(tmp_path_factory.mktemp("served")).make("resnet18", classes=CLASSES, size=48)
    assert inputs.fit(epochs=2, learning_rate=0.01) == 0
    return inputs


@pytest.fixture(scope="module")
def scored(trained: Inputs) -> pd.DataFrame:
    """What Score says of the validation images."""
    ports = {"trained_model": trained.trained, "dataset": trained.valid, "scored_dataset": trained.path / "scored"}
    assert run_here("score-image-model", **ports, outputs_path=trained.outputs) == 0
    return pd.read_parquet(trained.path / "scored" / "_data.parquet")


@pytest.fixture(scope="module")
def endpoint(trained: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(trained.trained, tmp_path_factory.mktemp("server")) as address:
        yield address


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
    status, answer = post(endpoint, image_files(trained)[3], Content_Type="image/png")
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


@pytest.mark.environment
def test_other_forms_reach_the_scoring_script_as_they_were_sent(
    endpoint: str, trained: Inputs, scored: pd.DataFrame
) -> None:
    files = image_files(trained)[:2]
    parts = [b'--X\r\nContent-Disposition: form-data; name="f"; filename="1"\r\n\r\n' + file for file in files]
    body = b"\r\n".join([*parts, b"--X--\r\n"])
    for status, answer in (
        post(endpoint, body, Content_Type="multipart/form-data; boundary=X"),
        post(endpoint, gzip.compress(json.dumps(as_json(files)).encode()), Content_Encoding="gzip"),
        post(endpoint, iter([body[:100], body[100:]]), Content_Type="multipart/form-data; boundary=X"),  # in chunks
    ):
        assert status == 200
        check(answer, scored.iloc[:2])
    status, answer = post(endpoint, bytes(101 * 2**20))
    assert status == 413
    assert "larger than 100 MiB" in answer["error"]


@pytest.mark.environment
def test_the_other_addresses_of_the_server_are_as_before(endpoint: str) -> None:
    root = endpoint.removesuffix("/score")
    with urllib.request.urlopen(f"{root}/", timeout=20) as answer:
        assert answer.read() == b"Healthy"
    with urllib.request.urlopen(f"{root}/swagger.json", timeout=20) as answer:
        assert json.loads(answer.read())["swagger"] == "2.0"
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(endpoint, timeout=20)
    assert caught.value.code == 400
    assert "the body is empty" in json.loads(caught.value.read())["error"]


def square(grey: int) -> bytes:
    return odd_images.saved(Image.new("L", (8, 8), grey), "PNG")


@pytest.mark.environment
def test_a_busy_server_says_so_and_a_broken_one_starts_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = tmp_path / "begun", tmp_path / "go_on"
    line = (
        f"if x.mean() > 0.9: open({str(begun)!r}, 'w').close()\n"
        f"        while x.mean() > 0.9 and not os.path.exists({str(go_on)!r}): time.sleep(0.02)\n"
        "        if x.mean() < -0.9: raise RuntimeError('CUDA error: device-side assert triggered')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = write_model(tmp_path / "model", write_network(tmp_path, line), "Network")
    (tmp_path / "server").mkdir()
    variables = {"PYTHONPATH": str(tmp_path), "TRUST_MODEL_CODE": "1", "SERVING_MAX_REQUESTS": "1"}
    with served(model, tmp_path / "server", **variables) as address, ThreadPoolExecutor(1) as pool:
        slow = pool.submit(post, address, square(255))
        while not begun.exists() and not slow.done():
            time.sleep(0.02)
        assert post(address, square(128)) == (
            503,
            {"error": "the server is busy: 1 requests are being answered; try again later"},
        )
        go_on.touch()
        assert slow.result()[0] == 200
        status, answer = post(address, square(0))
        assert status == 500
        assert answer["error"].endswith("has failed, and the server restarts: CUDA error: device-side assert triggered")
        for _ in range(100):
            with suppress(OSError):  # while there is no process
                if post(address, square(128))[0] == 200:
                    break
            time.sleep(0.2)
        assert (tmp_path / "server" / "log.txt").read_text().count("Booting worker") == 2
        assert post(address, square(128))[0] == 200


@pytest.fixture
def answer_of(
    trained: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, dict[str, Any]]]:
    """The scoring script in this process, with the server's own classes around it: the answer to a body."""
    packages = next((environments.inference_server().parent.parent / "lib").glob("python*")) / "site-packages"
    monkeypatch.setattr("sys.path", [*sys.path, str(packages)])
    assert serving_sources  # imported before, so that the script finds what lies beside it
    score = importlib.import_module("score")
    request_class = importlib.import_module("flask").Request
    shutil.copytree(trained.trained, tmp_path / "registered" / "1")
    monkeypatch.setenv("AZUREML_MODEL_DIR", str(tmp_path))
    score.init()

    def answer(body: bytes, query: str = "") -> tuple[int, dict[str, Any]]:
        response = score.run(request_class.from_values(data=body, query_string=query))
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


@pytest.mark.environment
def test_the_scoring_script_says_what_is_wrong_with_a_request(
    answer_of: Callable[[bytes], tuple[int, dict[str, Any]]],
) -> None:
    for body, words in {
        b"": "the body is empty",
        b"hello": "it is not a readable image",
        b'[{"image": null}]': '"image" of entry 0: expected the base64 of an image file, but got null',
        odd_images.truncated("png"): "it is not a readable image: PNG: ",
    }.items():
        status, answer = answer_of(body)
        assert status == 400
        assert words in answer["error"]


@pytest.mark.environment
def test_the_scoring_script_gives_heat_maps_to_those_who_ask(
    answer_of: Callable[..., tuple[int, dict[str, Any]]], trained: Inputs, scored: pd.DataFrame
) -> None:
    pytest.importorskip("captum")
    files = image_files(trained)[:2]
    status, answer = answer_of(json.dumps({"data": as_json(files), "explain": True}).encode())
    assert status == 200
    for picture in answer.pop("explanations"):
        assert Image.open(io.BytesIO(base64.b64decode(picture))).format == "PNG"
    check(answer, scored.iloc[:2])
    status, answer = answer_of(json.dumps({"data": as_json(files), "explain": "yes"}).encode())
    assert (status, answer) == (400, {"error": "\"explain\" should be true or false, but is 'yes'"})
    status, answer = answer_of(files[0], "explain=true")
    assert (status, answer["error"].partition(";")[0]) == (400, '"explain" has no effect in the address')


@pytest.mark.environment
@pytest.mark.parametrize(("name", "value"), [("SERVING_BATCH_SIZE", "0"), ("SERVING_MAX_REQUESTS", "many")])
def test_a_setting_of_the_scoring_script_that_is_no_number_is_named(
    name: str, value: str, answer_of: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"{name} should be a whole number of at least 1, but is '{value}'"):
        importlib.import_module("score").init()


@pytest.mark.environment
@pytest.mark.parametrize(("words", "ends"), [("CUDA out of memory", False), ("CUDA error: unknown error", True)])
def test_faults_of_the_server_are_not_faults_of_the_request(
    words: str,
    ends: bool,
    answer_of: Callable[[bytes], tuple[int, dict[str, Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TRUST_MODEL_CODE", "1")
    module = write_network(tmp_path, f"raise RuntimeError({words!r})")
    monkeypatch.setenv("AZUREML_MODEL_DIR", str(write_model(tmp_path / "faulty", module, "Network")))
    signals: list[int] = []
    monkeypatch.setattr(os, "kill", lambda _, number: signals.append(number))
    monkeypatch.setattr(os, "_exit", signals.append)
    importlib.import_module("score").init()
    answer = answer_of(square(0))
    assert answer[0] == 500
    assert words in answer[1]["error"]
    assert signals == ([signal.SIGTERM] if ends else [])
    again = answer_of(square(0))
    if ends:  # what reaches a process that is about to end is sent to the next one
        assert again == (503, {"error": "the server restarts; try again later"})
    else:
        assert again == answer


@pytest.mark.environment
def test_the_scoring_script_does_not_start_without_a_model(
    answer_of: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("AZUREML_MODEL_DIR", str(tmp_path / "empty"))
    with pytest.raises(FileNotFoundError, match=r"there is no model_spec.yaml under"):
        importlib.import_module("score").init()


def test_the_loader_of_mlflow_takes_images_in_base64_and_as_bytes(trained: Inputs, scored: pd.DataFrame) -> None:
    model = importlib.import_module("mlflow_loader")._load_pyfunc(str(trained.trained))
    files = image_files(trained)
    images = [*files[:5], *(entry["image"] for entry in as_json(files[5:]))]
    given = model.predict(pd.DataFrame({"image": images})).to_dict("split")
    check({"columns": given["columns"], "result": given["data"]}, scored)
