"""Builds the documentation as a site (`make docs`): strictly, so that a broken link is an error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests import environments
from tests.making import ROOT

SITE = ROOT / "site"
# A proxy that does not exist: every download fails.
_NOWHERE = "http://127.0.0.1:9"


def build(folder: Path = SITE) -> subprocess.CompletedProcess[str]:
    """Build the site into a folder."""
    command = [environments.docs(), "-m", "mkdocs", "build", "--strict", "--clean", "--site-dir", folder]
    variables = {**os.environ, "HTTPS_PROXY": _NOWHERE, "HTTP_PROXY": _NOWHERE}
    return subprocess.run(
        [str(part) for part in command], cwd=ROOT, env=variables, capture_output=True, text=True, check=False
    )


def main() -> int:
    """Build the site and say where it is."""
    result = build()
    sys.stdout.write(result.stdout + result.stderr)
    if result.returncode == 0:
        sys.stdout.write(f"The site is in {SITE / 'index.html'}\n")
    return result.returncode


if __name__ == "__main__":
    sys.exit(main())
