"""Opens a report as a person would, and prints what it finds as JSON: `browse_report.py CHROMIUM REPORT PICTURES`.

It runs in the environment `browser`, without the project.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, sync_playwright

SIZES = {"phone": (390, 844), "desktop": (1280, 900)}
# What of the page is wider than the window.
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
COLUMN = "column => [...document.querySelectorAll('table.sortable tbody tr')].map(row => row.cells[column].textContent)"


def browse(browser: Browser, report: Path, size: str, scheme: str, pictures: Path) -> dict[str, Any]:
    """What one person sees."""
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    messages: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report.as_uri())
    page.evaluate("Promise.allSettled([...document.images].map(image => image.decode()))")
    page.screenshot(path=str(pictures / f"{size}_{scheme}.png"), full_page=True)
    found: dict[str, Any] = {
        "overflow": page.evaluate(OVERFLOW),
        "background": page.evaluate("getComputedStyle(document.body).backgroundColor"),
        "broken_images": page.evaluate("[...document.images].filter(image => !image.naturalWidth).length"),
        "images": page.evaluate("document.images.length"),
        "sorted": {},
    }
    for name in ("Class", "Recall", "Training images"):
        header = page.locator("table.sortable thead th", has_text=name)
        column = header.evaluate("header => [...header.parentNode.children].indexOf(header)")
        for _ in range(2):
            header.locator("button").click()
            found["sorted"][f"{name} {header.get_attribute('aria-sort')}"] = page.evaluate(COLUMN, column)
    # Axe is put into the page, which the page's own policy forbids; so it looks at a copy that has none.
    bare = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, bypass_csp=True)
    copy = bare.new_page()
    copy.goto(report.as_uri())
    results = Axe().run(copy, options={"resultTypes": ["violations"]}).response
    found["violations"] = [f"{rule['id']}: {rule['nodes'][0]['html'][:200]}" for rule in results["violations"]]
    found["checked"] = [rule["id"] for rule in results["passes"]]
    found["messages"] = messages
    found["requests"] = [url for url in requests if not url.startswith("data:")]
    context.close()
    bare.close()
    return found


def main() -> None:
    """Look at it in every size and colour scheme."""
    chromium, report, pictures = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        found = {
            f"{size} {scheme}": browse(browser, report, size, scheme, pictures)
            for size in SIZES
            for scheme in ("light", "dark")
        }
        browser.close()
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
