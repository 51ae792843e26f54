"""Requests that ask an endpoint for heat maps."""

from __future__ import annotations

import base64
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests import odd_images
from tests.served_models import make_multilabel, write_model
from tests.serving_sources import served_explanations, served_json, served_model, served_requests

pytest.importorskip("captum")

BadRequestError = served_json.BadRequestError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), "torchvision.models", "squeezenet1_1", num_classes=2)


def pictures(count: int) -> list[Image.Image]:
    return [odd_images.noise(number).resize((64, 64)) for number in range(count)]


def explained(model: Any, count: int) -> dict[str, Any]:
    answer: dict[str, Any] = served_explanations.explained_answer(model, iter(pictures(count)), model.probabilities)
    return answer


def size_of(picture: str) -> tuple[int, int]:
    with Image.open(io.BytesIO(base64.b64decode(picture, validate=True))) as image:
        assert image.format == "PNG"
        return image.size


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"data": ["eA=="], "explain": True}, True),
        ({"image": "eA==", "explain": True}, True),
        ({"dataframe_split": {"columns": ["image"], "data": ["eA=="]}, "params": {"explain": True}}, True),
        ({"input_data": {"columns": ["image"], "data": ["eA=="]}, "params": {"explain": True}}, True),
        ({"input_data": {"columns": ["image"], "data": ["eA=="], "explain": True}}, True),
        ({"input_data": {"data": ["eA=="], "params": {"explain": True}}}, True),
        ({"input_data": ["eA=="], "params": ["explain"]}, False),
        ({"data": ["eA=="], "explain": False}, False),
        ({"data": ["eA=="], "explain": None}, False),
        ({"data": ["eA=="], "params": None}, False),
        (["explain"], False),
        ({"Inputs": {"data": ["eA=="], "explain": True}}, True),
        ({"Inputs": {"WebServiceInput0": [{"image": "eA=="}]}, "GlobalParameters": {"explain": True}}, True),
        ({"inputs": {"image": ["eA=="], "explain": True}}, True),
        ({"dataframe_split": {"columns": ["image"], "data": ["eA=="], "explain": True}}, True),
        ({"data": {"image": "eA==", "explain": True}}, True),
        ({"data": [{"image": "eA==", "explain": True}], "explain": True}, True),
        ({"data": [{"image": "eA==", "explain": False}, {"image": "eA==", "explain": None}]}, False),
        ({"columns": ["image", "explain"], "data": [["eA==", False]]}, False),
        ({"data": {"data": ["eA=="], "explain": False}, "params": {"explain": False}}, False),
    ],
)
def test_a_request_says_whether_it_wants_heat_maps(document: object, expected: bool) -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        assert served_requests.explains(json.dumps(document).encode(encoding)) is expected


def test_other_bodies_want_none() -> None:
    written = io.BytesIO()
    pictures(1)[0].save(written, "PNG")
    for body in (b"", written.getvalue(), b"image=eA==&explain=false", b"{ explain"):
        if body == b"{ explain":
            with pytest.raises(BadRequestError, match="the body is not JSON"):
                served_requests.explains(body)
        else:
            assert not served_requests.explains(body)


@pytest.mark.parametrize("value", ["true", 1, [True], {}])
def test_what_is_neither_true_nor_false_is_named(value: object) -> None:
    with pytest.raises(BadRequestError, match='"explain" should be true or false, but is ') as caught:
        served_requests.explains(json.dumps({"data": ["eA=="], "explain": value}).encode())
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ([{"image": "eA=="}, {"image": "eA==", "explain": True}], "entry 1"),
        ({"data": [{"image": "eA==", "explain": 1}]}, "entry 0"),
        ({"data": [{"image": "eA==", "params": {"explain": "true"}}]}, "entry 0"),
        ({"Inputs": {"WebServiceInput0": [{"image": "eA==", "explain": True}]}}, "entry 0"),
        ({"dataframe_records": [{"image": "eA==", "explain": True}]}, "entry 0"),
        ({"dataframe_split": {"columns": ["image", "explain"], "data": [["eA=="], ["eA==", True]]}}, "entry 1"),
        ({"columns": [{}, "explain"], "data": [["eA==", True]]}, "entry 0"),
        ({"instances": [{"image": {"b64": "eA==", "explain": True}}], "explain": False}, "entry 0"),
    ],
)
def test_what_is_asked_for_one_image_is_refused_with_the_right_place(document: object, place: str) -> None:
    with pytest.raises(BadRequestError, match=f'"explain" has no effect in {place}; put it beside "data": ') as caught:
        served_requests.explains(json.dumps(document).encode())
    assert caught.value.status == 400


def multipart(**fields: bytes) -> bytes:
    parts = [f'--X\r\nContent-Disposition: form-data; name="{name}"' for name in fields]
    parts = [part + '; filename="1.png"' if part.endswith('"file"') else part for part in parts]
    return b"".join(p.encode() + b"\r\n\r\n" + data + b"\r\n" for p, data in zip(parts, fields.values())) + b"--X--\r\n"


def test_a_form_cannot_ask_for_heat_maps() -> None:
    written = io.BytesIO()
    pictures(1)[0].save(written, "PNG")
    png, text = written.getvalue(), base64.b64encode(written.getvalue())
    document = json.dumps({"data": [text.decode()], "explain": True}).encode()
    for body in (
        b"explain=true&image=" + text,
        b"image=" + text + b"&explain=1",
        multipart(file=png, explain=b"true"),
        multipart(explain=b"true", image=text),
        multipart(file=document),
        multipart(image=document),
    ):
        assert not served_requests.explains(body)
        with pytest.raises(BadRequestError, match=r'"explain" has no effect in .*; put it beside "data"') as caught:
            list(served_requests.read_images(body, None))
        assert caught.value.status == 400
    for body in (b"explain=false&image=" + text, multipart(explain=b"false", image=text), multipart(file=png)):
        assert len(list(served_requests.read_images(body, None))) == 1


def test_an_answer_has_a_picture_beside_each_row(folder: Path) -> None:
    model = served_model.ServedModel(folder)
    plain = model.answer(pictures(3))
    answer = explained(model, 3)
    assert [size_of(picture) for picture in answer.pop("explanations")] == [(536, 332)] * 3
    assert answer == plain
    assert model.answer(pictures(3)) == plain


def test_each_label_of_a_row_has_a_picture(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "torchvision.models", "squeezenet1_1", num_classes=2)
    model = served_model.ServedModel(make_multilabel(folder, cat=0.0, dog=1.0))
    answer = explained(model, 1)
    assert answer["result"][0][-1] == ["cat"]
    assert list(answer["explanations"][0]) == ["cat"]
    assert min(size_of(answer["explanations"][0]["cat"])) >= 224


def test_too_many_images_are_refused(folder: Path) -> None:
    with pytest.raises(BadRequestError, match=r'with "explain" may contain at most 16 images') as caught:
        explained(served_model.ServedModel(folder), 17)
    assert caught.value.status == 400


def test_a_server_without_captum_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = served_model.ServedModel(folder)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(BadRequestError, match='cannot answer "explain": heat maps need the package captum') as caught:
        explained(model, 1)
    assert caught.value.status == 400
    assert len(model.answer(pictures(1))["result"]) == 1
