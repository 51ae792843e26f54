"""Files that a pipeline takes from the web."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.pipelines import command, message, pipeline, run


class Handler(SimpleHTTPRequestHandler):
    """Answers with the files of a folder, and with too little for `short.csv`."""

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        if self.path != "/short.csv":
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.wfile.write(b"little")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server of the folder `web`."""
    monkeypatch.setenv("no_proxy", "*")
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "a table.csv").write_text("first\n")
    served = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path / "web")))
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.shutdown()
    served.server_close()
    thread.join()


def take(folder: Path, address: str, **more: object) -> Path:
    """Write a pipeline with a job that prints a file, which `more` describes further."""
    job = command("cat ${{inputs.i}}", inputs={"i": {"type": "uri_file", "path": address, **more}})
    return pipeline(folder / "p.yaml", {"a": job})


def test_a_file_behind_an_address_is_downloaded_once(tmp_path: Path, server: str) -> None:
    path = take(tmp_path, f"{server}/a%20table.csv?sv=1", mode="download")
    assert run(path, tmp_path, "--dry-run") == 0
    assert not (tmp_path / "run").exists()
    table, log = tmp_path / "web" / "a table.csv", tmp_path / "run" / "steps" / "a" / "log.txt"
    for text, flags, read in (
        ("first\n", (), "first\n"),
        ("second\n", (), "first\n"),
        ("third\n", ("--force",), "third\n"),
    ):
        table.write_text(text)
        assert run(path, tmp_path, *flags) == 0
        assert log.read_text() == read
    assert [file.name for file in (tmp_path / "run" / "downloads").rglob("*.*")] == ["a_table.csv"]


def test_an_input_of_the_pipeline_can_be_an_address(tmp_path: Path, server: str) -> None:
    job = command("cat ${{inputs.i}}", inputs={"i": "${{parent.inputs.table}}"})
    (tmp_path / "here.csv").write_text("here\n")
    path = pipeline(tmp_path / "p.yaml", {"a": job}, inputs={"table": {"type": "uri_file", "path": "./here.csv"}})
    assert run(path, tmp_path, "--input", f"table={server}/a%20table.csv") == 0
    assert (tmp_path / "run" / "steps" / "a" / "log.txt").read_text() == "first\n"


def test_a_file_that_cannot_be_downloaded_is_reported_before_anything_runs(tmp_path: Path, server: str) -> None:
    path = take(tmp_path, f"{server}/nowhere.csv?sig=a-secret-signature")
    assert run(path, tmp_path) == 1
    assert "/nowhere.csv?sig=*** cannot be downloaded (status 404); give a local path" in message(tmp_path)
    assert not (tmp_path / "run").exists()


def test_a_download_that_ends_early_is_no_file(tmp_path: Path, server: str) -> None:
    assert run(take(tmp_path, f"{server}/short.csv"), tmp_path) == 1
    assert "short.csv (it ended after 6 of 100 bytes)" in message(tmp_path)
    assert not list((tmp_path / "run" / "downloads").rglob("short.csv"))
