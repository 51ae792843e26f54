"""Looks for known faults in everything that the locks name, and writes a bill of materials (`make audit`).

pip-audit asks the package index for the advisories on each version; a version that the index says nothing of is a
failure too, so that silence does not pass for health. The bill is CycloneDX, of what a user installs.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from ruamel.yaml import YAML

from tests import environments
from tests.making import ROOT

BILL = ROOT / "build" / "sbom.json"


def audit(tools: Path, lock: Path, *how: str) -> bool:
    """Print what is known of a lock's packages; say whether nothing is."""
    print(f"\n{lock.name}", flush=True)
    command = [tools / "pip-audit", "--requirement", lock, "--disable-pip", "--strict", "--progress-spinner=off", *how]
    return subprocess.run([str(part) for part in command]).returncode == 0


def write_bill(tools: Path, path: Path = BILL) -> Path:
    """Write what requirements.lock names, with the hashes that each file may have."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = ROOT / "requirements.lock"
    command = [tools / "cyclonedx-py", "requirements", lock, "--output-reproducible", "--output-file", path]
    subprocess.run([str(part) for part in command], check=True, stderr=subprocess.DEVNULL)
    return path


def main() -> int:
    """Audit all locks; 1 when there is anything to judge."""
    tools = environments.audit().parent
    print(f"Bill of materials: {write_bill(tools)}")
    locks = [
        ROOT / "requirements-dev.lock",
        ROOT / "requirements" / "docs.lock",
        *sorted(environments.HERE.glob("*.lock")),
    ]
    is_clean = [audit(tools, lock, "--require-hashes") for lock in locks]
    dependencies = YAML(typ="safe").load((ROOT / "conda_env.yaml").read_text(encoding="utf-8"))["dependencies"]
    packages = next(item["pip"] for item in dependencies if isinstance(item, dict))
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder) / "conda_env.yaml's pip section"
        pins.write_text("\n".join(packages), encoding="utf-8")
        is_clean.append(audit(tools, pins, "--no-deps"))
    return 0 if all(is_clean) else 1


if __name__ == "__main__":
    sys.exit(main())
