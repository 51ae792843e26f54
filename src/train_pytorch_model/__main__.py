"""`python -m train_pytorch_model`, and the console script.

`python -m` puts the working directory first in `sys.path`. There, a file or folder named like a package (av, json,
random) would be imported in its place. Python has already found this package, so the directory is not needed.
"""

import os
import sys


def _forget_working_directory() -> None:
    """Remove the entries of `sys.path` that stand for the working directory and that nobody named.

    Only modules that Python imports at its start are used here: others could come from the working directory.
    """
    try:
        here = os.getcwd()  # noqa: PTH109
    except OSError:  # it was deleted, so nothing is imported from it
        return
    if not (getattr(sys.flags, "safe_path", False) or sys.flags.isolated) and sys.path[0] in ("", here):
        del sys.path[0]
    entries = [] if sys.flags.ignore_environment else os.environ.get("PYTHONPATH", "").split(os.pathsep)
    named = [os.path.abspath(entry) for entry in entries if entry]  # noqa: PTH100
    # An empty entry, as in PYTHONPATH=$UNSET:/code, stands for the working directory. These entries come first.
    if len(entries) > 1 and "" in entries and here not in named and here in sys.path:
        sys.path.remove(here)


_forget_working_directory()

from train_pytorch_model.cli.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
