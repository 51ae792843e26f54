"""A notebook, for real: live progress in its outputs, and log lines below."""

from __future__ import annotations

import re
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

CODE = """
import logging
import time
from train_pytorch_model.console.logs import configured_logging
from train_pytorch_model.console.progress import ProgressDisplay

handlers = list(logging.getLogger().handlers)
with configured_logging() as console:
    with ProgressDisplay(console).images("Training dataset", "decoded", 4) as advance:
        for _ in range(4):
            advance()
            time.sleep(0.5)
    logging.getLogger("train_pytorch_model").warning("the disk is nearly full")
assert logging.getLogger().handlers == handlers
"""


class Client(NotebookClient):
    """Records the content of every message that shows or updates a display."""

    def process_message(self, message: dict[str, Any], *arguments: Any) -> Any:
        if message["msg_type"] in {"display_data", "update_display_data"}:
            self.shown.append((message["content"]["transient"]["display_id"], message["content"]["data"]))
        return super().process_message(message, *arguments)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the notebook's own libraries
def test_a_notebook_shows_live_progress_and_log_lines() -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CODE)])
    client = Client(notebook, timeout=120)
    client.shown = []
    client.execute()
    assert len({display_id for display_id, _ in client.shown}) == 1
    bars = [data["text/plain"].strip() for _, data in client.shown]
    assert bars[-1] == ""  # removed at the end
    assert any(re.search(r"Training dataset: decoded.*[1-3]/4", bar) for bar in bars)
    assert any("━" in data["text/html"] and "<pre" in data["text/html"] for _, data in client.shown)
    streams = [output for output in notebook.cells[0].outputs if output.output_type == "stream"]
    assert {stream.name for stream in streams} == {"stdout"}
    text = "".join(stream.text for stream in streams)
    assert "Training dataset: 4 images decoded in" in text
    assert "WARNING the disk is nearly full" in text
