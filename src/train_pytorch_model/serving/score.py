"""Scoring script for an online endpoint of Azure Machine Learning: serves the model in the same folder.

The body of a request is an image file, multipart/form-data with image files, or JSON: a list of
`{"image": "<base64 of an image file>"}`, `{"data": […]}` with such a list, or the forms of MLflow and AutoML. The
response is `{"columns": […], "result": [[…], …]}`, with one row per image: the probability of each class and the
label. A model of several labels gives a list of labels. With `"explain": true` beside `data`, the response also has
`explanations`: for each row a heat map, the base64 of a PNG. Images of requests that come at the same time are computed
in one batch.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from azureml_inference_server_http.api.aml_request import rawhttp
from azureml_inference_server_http.api.aml_response import AMLResponse

sys.path.insert(0, str(Path(__file__).parent))
from served_batches import Batches, BusyError
from served_explanations import explained_answer
from served_images import BadImageError
from served_json import EXPLAIN, BadRequestError, refuse_misplaced
from served_model import MAX_BATCH_IMAGES, MAX_BATCH_PIXELS, BrokenDeviceError, OutOfMemoryError, ServedModel
from served_requests import explains, read_body, read_images

logger = logging.getLogger(__name__)

_MAX_REQUESTS = 32
_MAX_WAIT_SECONDS = 30.0
# How long the process may take to answer its other requests when it ends.
_END_SECONDS = 10.0
_TRY_AGAIN = {"Retry-After": "1"}
_MODEL: ServedModel | None = None
_BATCHES: Batches | None = None
# Set once the GPU has failed: this process only waits for its end, and whatever still reaches it is for the next one.
_ENDING = threading.Event()


def init() -> None:
    """Load the model. The server calls it once, at its start."""
    global _MODEL, _BATCHES
    root = Path(os.environ.get("AZUREML_MODEL_DIR", Path(__file__).parent))
    found = sorted(root.rglob("model_spec.yaml"))
    if not found:
        raise FileNotFoundError(f"there is no model_spec.yaml under {root}")
    _ENDING.clear()
    _MODEL = ServedModel(found[0].parent)
    _BATCHES = Batches(
        _MODEL.probabilities,
        max_images=_number("SERVING_BATCH_SIZE", MAX_BATCH_IMAGES),
        max_pixels=MAX_BATCH_PIXELS,
        max_requests=_number("SERVING_MAX_REQUESTS", _MAX_REQUESTS),
        max_wait_seconds=_MAX_WAIT_SECONDS,
    )


def _number(name: str, default: int) -> int:
    """The value of an environment variable, at least 1."""
    value = os.environ.get(name, str(default))
    if not value.isdecimal() or int(value) < 1:
        raise ValueError(f"the environment variable {name} should be a whole number of at least 1, but is {value!r}")
    return int(value)


@rawhttp  # type: ignore[untyped-decorator]
def run(request: Any) -> Any:
    """Respond to one request."""
    assert _MODEL is not None, "init() must run first"
    assert _BATCHES is not None
    if _ENDING.is_set():
        return _failure(503, "the server restarts; try again later", _TRY_AGAIN)
    try:
        body = read_body(request.stream, request.headers.get("Content-Encoding"))
        with _BATCHES.place():
            refuse_misplaced(request.args.get(EXPLAIN), "the address")
            images = read_images(body, request.headers.get("Content-Type"), _MODEL.geometry)
            if explains(body):
                answer = explained_answer(_MODEL, images, _BATCHES.compute)
            else:
                answer = _MODEL.answer(images, _BATCHES.compute)
        return AMLResponse(answer, 200, json_str=True)
    except BadRequestError as error:
        return _failure(error.status, error)
    except BadImageError as error:
        return _failure(400, error)
    except BusyError as error:
        return _failure(503, error, _TRY_AGAIN)
    except OutOfMemoryError as error:
        logger.exception("The memory does not suffice for a request.")
        return _failure(500, f"the server has too little memory for this request: {error}")
    except BrokenDeviceError as error:
        logger.exception("The GPU has failed. This process ends, so that the server starts a new one.")
        _end_process()
        return _failure(500, f"the GPU of the server has failed, and the server restarts: {error}")


def _failure(status: int, error: object, headers: dict[str, str] | None = None) -> Any:
    return AMLResponse({"error": str(error)}, status, headers or {}, json_str=True)


def _end_process() -> None:
    """End this worker of the server after the requests that it is answering. The server starts another one."""
    _ENDING.set()
    os.kill(os.getpid(), signal.SIGTERM)
    timer = threading.Timer(_END_SECONDS, os._exit, (1,))
    timer.daemon = True
    timer.start()
