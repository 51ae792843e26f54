"""Run benchmarks and write the results to RESULTS.md."""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path

from benchmarks import companions, distributed, growth, jobs, multilabel, serving, startup, steps

SECTIONS = {
    "steps": steps.measure,
    "jobs": jobs.measure,
    "growth": growth.measure,
    "startup": startup.measure,
    "companions": companions.measure,
    "distributed": distributed.measure,
    "serving": serving.measure,
    "multilabel": multilabel.measure,
}


def main() -> None:
    """Run the benchmarks of the named sections, or of all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="|".join(SECTIONS), help="The sections to run; all by default.")
    sections = parser.parse_args().sections or list(SECTIONS)
    unknown = sorted(set(sections) - set(SECTIONS))
    if unknown:
        parser.error(f"there is no section {', '.join(unknown)}")
    logging.basicConfig(level=logging.WARNING)
    for name in sections:
        with tempfile.TemporaryDirectory(prefix="benchmarks-") as work_path:
            SECTIONS[name](Path(work_path))


if __name__ == "__main__":
    main()
