"""`python -m tests.environments NAME …`: builds environments of tests, so that no test's time contains it."""

from __future__ import annotations

import sys

import pytest

from tests import environments


def main() -> None:
    """Build what is named; where its Python is missing, the tests that need it say so."""
    for name in sys.argv[1:]:
        try:
            getattr(environments, name)()
        except (pytest.skip.Exception, pytest.fail.Exception) as missing:
            sys.stderr.write(f"The environment {name} cannot be built: {missing}\n")


if __name__ == "__main__":
    main()
