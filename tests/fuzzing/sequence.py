"""Runs convert, check, train and score one after the other: what convert accepts, the others must accept.

The only valid refusals of what convert accepted are those of `reasons_of_train`; the scoring takes everything.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from PIL import Image

from tests.fuzzing.recipes import SEQUENCE
from train_pytorch_model.cli.main import main as main_of_product

IN_SEQUENCE = ("convert-to-image-directory", "train", "score-image-model")
"""The commands that write the outputs, in their order."""
NOT_ACCEPTED = 98
"""The exit code if a command refused what convert accepted, for no valid reason."""
_LEAST_SIDE = 8
"""Pixels that the network of the fuzzing needs at least on each side."""


def main(argv: list[str]) -> int:
    """Run a command of the product, or all four."""
    return _run_all(argv[1:]) if argv[0] == SEQUENCE else main_of_product(argv)


def _run_all(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("input", "output", "untrained-model", "trained-model", "outputs"):
        parser.add_argument(f"--{name}-path" if name != "trained-model" else "--trained-model-path")
    parser.add_argument("--trained-model")
    parser.add_argument("--scored-dataset")
    given, more = parser.parse_known_args(argv)
    images = given.output_path
    outputs = ("--outputs-path", given.outputs_path)
    code = main_of_product(
        ["convert-to-image-directory", "--input-path", given.input_path, "--output-path", images, *outputs, *more]
    )
    if code:
        return code
    training = (
        *(
            "--untrained-model-path",
            given.untrained_model_path,
            "--train-data-path",
            images,
            "--valid-data-path",
            images,
        ),
        *("--trained-model-path", given.trained_model_path, *outputs, "--epochs", "1", "--batch-size", "6"),
    )
    reasons = reasons_of_train(Path(images))
    checked = main_of_product(["check", *training])
    trained = main_of_product(["train", *training, "--report", "off"])
    model = given.trained_model if trained else given.trained_model_path
    scoring = ("--trained-model", model, "--dataset", images, "--scored-dataset", given.scored_dataset)
    scored = main_of_product(["score-image-model", *scoring, "--outputs-path", f"{given.outputs_path}/score"])
    if bool(checked) != bool(trained) or (trained and not reasons) or scored:
        sys.stderr.write(f"check {checked}, train {trained}, score {scored}; valid reasons to refuse: {reasons}\n")
        return NOT_ACCEPTED
    if trained:  # a failure leaves no output, which holds for the last command alone
        for folder in (images, given.scored_dataset):
            shutil.rmtree(folder)
    return trained


def reasons_of_train(directory: Path) -> list[str]:
    """Return why a training may refuse images that convert has written; read without the product."""
    items = [json.loads(line) for line in (directory / "images.lst").read_text(encoding="utf-8").splitlines()]
    reasons = []
    if not all("category" in item for item in items):
        reasons.append("an image has no category")
    sizes = set()
    for item in items:
        with Image.open(directory / item["image_info"]["file_name"]) as image:
            sizes.add(image.size)
    if len(sizes) > 1:
        reasons.append(f"the images have different sizes: {sorted(sizes)[:5]}")
    if min(min(size) for size in sizes) < _LEAST_SIDE:
        reasons.append("an image is too small for the network")
    return reasons


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
