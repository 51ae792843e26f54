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
        ([{"image": "eA==", "explain": True}], False),
    ],
)
def test_a_request_says_whether_it_wants_heat_maps(document: object, expected: bool) -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        assert served_requests.explains(json.dumps(document).encode(encoding)) is expected


def test_other_bodies_want_none() -> None:
    written = io.BytesIO()
    pictures(1)[0].save(written, "PNG")
    for body in (b"", written.getvalue(), b"explain=true&image=eA==", b"{ explain"):
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
