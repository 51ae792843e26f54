"""Write conda_env.yaml: `uv pip compile … | python write_conda_env.py > conda_env.yaml`."""

import sys

HEAD = """\
# Written by `make lock` from requirements/conda.in. The whole tree is listed, so that an image builds quickly and the
# same every time; pip is pinned because 23.0 backtracks through designer-core's tree for ten minutes and more.
name: train_pytorch_model
channels:
- conda-forge
dependencies:
- python=3.9
- pip=25.3
- pip:
"""


def main() -> None:
    """Read names and versions from standard input, write the environment to standard output."""
    packages = [line.split(";")[0].strip() for line in sys.stdin if "==" in line]
    sys.stdout.write(HEAD + "".join(f"  - {package}\n" for package in packages))


if __name__ == "__main__":
    main()
