"""Runs one command after the other in one process, as a person would from photos to an evaluation.

`python -m tests.every_command PHOTOS` writes everything to the working directory and prints a line of JSON: the exit
code of each command.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from train_pytorch_model.cli.main import main

PIPELINE = """
type: pipeline
jobs:
  one:
    type: command
    component: ./one.yml
"""
COMPONENT = """
type: command
name: one
command: echo 1 > ${{outputs.it}}/it.txt
outputs: {it: {type: uri_folder}}
environment: azureml:any:1
"""
NETWORK = "shufflenet_v2_x0_5"
_TRAINING = (
    *("--untrained-model-path", "untrained", "--train-data-path", "train", "--valid-data-path", "valid"),
    *("--trained-model-path", "trained", "--epochs", "2", "--batch-size", "4", "--checkpoint-minutes", "0"),
    *("--precision", "float32"),
)
COMMANDS: dict[str, tuple[str, ...]] = {
    "convert": ("convert-to-image-directory", "--input-path", "PHOTOS", "--output-path", "images"),
    "split": (
        *("split-image-directory", "--src-path", "images", "--tgt-train-path", "parts", "--tgt-test-path", "valid"),
        *("--fraction", "0.5"),
    ),
    "init": ("init-image-transformation", "--output-path", "transform", "--resize", "true", "--size", "32"),
    "apply": (
        *("apply-image-transformation", "--input-image-transform-path", "transform"),
        *("--input-image-dir-path", "parts", "--output-path", "train"),
    ),
    "initialize": ("initialize-model", "--model-name", NETWORK, "--untrained-model-path", "untrained"),
    "check": ("check", *_TRAINING),
    "train": ("train", *_TRAINING),
    "score": ("score-image-model", "--trained-model", "trained", "--dataset", "valid", "--scored-dataset", "scored"),
    "evaluate": ("evaluate-model", "--scored-dataset", "scored", "--evaluation-path", "evaluation"),
    "pipeline": ("run-pipeline", "pipeline.yml", "--output-path", "run"),
}


def run(photos: str) -> dict[str, int]:
    """Run every command; return their exit codes."""
    Path("pipeline.yml").write_text(PIPELINE, encoding="utf-8")
    Path("one.yml").write_text(COMPONENT, encoding="utf-8")
    return {name: main([photos if word == "PHOTOS" else word for word in words]) for name, words in COMMANDS.items()}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(sys.argv[1])) + "\n")
