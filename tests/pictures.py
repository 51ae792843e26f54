"""`make pictures`: trains on the digits in a terminal, and writes the pictures of terminal and report into `docs/`."""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from samples.digits import write_image_folders
from tests import environments
from tests.making import ROOT, Inputs, initialize

WIDTH = 100
PAGE = (
    "<style>body{{margin:0;background:{background}}} pre{{margin:24px;font:15px/1.45 'Noto Sans Mono',"
    "'DejaVu Sans Mono',monospace;color:{foreground}}} {stylesheet}</style><pre>{code}</pre>"
)
# The terminal as its text ends; of each report what a first look at it sees.
SHOOT = """
import sys
from playwright.sync_api import sync_playwright
chromium, terminal, report, folder = sys.argv[1:]
with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
    page = browser.new_page(viewport={"width": 960, "height": 100})
    page.goto(terminal)
    page.screenshot(path=f"{folder}/terminal.png", full_page=True)
    for name, width, scheme in (("desktop", 1200, "light"), ("phone", 400, "dark")):
        page = browser.new_page(viewport={"width": width, "height": 2300}, color_scheme=scheme)
        page.goto(report)
        page.screenshot(path=f"{folder}/{name}.png")
    browser.close()
"""


def train_in_terminal(inputs: Inputs) -> str:
    """Train in a terminal; give what it showed late in the training, with its colours."""
    command = [sys.executable, "-m", "train_pytorch_model", *inputs.arguments(report="full", batch_size=16, epochs=6)]
    start = ["tmux", "-f", "/dev/null", "new-session", "-d", "-s", "pictures", "-x", str(WIDTH), "-y", "40"]
    subprocess.run([*start, *command], check=True, cwd=inputs.path)
    shown = ""
    while True:
        screen = subprocess.run(
            ["tmux", "capture-pane", "-e", "-p", "-t", "pictures"], capture_output=True, text=True, check=False
        )
        if screen.returncode:
            return shown
        if "5/6: " not in screen.stdout and "Training" in screen.stdout and "best: " in screen.stdout:
            shown = screen.stdout.rstrip()
        time.sleep(0.3)


def main() -> None:
    """Take the pictures."""
    chromium = environments.require_program("chromium")
    environments.require_program("tmux")
    docs = ROOT / "docs"
    docs.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = Inputs(folder)
        write_image_folders(folder)
        initialize(inputs.untrained, "resnet18", inputs.outputs)
        console = Console(width=WIDTH, record=True, file=io.StringIO())
        console.print(Text.from_ansi("$ python -m train_pytorch_model train …\n" + train_in_terminal(inputs)))
        terminal = folder / "terminal.html"
        terminal.write_text(console.export_html(theme=MONOKAI, code_format=PAGE), encoding="utf-8")
        report = inputs.outputs / "report" / "report.html"
        subprocess.run(
            [str(environments.browser()), "-c", SHOOT, chromium, terminal.as_uri(), report.as_uri(), name], check=True
        )
        Image.open(folder / "terminal.png").convert("RGB").quantize(64).save(docs / "terminal.png", optimize=True)
        desktop, phone = (Image.open(folder / f"{name}.png").convert("RGB") for name in ("desktop", "phone"))
        both = Image.new("RGB", (desktop.width + phone.width + 40, desktop.height), "white")
        both.paste(desktop, (0, 0))
        both.paste(phone, (desktop.width + 40, 0))
        both.quantize(256).save(docs / "report.png", optimize=True)


if __name__ == "__main__":
    main()
