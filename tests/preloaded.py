"""What processes that tests fork have imported when they begin; see tests/processes.py."""

from __future__ import annotations

import gc
import importlib
import pkgutil

from PIL import Image

import train_pytorch_model

# These import what only Azure's server or MLflow has, or end the process.
_NOT_IMPORTED = (".__main__", ".mlflow_loader", ".score")

for _module in pkgutil.walk_packages(train_pytorch_model.__path__, "train_pytorch_model."):
    if not _module.name.endswith(_NOT_IMPORTED) and ".serving.served_" not in _module.name:
        importlib.import_module(_module.name)
Image.init()
# What stays for good need not be visited, and so not be copied, by the garbage collector of each child.
gc.collect()
gc.freeze()
