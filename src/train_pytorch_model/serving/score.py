"""Scoring script for an online endpoint of Azure Machine Learning: serves the model in the same folder.

The body of a request is a JSON list of `{"image": "<base64 of an image file>"}`, or `{"data": […]}` with such a list,
or an image file. The response is `{"columns": […], "result": [[…], …]}`, with one row per image: the probability of
each class and the label.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from azureml_inference_server_http.api.aml_request import rawhttp
from azureml_inference_server_http.api.aml_response import AMLResponse

sys.path.insert(0, str(Path(__file__).parent))
from served_model import BadImageError, ServedModel, decode, decode_base64

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_ENTRIES = 1000
_MODEL: ServedModel | None = None


class BadRequestError(Exception):
    """An invalid request; the message says why."""


def init() -> None:
    """Load the model. The server calls it once, at its start."""
    global _MODEL
    root = Path(os.environ.get("AZUREML_MODEL_DIR", Path(__file__).parent))
    found = sorted(root.rglob("model_spec.yaml"))
    if not found:
        raise FileNotFoundError(f"there is no model_spec.yaml under {root}")
    _MODEL = ServedModel(found[0].parent)


@rawhttp  # type: ignore[untyped-decorator]
def run(request: Any) -> Any:
    """Respond to one request."""
    assert _MODEL is not None, "init() must run first"
    try:
        return AMLResponse(_MODEL.answer(_read_images(request.get_data())), 200, json_str=True)
    except (BadRequestError, BadImageError) as error:
        return AMLResponse({"error": str(error)}, 400, json_str=True)


def _read_images(body: bytes) -> Iterator[Any]:
    """Iterate over the images of a request, so that only one at a time is decoded in memory."""
    if not body:
        raise BadRequestError("the body is empty; send a JSON list of images or an image file")
    if body.lstrip()[:1] not in (b"[", b"{"):
        yield decode(body)
        return
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"the body is not JSON: {error}") from error
    entries = document.get("data") if isinstance(document, dict) else document
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise BadRequestError('expected a list of {"image": "<base64>"}, or {"data": [...]} with such a list')
    if len(entries) > _MAX_ENTRIES:
        raise BadRequestError(f"a request may contain at most {_MAX_ENTRIES} images, but this one has {len(entries)}")
    for number, entry in enumerate(entries):
        try:
            yield decode_base64(entry.get("image"))
        except BadImageError as error:
            raise BadRequestError(f'"image" of entry {number}: {error}') from error
