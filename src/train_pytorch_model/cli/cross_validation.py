"""The command line of cross-validate. Nothing heavy is imported here."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from train_pytorch_model.cli.flags import add_boolean, add_folder, add_outputs_path, add_parameter
from train_pytorch_model.parameters import TrainingParameters

_EXAMPLE = """\
Example: python -m train_pytorch_model cross-validate --untrained-model-path untrained_model --data-path images \\
  --cross-validation-path cross_validation --scored-dataset predictions --folds 5 --head-only"""
# Parameters that mean something else for the folds than for a single run.
DESCRIPTIONS = {
    "random_seed": "Any integer. The same seed gives the same folds and models. none draws a new seed for each run.",
    "resume": "Go on with the finished folds and checkpoints in --folds-path: auto if they belong to the same "
    "cross-validation, never, or require to fail if there are none.",
    "report": "Content of the report of each fold: off for none, basic for metrics and figures, full for images too. "
    "auto is off.",
}


def add_cross_validate(commands: argparse._SubParsersAction[argparse.ArgumentParser], groups: tuple[str, ...]) -> None:
    """Add the command.

    Args:
        commands: of the parser.
        groups: the headings of the training parameters, in their order.
    """
    parser = commands.add_parser(
        "cross-validate",
        help="train once per fold of a dataset, and predict each image with the model that was not trained on it",
        description="Train once per fold of a dataset, predict each image with the model that was not trained on it, "
        "and write the mean and the standard deviation of each metric.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    data = parser.add_argument_group("data")
    add_folder(data, "untrained_model_path", "An UntrainedModelDirectory, or a ModelDirectory to train further.")
    add_folder(data, "data_path", "Labelled images: an ImageDirectory, or a folder with one subfolder per class.")
    add_folder(data, "cross_validation_path", "Folder to write the metrics to.")
    add_folder(data, "scored_dataset", "Folder to write the out-of-fold predictions to, for evaluate-model.")
    add_boolean(data, "skip_unreadable_images", "Skip images that cannot be read, and list them.")
    add_boolean(data, "trust_model_code", "Allow the untrained model to import any code.")
    folds = parser.add_argument_group("folds")
    folds.add_argument("--folds", type=int, default=5, metavar="INT", help="Number of folds. Default: %(default)s.")
    folds.add_argument(
        "--groups-path",
        type=Path,
        metavar="FILE",
        help="Table (.csv, .tsv, .json or .jsonl) with the group of each image, such as a patient or a site. The "
        "images of a group are in one fold. Default: each image is on its own.",
    )
    folds.add_argument(
        "--group-column",
        metavar="NAME",
        help="Column of the groups. Default: the only column besides that of the images.",
    )
    add_boolean(
        folds,
        "head_only",
        "Fit only the head, on the features of pretrained weights, and train no epoch.",
    )
    folds.add_argument(
        "--folds-path",
        type=Path,
        metavar="DIR",
        help="Folder for the models, metrics and checkpoints of the folds, where a run that was ended goes on. "
        "Default: folds in --outputs-path.",
    )
    headings = {title: parser.add_argument_group(title) for title in groups}
    for name, definition in TrainingParameters.definitions().items():
        # No command line of an older version has this command, so it needs no older names of flags.
        described = replace(definition, description=DESCRIPTIONS.get(name, definition.description), aliases=())
        add_parameter(headings[definition.group], name, described, TrainingParameters.default(name))
    add_outputs_path(headings["output"])
