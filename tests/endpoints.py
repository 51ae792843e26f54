"""Serves a trained model with Azure's own inference server, and sends requests to it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ruamel.yaml import YAML

from tests import environments
from tests.jobs import free_port
from tests.making import ROOT, Inputs, read_json_lines

DEPLOYMENT = ROOT / "samples" / "deploy" / "deployment.yaml"


@contextmanager
def served(model: Path, folder: Path, **variables: str) -> Iterator[str]:
    """The address of a model's own score.py under the real server, away from this project.

    Args:
        model: the trained model.
        folder: an empty folder, where the server runs and writes `log.txt`.
        variables: environment variables, besides those of the sample deployment.
    """
    port = free_port()
    server = environments.inference_server().parent / "azmlinfsrv"
    command = [server, "--entry_script", model / "score.py", "--model_dir", model, "--port", port]
    environ = {**os.environ, **YAML(typ="safe").load(DEPLOYMENT)["environment_variables"], **variables}
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environ,
            start_new_session=True,
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
            process.wait(60)


def post(address: str, body: bytes | Iterator[bytes], **headers: str) -> tuple[int, dict[str, Any]]:
    """The status and the answer of a request; the names of headers have underscores for dashes."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(address, body, {"Content-Type": "application/json", **given})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def image_files(trained: Inputs) -> list[bytes]:
    """The validation images of a training."""
    items = read_json_lines(trained.valid / "images.lst")
    return [(trained.valid / item["image_info"]["file_name"]).read_bytes() for item in items]  # type: ignore[index]


def as_json(files: list[bytes], prefix: str = "") -> list[dict[str, str]]:
    """The usual body of a request."""
    return [{"image": prefix + base64.b64encode(file).decode()} for file in files]


def check(answer: dict[str, Any], expected: pd.DataFrame) -> None:
    """Compare an answer with rows of a scored table. The size of a batch changes the rounding of float32."""
    names = [name for name in expected if name.startswith("Scored")]
    assert answer["columns"] == names
    for row, given in zip(expected[names].itertuples(index=False), answer["result"]):
        assert given[:-1] == pytest.approx(list(row)[:-1], abs=1e-6)
        assert given[-1] == row[-1]
    assert len(answer["result"]) == len(expected)
