"""The command lines of the designer's other modules. Nothing heavy is imported here."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from train_pytorch_model.cli.flags import add_boolean, add_folder, add_outputs_path, flag_of, parse_seed
from train_pytorch_model.modules.conversion_options import AUTO, TASKS
from train_pytorch_model.modules.transform_options import TransformOptions


def add_modules(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command of each module, in the order of a pipeline."""
    for add_module in (
        _add_convert,
        _add_split,
        _add_init_transformation,
        _add_apply_transformation,
        _add_initialize_model,
        _add_score,
        _add_evaluate,
    ):
        add_module(commands)


def _add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str, example: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=summary[0].lower() + summary[1:].rstrip("."),
        description=summary,
        epilog=f"Example: python -m train_pytorch_model {name} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _add_convert(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(
        commands,
        "convert-to-image-directory",
        "Write the images of a folder or an archive as an ImageDirectory.",
        "--input-path photos.zip --output-path image_directory",
    )
    parser.add_argument(
        "--input-path",
        type=Path,
        required=True,
        metavar="DIR|FILE",
        help="A folder or an archive (zip, or tar with any compression), one folder per class or flat. "
        "Labels can also come from a .csv, .tsv, .json or .jsonl file, such as COCO or a labeling tool's export.",
    )
    add_folder(parser, "output_path", "ImageDirectory to write.")
    parser.add_argument(
        "--task",
        choices=TASKS,
        default=AUTO,
        metavar="|".join(TASKS),
        help="Whether an image has one label (multiclass) or any number of labels (multilabel). Default: %(default)s, "
        "the labels tell. Several rows or boxes of an image are several labels with multilabel only.",
    )
    parser.add_argument(
        "--label-separator",
        metavar="TEXT",
        help="What separates the labels of an image in a text, such as ';', or a word: blank, comma, tab, slash, "
        "semicolon or bar. It implies multilabel. Default: a semicolon or a vertical bar, if the labels tell.",
    )
    parser.add_argument(
        "--split",
        metavar="NAME",
        help="Convert one split: the images of the folder train, valid, test or similar, or the rows of a file of "
        "labels with this value in its column split. Default: all splits.",
    )
    add_boolean(
        parser,
        "allow_partial",
        "Convert what can be used, even if more than a tenth of the images, a class or a file of labels is left out.",
    )
    parser.add_argument(
        "--class-level",
        type=int,
        metavar="INT",
        help="Which folder on the path of an image is its class: 1 for the first below the input, -1 for the folder of "
        "the image. Default: the first level with several folders; an error if another could be meant.",
    )
    add_boolean(parser, "follow_links", "Follow links to files and folders outside of the input.")
    parser.add_argument(
        "--archive-encoding",
        metavar="NAME",
        help="Encoding of names in an archive that are neither marked as Unicode nor UTF-8, such as cp932 or cp437. "
        "Default: such names are an error.",
    )
    add_boolean(parser, "skip_unreadable_images", "Leave out any number of unreadable images, not only up to a tenth.")
    add_outputs_path(parser)


def _add_split(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(
        commands,
        "split-image-directory",
        "Split a labelled ImageDirectory into two, stratified by class or label.",
        "--src-path images --tgt-train-path train --tgt-test-path test --fraction 0.9",
    )
    add_folder(parser, "src_path", "ImageDirectory to split.")
    add_folder(parser, "tgt_train_path", "First ImageDirectory to write.")
    add_folder(parser, "tgt_test_path", "Second ImageDirectory to write.")
    parser.add_argument(
        "--fraction",
        type=float,
        default=0.9,
        metavar="FLOAT",
        help="Fraction of the images of each class or label in the first output. Default: %(default)s.",
    )
    parser.add_argument(
        "--random-seed", type=int, default=42, metavar="INT", help="Seed of the random choice. Default: %(default)s."
    )
    add_outputs_path(parser)


def _add_initialize_model(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(
        commands,
        "initialize-model",
        "Write an untrained classification network of torchvision or timm.",
        "--model-name densenet121 --untrained-model-path untrained_model --weights default",
    )
    parser.add_argument("--list", action=ListModels, help="Print the available networks and exit.")
    parser.add_argument(
        "--model-name",
        required=True,
        metavar="NAME",
        help="A name printed by --list, such as resnet18 or timm/vit_tiny_patch16_224.",
    )
    add_folder(parser, "untrained_model_path", "Folder to write.")
    parser.add_argument(
        "--weights",
        default="none",
        metavar="none|default|FILE|DIR",
        help="none for random weights, default for the library's best (downloaded), a file of weights, "
        "or a folder that contains the library's file. Default: %(default)s.",
    )
    for name, meaning in (("mean", "Mean"), ("std", "Standard deviation")):
        parser.add_argument(
            f"--weights-{name}",
            metavar="FLOAT[,FLOAT,FLOAT]",
            help=f"{meaning} of the pixels, between 0 and 1, that the weights were made for: a number, or three for "
            "red, green and blue. Default: that of the library's weights.",
        )
    add_boolean(parser, "pretrained", "The same as --weights default, as the retired modules called it.")
    add_boolean(parser, "memory_efficient", "DenseNet: recompute activations to save memory.")
    add_boolean(parser, "zero_init_residual", "ResNet: start each residual block as the identity.")
    parser.add_argument(
        "--random-seed", type=parse_seed, default=1, metavar="INT", help="Seed of random weights. Default: %(default)s."
    )
    add_outputs_path(parser)


class ListModels(argparse.Action):
    """Prints the available networks, as `--help` prints the flags."""

    def __init__(self, option_strings: list[str], dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, **kwargs)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print the networks and exit."""
        from train_pytorch_model.modules.initialize_model import list_models  # heavy imports wait until asked for

        rows = list_models()
        width = max(len(row.name) for row in rows)
        lines = [f"{'name':{width}}{'parameters':>14}{'input':>8}{'top-1':>9}"]
        for name, count, side, accuracy in rows:
            shown = "" if count is None else f"{count:,}", "" if accuracy is None else f"{accuracy:.2f} %"
            lines.append(f"{name:{width}}{shown[0]:>14}{side:>8}{shown[1]:>9}".rstrip())
        sys.stdout.write("\n".join(lines) + "\n")
        parser.exit()


def _add_score(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(
        commands,
        "score-image-model",
        "Score images with a trained model.",
        "--trained-model trained_model --dataset test --scored-dataset scored --csv",
    )
    add_folder(parser, "trained_model", "ModelDirectory.")
    add_folder(parser, "dataset", "ImageDirectory, labelled or not.")
    add_folder(parser, "scored_dataset", "Folder to write the table to.")
    parser.add_argument(
        "--precision",
        choices=("float32", "auto", "bfloat16", "float16"),
        default="float32",
        metavar="float32|auto|bfloat16|float16",
        help="Numeric precision. float32 computes what Score Image Model computes. Default: %(default)s.",
    )
    parser.add_argument(
        "--batch-size", type=int, default=16, metavar="INT", help="Number of images in one batch. Default: %(default)s."
    )
    add_boolean(parser, "csv", "Also write the table as _data.csv.")
    add_boolean(
        parser,
        "skip_unreadable_images",
        "Write a row with an error for an unreadable image, and do not fail.",
    )
    parser.add_argument(
        "--unknown-below",
        type=float,
        metavar="FLOAT",
        help="Give images whose highest probability is lower than this the label of --unknown-label instead of a "
        "class. In [0, 1]; the report of a training names values. Default: every image gets a class.",
    )
    parser.add_argument(
        "--unknown-label",
        default="Unknown",
        metavar="TEXT",
        help="Label of these images. Default: %(default)s.",
    )
    parser.add_argument(
        "--explanations",
        type=Path,
        metavar="DIR",
        help="Folder to write heat maps to, which show where in the image the model sees its label. They need captum "
        "and Python 3.10 or later.",
    )
    parser.add_argument(
        "--max-explanations",
        type=int,
        default=100,
        metavar="INT",
        help="Largest number of images with heat maps. The least certain images come first. Default: %(default)s.",
    )
    add_boolean(parser, "trust_model_code", "Allow the model to import any code.")
    add_outputs_path(parser)


def _add_init_transformation(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(
        commands,
        "init-image-transformation",
        "Choose operations on images and write them as a TransformationDirectory.",
        "--output-path transformation --resize True --size 256 --center-crop True --random-horizontal-flip True",
    )
    add_folder(parser, "output_path", "TransformationDirectory to write.")
    for option in fields(TransformOptions):
        description = option.metadata["description"]
        if option.default is False:
            add_boolean(parser, option.name, description)
        else:
            parser.add_argument(
                flag_of(option.name),
                type=int,
                default=option.default,
                metavar="INT",
                help=f"{description} Default: %(default)s.",
            )
    add_outputs_path(parser)


def _add_apply_transformation(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(
        commands,
        "apply-image-transformation",
        "Apply a transformation to every image of an ImageDirectory.",
        '--mode "For training" --input-image-transform-path transformation --input-image-dir-path images '
        "--output-path changed",
    )
    parser.add_argument(
        "--mode",
        choices=("For training", "For inference"),
        default="For training",
        metavar='"For training"|"For inference"',
        help="For inference skips random operations. Default: %(default)s.",
    )
    add_folder(parser, "input_image_transform_path", "TransformationDirectory.")
    add_folder(parser, "input_image_dir_path", "ImageDirectory.")
    add_folder(parser, "output_path", "ImageDirectory to write.")
    parser.add_argument(
        "--random-seed", type=int, default=1, metavar="INT", help="Seed of the random operations. Default: %(default)s."
    )
    add_outputs_path(parser)


def _add_evaluate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(
        commands,
        "evaluate-model",
        "Write metrics and plots of a scored dataset that has true labels.",
        "--scored-dataset scored --evaluation-path evaluation",
    )
    add_folder(parser, "scored_dataset", "Folder that score-image-model wrote.")
    add_folder(parser, "evaluation_path", "Folder to write.")
    add_outputs_path(parser)
