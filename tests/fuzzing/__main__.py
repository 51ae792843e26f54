"""`python -m tests.fuzzing`: inputs for some minutes, findings as they come, and a table at the end."""

from __future__ import annotations

import argparse
import random
import sys

from tests.fuzzing.campaign import Campaign
from tests.fuzzing.runner import Runner


def main() -> int:
    """Fuzz; the exit code is 1 when anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="To run inputs in forked children.")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--real", type=int, default=0, metavar="N", help="Inputs more, by the real command.")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    with Runner() as runner:
        campaign = Campaign(runner, lambda line: print(line, flush=True))
        try:
            campaign.run_for(arguments.minutes, arguments.seed)
            campaign.run_count(arguments.real, arguments.seed + 2**32, is_real=True)
        finally:  # however it ends, with what it has seen
            print(campaign.table(), flush=True)
    return 1 if campaign.findings else 0


if __name__ == "__main__":
    sys.exit(main())
