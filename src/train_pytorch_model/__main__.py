"""`python -m train_pytorch_model`."""

import sys

from train_pytorch_model.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
