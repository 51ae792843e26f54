"""Hooks of MkDocs: pages from files outside `docs/`, and links to such files."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
# Files outside docs/ that are pages of the site.
PAGES = {"benchmarks/RESULTS.md": "benchmarks.md", "CHANGELOG.md": "changelog.md"}
SOURCES = {page: source for source, page in PAGES.items()}
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Change links between files of the repository to links between pages; a file without a page is only named."""
    here = posixpath.dirname(SOURCES.get(page.file.src_uri, f"docs/{page.file.src_uri}"))

    def replaced(match: re.Match[str]) -> str:
        text, target = match.groups()
        path, hash_sign, anchor = target.partition("#")
        if not path or "://" in path or path.startswith("mailto:"):
            return match[0]
        in_repository = posixpath.normpath(posixpath.join(here, path))
        if in_repository in PAGES:
            return f"[{text}]({PAGES[in_repository]}{hash_sign}{anchor})"
        if in_repository.startswith("docs/"):
            return f"[{text}]({in_repository.removeprefix('docs/')}{hash_sign}{anchor})"
        return text if text.startswith("`") else f"{text} (`{in_repository}`)"

    return _LINK.sub(replaced, markdown)
